// Products with packed weights, and what comes after them.

#include <cstring>

#include "abi.h"
#include "specs.h"
#include "tensors.h"
#include "torch_ops.h"

namespace hf_quant {
namespace {

// The arguments of all products: input, blocks and biases of up to three weights, spec.
struct Arguments {
  Tensor input, blocks_a, blocks_b, blocks_c, spec, bias_a, bias_b, bias_c;
  explicit Arguments(const Value* stack)
      : input(stack[0]), blocks_a(stack[1]), blocks_b(stack[2]), blocks_c(stack[3]), spec(stack[4]), bias_a(stack[5]),
        bias_b(stack[6]), bias_c(stack[7]) {}
  const Tensor& blocks(int i) const { return i == 0 ? blocks_a : i == 1 ? blocks_b : blocks_c; }
  const Tensor& bias(int i) const { return i == 0 ? bias_a : i == 1 ? bias_b : bias_c; }
};

// Blocks and biases of one program.
struct Parts {
  const Tensor* blocks[kMostWeights];
  const Tensor* biases[kMostWeights];
};

// Fill the steps of a block but for where its last output lies: one product, or two with an activation between them.
void set_block(const ProgramSpec& spec, const Parts& parts, const void* data, std::int64_t stride, std::int64_t rows,
               std::int32_t dtype, Step* steps) {
  const StepSpec& first = spec.steps[0];
  const StepSpec& last = spec.steps[spec.count - 1];
  const int inner = first.gated ? 2 : 1;
  require(first.weight_count == inner && (spec.count == 1 || last.weight_count == 1), "not the spec of a block");
  require(inner == 1 || first.weights[1].channels == first.weights[0].channels, "gate and up have different sizes");
  if (spec.count == 2) {
    require(last.width == first.weights[0].channels && !last.gated, "two steps do not fit together");
    require((first.mode == kFloatInput) == (last.mode == kFloatInput), "two steps have inputs of different kinds");
  }
  std::memset(steps, 0, 2 * sizeof *steps);
  for (int s = 0; s < spec.count; ++s) {
    set_input(spec.steps[s], &steps[s].input);
    steps[s].rows = rows;
    steps[s].output_dtype = dtype;
    steps[s].activation = spec.steps[s].activation;
    steps[s].gated = spec.steps[s].gated;
    steps[s].weight_count = spec.steps[s].weight_count;
  }
  steps[0].input.data = data;
  steps[0].input.stride = stride;
  steps[0].input.dtype = dtype;
  for (int w = 0; w < inner; ++w) {
    set_weight(first, first.weights[w], *parts.blocks[w], *parts.biases[w], &steps[0].weights[w]);
  }
  if (spec.count == 2) set_weight(last, last.weights[0], *parts.blocks[inner], *parts.biases[inner], &steps[1].weights[0]);
}

void run(const ProgramSpec& spec, Step* steps) {
  if (steps[0].rows > 0) check(hf_quant_run(steps, spec.count, torch.threads()));
}

}  // namespace

// (input, blocks, spec, bias, channels) -> output
void linear(Value* stack, std::uint64_t, std::uint64_t) {
  const Owned<4> owned(stack);
  const Tensor input(stack[0]), blocks(stack[1]), spec_tensor(stack[2]), bias(stack[3]);
  const ProgramSpec spec = spec_of(spec_tensor);
  const StepSpec& part = spec.steps[0];
  require(spec.count == 1 && part.weight_count == 1 && !part.gated, "not the spec of one weight");
  require_channels(stack[4], part.weights[0]);
  const RowsOf rows = rows_of(input, part.width);
  Step step;
  std::memset(&step, 0, sizeof step);
  set_input(part, &step.input);
  step.input.data = input.data;
  step.input.stride = rows.stride;
  step.input.dtype = step.output_dtype = float_dtype(input.dtype);
  step.rows = rows.rows;
  step.activation = part.activation;
  step.weight_count = 1;
  set_weight(part, part.weights[0], blocks, bias, &step.weights[0]);
  Made output = make(input, part.weights[0].channels, input.dtype, false, &step.weights[0].output);
  step.weights[0].output_stride = part.weights[0].channels;
  run(spec, &step);
  stack[0] = output.hand_on();
}

// (input, three blocks, spec, three biases, three times channels) -> three outputs, the last one empty where there are two weights
void linears(Value* stack, std::uint64_t, std::uint64_t) {
  const Owned<8> owned(stack);
  const Arguments given(stack);
  const ProgramSpec spec = spec_of(given.spec);
  const StepSpec& part = spec.steps[0];
  require(spec.count == 1 && part.weight_count >= 2 && part.weight_count <= kMostWeights && !part.gated,
          "not the spec of weights side by side");
  const RowsOf rows = rows_of(given.input, part.width);
  Step step;
  std::memset(&step, 0, sizeof step);
  set_input(part, &step.input);
  step.input.data = given.input.data;
  step.input.stride = rows.stride;
  step.input.dtype = step.output_dtype = float_dtype(given.input.dtype);
  step.rows = rows.rows;
  step.weight_count = part.weight_count;
  Made outputs[kMostWeights];
  for (int w = 0; w < kMostWeights; ++w) {
    const bool used = w < part.weight_count;
    const std::int64_t channels = used ? part.weights[w].channels : 0;
    void* data = nullptr;
    if (used) {
      require_channels(stack[8 + w], part.weights[w]);
      set_weight(part, part.weights[w], given.blocks(w), given.bias(w), &step.weights[w]);
    }
    outputs[w] = make(given.input, channels, given.input.dtype, false, &data);
    if (used) {
      step.weights[w].output = data;
      step.weights[w].output_stride = channels;
    }
  }
  run(spec, &step);
  for (int w = 0; w < kMostWeights; ++w) stack[w] = outputs[w].hand_on();
}

// (input, three blocks, spec, three biases, residual, weight and bias of a norm, its kind and epsilon, channels) -> output:
// one product, or two with an activation between them, plus residual, normalised
void block(Value* stack, std::uint64_t, std::uint64_t) {
  const Owned<11> owned(stack);
  const Arguments given(stack);
  const Tensor residual(stack[8]), norm_weight(stack[9]), norm_bias(stack[10]);
  const std::int64_t norm = static_cast<std::int64_t>(stack[11]);
  double epsilon;
  std::memcpy(&epsilon, &stack[12], sizeof epsilon);
  const ProgramSpec spec = spec_of(given.spec);
  const WeightSpec& made = spec.steps[spec.count - 1].weights[0];
  require_channels(stack[13], made);
  const RowsOf rows = rows_of(given.input, spec.steps[0].width);
  const Parts parts{{&given.blocks_a, &given.blocks_b, &given.blocks_c}, {&given.bias_a, &given.bias_b, &given.bias_c}};
  Step steps[2];
  set_block(spec, parts, given.input.data, rows.stride, rows.rows, float_dtype(given.input.dtype), steps);
  Step& final_step = steps[spec.count - 1];
  if (residual.count > 0) {
    const RowsOf added = rows_of(residual, made.channels);
    require(added.rows == rows.rows && residual.dtype == given.input.dtype, "the residual does not fit the output");
    final_step.residual = residual.data;
    final_step.residual_stride = added.stride;
  }
  if (norm != kNoNorm) {
    require(norm == kRmsNorm || norm == kLayerNorm, "no such norm");
    require(norm_weight.contiguous() && norm_weight.count == made.channels, "a norm's weight does not fit the output");
    final_step.post_norm = static_cast<std::int32_t>(norm);
    final_step.post_weight = norm_weight.data;
    final_step.post_dtype = float_dtype(norm_weight.dtype);
    final_step.post_epsilon = static_cast<float>(epsilon);
    if (norm_bias.count > 0) {
      require(norm_bias.contiguous() && norm_bias.count == made.channels && norm_bias.dtype == norm_weight.dtype,
              "a norm's bias does not fit");
      final_step.post_bias = norm_bias.data;
    }
  }
  Weight& out = final_step.weights[0];
  Made output = make(given.input, made.channels, given.input.dtype, false, &out.output);
  out.output_stride = made.channels;
  run(spec, steps);
  stack[0] = output.hand_on();
}

// (input, three blocks, spec, three biases, offsets, channels) -> output: rows of the input one expert after the other,
// each through a block of its own. Tensors hold those of all experts; rows beyond the last offset become zeros.
void experts(Value* stack, std::uint64_t, std::uint64_t) {
  const Owned<9> owned(stack);
  const Arguments given(stack);
  const Tensor offsets(stack[8]);
  const std::int64_t channels = static_cast<std::int64_t>(stack[9]);
  require(offsets.dtype == torch.int64() && offsets.dims == 1 && offsets.contiguous() && offsets.count >= 2,
          "offsets of experts are int64, one more than there are experts");
  const std::int64_t count = offsets.count - 1;
  require(given.spec.dims == 2 && given.spec.size[0] == count, "not a spec for each expert");
  require(given.input.dims == 2, "experts take rows");
  require(channels >= 1 && channels <= (1 << 28), "experts with no such number of channels");
  const std::int32_t dtype = float_dtype(given.input.dtype);
  const std::int64_t bytes = dtype == kFloat32 ? 4 : 2;
  void* data = nullptr;
  Made output = make(given.input, channels, given.input.dtype, false, &data);
  const auto* at = static_cast<const std::int64_t*>(offsets.data);
  require(at[0] == 0, "offsets of experts begin at 0");
  for (std::int64_t e = 0; e < count; ++e) {
    require(at[e] <= at[e + 1] && at[e + 1] <= given.input.size[0], "offsets of experts do not ascend within the rows");
  }
  const auto place = [&](std::int64_t row) { return static_cast<std::uint8_t*>(data) + row * channels * bytes; };
  for (std::int64_t e = 0; e < count; ++e) {
    const std::int64_t rows = at[e + 1] - at[e];
    if (rows == 0) continue;
    const ProgramSpec spec = spec_of(given.spec.row(e));
    const Tensor a = given.blocks_a.row(e), b = given.blocks_b.row(e), c = given.blocks_c.row(e);
    const Tensor bias_a = given.bias_a.row(e), bias_b = given.bias_b.row(e), bias_c = given.bias_c.row(e);
    const WeightSpec& made = spec.steps[spec.count - 1].weights[0];
    require_channels(stack[9], made);
    const std::int64_t stride = rows_of(given.input, spec.steps[0].width).stride;
    Step steps[2];
    const auto* first = static_cast<const std::uint8_t*>(given.input.data) + at[e] * stride * bytes;
    set_block(spec, {{&a, &b, &c}, {&bias_a, &bias_b, &bias_c}}, first, stride, rows, dtype, steps);
    Weight& out = steps[spec.count - 1].weights[0];
    out.output = place(at[e]);
    out.output_stride = channels;
    run(spec, steps);
  }
  const std::int64_t rest = given.input.size[0] - at[count];
  if (rest > 0) std::memset(place(at[count]), 0, static_cast<std::size_t>(rest * channels * bytes));
  stack[0] = output.hand_on();
}

}  // namespace hf_quant
