// The recurrence of one layer of an LSTM or a GRU in one direction, over all time steps.

#include <cstring>

#include "abi.h"
#include "specs.h"
#include "tensors.h"
#include "torch_ops.h"

namespace hf_quant {
namespace {

// Without branches, so that compilers make vectors of it; a NaN stays one.
inline float exponential(float x) {
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  const float shifted = x * 1.44269504088896341f + 12582912.0f;  // its low bits are the whole number
  const float whole = shifted - 12582912.0f;
  const float rest = (x - whole * 0.693359375f) - whole * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * rest + 1.3981999507e-3f;
  p = p * rest + 8.3334519073e-3f;
  p = p * rest + 4.1665795894e-2f;
  p = p * rest + 1.6666665459e-1f;
  p = p * rest + 5.0000001201e-1f;
  p = p * rest * rest + rest + 1.0f;
  std::uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits << 23) + 0x3F800000u;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

inline float tangent(float x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }

// Gates in torch's order: input, forget, cell, output.
void lstm_row(const float* __restrict gates, const float* __restrict product, float* __restrict cell,
              float* __restrict out, std::int64_t width) {
  for (std::int64_t j = 0; j < width; ++j) {
    const float in = sigmoid(gates[j] + product[j]);
    const float forget = sigmoid(gates[width + j] + product[width + j]);
    const float candidate = tangent(gates[2 * width + j] + product[2 * width + j]);
    const float shown = sigmoid(gates[3 * width + j] + product[3 * width + j]);
    cell[j] = forget * cell[j] + in * candidate;
    out[j] = shown * tangent(cell[j]);
  }
}

// Gates in torch's order: reset, update, new.
void gru_row(const float* __restrict gates, const float* __restrict product, float* __restrict hidden,
             std::int64_t width) {
  for (std::int64_t j = 0; j < width; ++j) {
    const float reset = sigmoid(gates[j] + product[j]);
    const float update = sigmoid(gates[width + j] + product[width + j]);
    const float candidate = tangent(gates[2 * width + j] + reset * product[2 * width + j]);
    hidden[j] = candidate + update * (hidden[j] - candidate);
  }
}

void require_floats(const Tensor& tensor, std::int64_t rows, std::int64_t width, const char* what) {
  require(tensor.dtype == torch.float32() && tensor.dims == 2 && tensor.contiguous() && tensor.size[0] == rows &&
              tensor.size[1] == width,
          what);
}

// Fill the step of a product of states with one weight, `width` wide, with `channels` outputs; `output` lies in rows of
// them.
void set_product(const Tensor& spec_tensor, const Tensor& blocks, const Tensor& bias, std::int64_t width,
                 std::int64_t channels, const float* input, float* output, Step* step) {
  const ProgramSpec spec = spec_of(spec_tensor);
  const StepSpec& part = spec.steps[0];
  require(spec.count == 1 && part.weight_count == 1 && !part.gated && part.activation == kNoActivation,
          "not the spec of one weight");
  require(part.width == width && part.weights[0].channels == channels, "a weight of a recurrence has another size");
  std::memset(step, 0, sizeof *step);
  set_input(part, &step->input);
  step->input.data = input;
  step->input.stride = width;
  step->input.dtype = step->output_dtype = kFloat32;
  step->weight_count = 1;
  set_weight(part, part.weights[0], blocks, bias, &step->weights[0]);
  step->weights[0].output = output;
  step->weights[0].output_stride = channels;
}

void run(Step* step, std::int64_t rows) {
  step->rows = rows;
  // Some hundred thousand multiplications take as long as threads need to start.
  const std::int64_t work = rows * step->input.width * step->weights[0].channels;
  if (rows > 0) check(hf_quant_run(step, 1, work < 1 << 18 ? 1 : torch.threads()));
}

}  // namespace

// (gates, hidden, cell, sizes, blocks, spec and bias of the hidden weight, the same of the projection, whether it is a
// GRU, whether it goes from the last step to the first) -> outputs, last hidden state, last cell state
void recurrent(Value* stack, std::uint64_t, std::uint64_t) {
  const Owned<10> owned(stack);
  const Tensor gates(stack[0]), hidden(stack[1]), cell(stack[2]), sizes(stack[3]), blocks(stack[4]), spec(stack[5]),
      bias(stack[6]), blocks_hr(stack[7]), spec_hr(stack[8]), bias_hr(stack[9]);
  const bool gru = stack[10] != 0, reverse = stack[11] != 0, projects = blocks_hr.count > 0;
  const std::int64_t kinds = gru ? 3 : 4;
  require(gates.dims == 2 && gates.size[1] > 0 && gates.size[1] % kinds == 0, "gates are no rows of all gates");
  require_floats(gates, gates.size[0], gates.size[1], "gates are contiguous float32");
  const std::int64_t width = gates.size[1] / kinds;
  require(hidden.dims == 2 && hidden.size[1] > 0 && hidden.size[1] <= width, "hidden states do not fit the gates");
  const std::int64_t batch = hidden.size[0], channels = hidden.size[1];
  require_floats(hidden, batch, channels, "hidden states are contiguous float32");
  require(gru ? cell.count == 0 && cell.dims == 1 && cell.dtype == torch.float32() : true, "a GRU has no cell states");
  if (!gru) require_floats(cell, batch, width, "cell states are contiguous float32, one for each gate");
  require(projects ? !gru : channels == width, "hidden states do not fit the gates");
  require(sizes.dtype == torch.int64() && sizes.dims == 1 && sizes.contiguous() && sizes.count >= 1,
          "batch sizes are int64, one for each time step");
  const auto* at = static_cast<const std::int64_t*>(sizes.data);
  std::int64_t total = 0;
  for (std::int64_t t = 0; t < sizes.count; ++t) {
    require(at[t] >= 0 && at[t] <= (t > 0 ? at[t - 1] : batch), "batch sizes do not descend from the states' number");
    total += at[t];
    require(total <= gates.size[0], "batch sizes do not add up to the rows of gates");
  }
  require(total == gates.size[0], "batch sizes do not add up to the rows of gates");

  const std::int32_t dtype = torch.float32();
  void *product_data = nullptr, *shown_data = nullptr, *output_data = nullptr, *hidden_data = nullptr,
       *cell_data = nullptr;
  const std::int64_t product_size[2] = {batch, gates.size[1]}, shown_size[2] = {projects ? batch : 0, width};
  const Made product_made = make(product_size, 2, dtype, &product_data);
  const Made shown_made = make(shown_size, 2, dtype, &shown_data);
  Made output_made = make(gates, channels, dtype, false, &output_data);
  Made hidden_made = make(hidden, -1, dtype, false, &hidden_data);
  Made cell_made = make(cell, -1, dtype, false, &cell_data);
  auto* const product = static_cast<float*>(product_data);
  auto* const shown = static_cast<float*>(shown_data);
  auto* const output = static_cast<float*>(output_data);
  auto* const state = static_cast<float*>(hidden_data);
  auto* const memory = static_cast<float*>(cell_data);
  Step multiply, project;
  set_product(spec, blocks, bias, channels, gates.size[1], state, product, &multiply);
  if (projects) set_product(spec_hr, blocks_hr, bias_hr, width, channels, shown, state, &project);
  if (hidden.count > 0) std::memcpy(state, hidden.data, static_cast<std::size_t>(hidden.count) * sizeof(float));
  if (cell.count > 0) std::memcpy(memory, cell.data, static_cast<std::size_t>(cell.count) * sizeof(float));

  const auto* const first = static_cast<const float*>(gates.data);
  std::int64_t row = reverse ? total : 0;
  for (std::int64_t i = 0; i < sizes.count; ++i) {
    const std::int64_t rows = at[reverse ? sizes.count - 1 - i : i];
    if (reverse) row -= rows;
    run(&multiply, rows);
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* in = first + (row + r) * gates.size[1];
      const float* from = product + r * gates.size[1];
      if (gru) {
        gru_row(in, from, state + r * width, width);
      } else {
        lstm_row(in, from, memory + r * width, (projects ? shown : state) + r * width, width);
      }
    }
    if (projects) run(&project, rows);
    if (rows > 0) {
      const auto bytes = static_cast<std::size_t>(rows * channels) * sizeof(float);
      std::memcpy(output + row * channels, state, bytes);
    }
    if (!reverse) row += rows;
  }
  stack[0] = output_made.hand_on();
  stack[1] = hidden_made.hand_on();
  stack[2] = cell_made.hand_on();
}

}  // namespace hf_quant
