// Convolutions with packed weights, of one to three spatial dimensions.

#include <cstring>

#include "abi.h"
#include "bands.h"
#include "specs.h"
#include "tensors.h"
#include "torch_ops.h"

namespace hf_quant {
namespace {

constexpr std::int64_t kLargest = std::int64_t{1} << 30;  // of a geometry's numbers

// Where spatial dimensions begin among three: bands are cut along the first or the second.
std::int64_t first_of(std::int64_t dims) { return dims == 3 ? 0 : 1; }

// Sizes of input and output; dimensions that are not there have one element.
void set_geometry(const Tensor& input, const Tensor& geometry, std::int64_t channels, Convolution* c) {
  const std::int64_t dims = input.dims - 2;
  require(dims >= 1 && dims <= 3, "a convolution has one to three spatial dimensions");
  require(geometry.dtype == torch.int64() && geometry.dims == 1 && geometry.contiguous() && geometry.count == 1 + 5 * dims,
          "a geometry is int64: groups, then kernel, stride, dilation and both paddings of each dimension");
  const auto* given = static_cast<const std::int64_t*>(geometry.data);
  c->groups = *given++;
  c->batch = input.size[0];
  require(c->groups >= 1 && c->groups <= kLargest && input.size[1] >= 1 && input.size[1] % c->groups == 0 &&
              channels >= 1 && channels <= kLargest && channels % c->groups == 0,
          "groups do not divide the channels");
  c->width = input.size[1] / c->groups;
  for (int i = 0; i < 3; ++i) {
    c->in[i] = c->out[i] = c->kernel[i] = c->stride[i] = c->dilation[i] = c->padded[i] = 1;
    if (first_of(dims) > i || i >= first_of(dims) + dims) continue;
    c->in[i] = input.size[2 + i - first_of(dims)];
    c->kernel[i] = *given++;
    c->stride[i] = *given++;
    c->dilation[i] = *given++;
    c->before[i] = *given++;
    const std::int64_t after = *given++;
    require(c->in[i] >= 1 && c->in[i] <= kLargest, "an input has no pixels");
    for (const std::int64_t number : {c->kernel[i], c->stride[i], c->dilation[i]}) {
      require(number >= 1 && number <= kLargest, "kernel, stride and dilation are at least 1");
    }
    require(c->before[i] >= 0 && after >= 0 && c->before[i] <= kLargest && after <= kLargest, "a padding is negative");
    c->padded[i] = c->in[i] + c->before[i] + after;
    const std::int64_t left = c->padded[i] - c->dilation[i] * (c->kernel[i] - 1) - 1;
    require(left >= 0, "a kernel is larger than the padded input");
    c->out[i] = left / c->stride[i] + 1;
  }
}

// Where a tensor's channels lie: true for last, false for before all pixels.
bool channels_last(const Tensor& input) {
  if (input.contiguous()) return false;
  std::int64_t expected = 1;
  for (std::int64_t i = 0; i < input.dims; ++i) {
    const std::int64_t d = i == 0 ? 1 : i == input.dims - 1 ? 0 : input.dims - i;
    require(input.size[d] == 1 || input.stride[d] == expected, "an input is neither contiguous nor channels last");
    expected *= input.size[d];
  }
  return true;
}

Made make_output(const Tensor& input, const Convolution& c, std::int64_t channels, void** data) {
  std::int64_t sizes[5] = {c.batch, channels};
  const std::int64_t dims = input.dims - 2;
  for (std::int64_t i = 0; i < dims; ++i) sizes[2 + i] = c.out[first_of(dims) + i];
  product({c.batch, channels, c.out[0], c.out[1], c.out[2]});
  return make(sizes, input.dims, input.dtype, data, c.channels_last != 0);
}

}  // namespace

// (input, blocks, spec, bias, geometry, factor, shift, activation, channels, sizes of the output) -> output
void convolution(Value* stack, std::uint64_t, std::uint64_t) {
  const Owned<7> owned(stack);
  const Tensor input(stack[0]), blocks(stack[1]), specs(stack[2]), bias(stack[3]), geometry(stack[4]), factor(stack[5]),
      shift(stack[6]);
  const std::int64_t activation = static_cast<std::int64_t>(stack[7]), channels = static_cast<std::int64_t>(stack[8]);
  Convolution c;
  std::memset(&c, 0, sizeof c);
  set_geometry(input, geometry, channels, &c);
  for (std::int64_t i = 0; i < input.dims - 2; ++i) {
    const std::int64_t told = static_cast<std::int64_t>(stack[9 + i]);
    require(told == 0 || told == c.out[first_of(input.dims - 2) + i], "an output was told to have another size");
  }
  c.channels_last = channels_last(input);
  constexpr std::int32_t kActivations[] = {kNoActivation, kRelu, kGeluErf, kGeluTanh, kSilu};
  require(activation >= 0 && activation < 5, "no such activation");
  c.activation = kActivations[activation];

  require(specs.dims == 2 && specs.contiguous() && specs.size[0] == c.groups && blocks.dims == 2 && blocks.contiguous() &&
              blocks.size[0] == c.groups,
          "not a packed weight for each group");
  const ProgramSpec spec = spec_of(specs.row(0));
  const StepSpec& part = spec.steps[0];
  for (std::int64_t g = 1; g < c.groups; ++g) {
    require(std::memcmp(specs.row(g).data, specs.data, sizeof spec) == 0, "groups have different specs");
  }
  require(spec.count == 1 && part.weight_count == 1 && !part.gated && part.activation == kNoActivation,
          "not the spec of one weight");
  require(part.weights[0].channels == channels / c.groups, "the spec has another number of channels");
  require(part.width == product({c.width, c.kernel[0], c.kernel[1], c.kernel[2]}), "the spec has another width");
  set_input(part, &c.step.input);
  c.step.input.dtype = c.step.output_dtype = float_dtype(input.dtype);
  c.step.weight_count = 1;
  set_weight(part, part.weights[0], blocks.row(0), &c.step.weights[0]);
  c.weight_bytes = blocks.size[1];
  set_bias(bias, channels, &c.step.weights[0]);
  require((factor.count > 0) == (shift.count > 0), "a factor belongs to a shift");
  if (factor.count > 0) {
    for (const Tensor* each : {&factor, &shift}) {
      require(each->dtype == torch.float32() && each->contiguous() && each->count == channels,
              "factor and shift are float32, one for each channel");
    }
    c.factor = static_cast<const float*>(factor.data);
    c.shift = static_cast<const float*>(shift.data);
  }

  Made output = make_output(input, c, channels, &c.output);
  if (c.batch > 0) {
    c.input = input.data;
    set_bands(&c);
    check(hf_quant_convolve(&c, torch.threads()));
  }
  stack[0] = output.hand_on();
}

}  // namespace hf_quant
