// Convolutions with packed weights, of one to three spatial dimensions.

#include <cstring>
#include <utility>

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

std::int32_t activation_of(Value place) {
  constexpr std::int32_t kActivations[] = {kNoActivation, kRelu, kGeluErf, kGeluTanh, kSilu};
  require(place < 5, "no such activation");
  return kActivations[place];
}

// What sums are multiplied with and what is added, or neither.
void set_affine(const Tensor& factor, const Tensor& shift, std::int64_t channels, Convolution* c) {
  require((factor.count > 0) == (shift.count > 0), "a factor belongs to a shift");
  if (factor.count == 0) return;
  for (const Tensor* each : {&factor, &shift}) {
    require(each->dtype == torch.float32() && each->contiguous() && each->count == channels,
            "factor and shift are float32, one for each channel");
  }
  c->factor = static_cast<const float*>(factor.data);
  c->shift = static_cast<const float*>(shift.data);
}

// Compiled graphs were told the sizes of the output.
void check_sizes(const Value* told, const Tensor& input, const Convolution& c) {
  for (std::int64_t i = 0; i < input.dims - 2; ++i) {
    const std::int64_t size = static_cast<std::int64_t>(told[i]);
    require(size == 0 || size == c.out[first_of(input.dims - 2) + i], "an output was told to have another size");
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
  const std::int64_t channels = static_cast<std::int64_t>(stack[8]);
  Convolution c;
  std::memset(&c, 0, sizeof c);
  set_geometry(input, geometry, channels, &c);
  check_sizes(stack + 9, input, c);
  c.channels_last = channels_last(input);
  c.activation = activation_of(stack[7]);

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
  set_affine(factor, shift, channels, &c);

  Made output = make_output(input, c, channels, &c.output);
  if (c.batch > 0) {
    c.input = input.data;
    set_bands(&c);
    check(hf_quant_convolve(&c, torch.threads()));
  }
  stack[0] = output.hand_on();
}

namespace {

// The grid of inputs: float32 scale, zero point and lowest code, or one for each item and group.
void set_grid(const Tensor& grid, bool symmetric, Input* in) {
  in->mode = grid.count > 0 ? kStatic : symmetric ? kTokenSymmetric : kTokenAsymmetric;
  if (grid.count == 0) return;
  require(grid.dtype == torch.float32() && grid.contiguous() && grid.count == 3, "a grid is three float32 numbers");
  const float* numbers = static_cast<const float*>(grid.data);
  require(numbers[1] >= -128.0f && numbers[1] <= 127.0f && (numbers[2] == -128.0f || numbers[2] == -127.0f),
          "a grid has no such zero point or lowest code");
  in->static_scale = numbers[0];
  in->static_zero = static_cast<std::int32_t>(numbers[1]);
  in->static_lowest = static_cast<std::int32_t>(numbers[2]);
}

constexpr std::int64_t kMostTaps = 1 << 16;  // whose products with codes surely fit in 32 bits

}  // namespace

// (input, taps, sums, scales, bias, grid, geometry, factor, shift, symmetric, activation, channels, sizes of the output)
// -> output
void grouped_convolution(Value* stack, std::uint64_t, std::uint64_t) {
  const Owned<9> owned(stack);
  const Tensor input(stack[0]), taps(stack[1]), sums(stack[2]), scales(stack[3]), bias(stack[4]), grid(stack[5]),
      geometry(stack[6]), factor(stack[7]), shift(stack[8]);
  const std::int64_t channels = static_cast<std::int64_t>(stack[11]);
  GroupedConvolution g;
  std::memset(&g, 0, sizeof g);
  Convolution& c = g.shape;
  set_geometry(input, geometry, channels, &c);
  check_sizes(stack + 12, input, c);
  require(input.contiguous(), "an input is not contiguous");
  c.activation = activation_of(stack[10]);
  if (input.dims == 3) {  // rows are along the last dimension
    for (auto* each : {c.in, c.out, c.kernel, c.stride, c.dilation, c.before, c.padded}) std::swap(each[1], each[2]);
  }
  set_windows(&g);
  const std::int64_t width = product({g.words, 4});
  require(width <= kMostTaps, "a filter has too many taps");
  require(taps.dtype == torch.int8() && taps.contiguous() && taps.dims == 2 && taps.size[0] == channels &&
              taps.size[1] == width,
          "taps are int8, those of each filter row by row, padded to whole words");
  require(sums.dtype == torch.int32() && sums.contiguous() && sums.count == channels, "sums of taps are int32");
  require(scales.dtype == torch.float32() && scales.contiguous() && scales.count == channels, "scales are float32");
  g.taps = static_cast<const std::int8_t*>(taps.data);
  g.sums = static_cast<const std::int32_t*>(sums.data);
  g.scales = static_cast<const float*>(scales.data);
  set_grid(grid, stack[9] != 0, &c.step.input);
  c.step.input.dtype = c.step.output_dtype = float_dtype(input.dtype);
  c.step.weight_count = 1;
  c.step.weights[0].channels = static_cast<std::int32_t>(channels / c.groups);
  set_bias(bias, channels, &c.step.weights[0]);
  set_affine(factor, shift, channels, &c);

  std::int64_t sizes[5] = {c.batch, channels};
  const std::int64_t dims = input.dims - 2;
  for (std::int64_t i = 0; i < dims; ++i) sizes[2 + i] = c.out[dims == 1 ? 2 : first_of(dims) + i];
  product({c.batch, channels, c.out[0], c.out[1], c.out[2]});
  Made output = make(sizes, input.dims, input.dtype, &c.output);
  if (c.batch > 0) {
    c.input = input.data;
    check(hf_quant_convolve_groups(&g, torch.threads()));
  }
  stack[0] = output.hand_on();
}

}  // namespace hf_quant
