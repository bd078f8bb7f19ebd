#include "specs.h"

#include <cstring>

#include "layout.h"

namespace hf_quant {
namespace {

bool fits(const StepSpec& step, const WeightSpec& weight) {
  const bool grouped = weight.group != 0;
  const bool sums = (step.mode == kTokenAsymmetric || (step.mode == kStatic && step.static_zero != 0));
  return weight.channels >= 1 && weight.channels <= (1 << 28) && weight.bits >= 2 && weight.bits <= 8 &&
         (weight.flags & ~(kHasZeros | kHasSums | kWideScales)) == 0 && (!sums || (weight.flags & kHasSums)) &&
         (!grouped || (weight.group > 0 && weight.group % kChunk == 0 && step.width % weight.group == 0)) &&
         weight.group == step.weights[0].group;
}

// Whether kernels can do what the step says, whatever tensors come with it.
bool fits(const StepSpec& step) {
  const std::int32_t rotation = step.rotation;
  const bool rotates = rotation == 16 || rotation == 32 || rotation == 64 || rotation == 128 || rotation == 256;
  if (step.width < 1 || step.width > (step.mode == kFloatInput ? 1 << 24 : 1 << 16)) return false;
  if (rotation != 0 && (!rotates || step.width % rotation != 0)) return false;
  if (step.mode < kFloatInput || step.mode > kStatic) return false;
  if (step.mode == kGroupSymmetric && (step.group <= 0 || step.group != step.weights[0].group)) return false;
  if (step.mode == kStatic) {
    if (!(step.static_scale > 0.0f) || step.static_scale > 3e38f) return false;
    if (step.static_zero < -128 || step.static_zero > 127) return false;
    if (step.static_lowest != -128 && step.static_lowest != -127) return false;
  }
  if (step.activation < kNoActivation || step.activation > kRelu || step.gated < 0 || step.gated > 1) return false;
  if (step.weight_count < 1 || step.weight_count > kMostWeights) return false;
  for (int w = 0; w < step.weight_count; ++w) {
    if (!fits(step, step.weights[w])) return false;
  }
  return true;
}

}  // namespace

ProgramSpec spec_of(const Tensor& tensor) {
  require(tensor.dtype == torch.uint8() && tensor.contiguous() && tensor.count == sizeof(ProgramSpec),
          "not a program's spec");
  ProgramSpec spec;
  std::memcpy(&spec, tensor.data, sizeof spec);
  require(spec.magic == kSpecMagic && spec.count >= 1 && spec.count <= 2, "not a program's spec");
  for (int s = 0; s < spec.count; ++s) require(fits(spec.steps[s]), "a program's spec says what no kernel can do");
  return spec;
}

void set_input(const StepSpec& spec, Input* input) {
  std::memset(input, 0, sizeof *input);
  input->width = spec.width;
  input->mode = spec.mode;
  input->group = spec.group;
  input->rotation = spec.rotation;
  input->static_scale = spec.static_scale;
  input->static_zero = spec.static_zero;
  input->static_lowest = spec.static_lowest;
}

void require_blocks(const StepSpec& step, const WeightSpec& spec, const Tensor& blocks) {
  const Layout layout(spec.channels, step.width, spec.bits, spec.group, spec.flags);
  require(blocks.dtype == torch.uint8() && blocks.contiguous() && blocks.count == layout.total_bytes(),
          "a packed weight has another size than its spec says");
}

void set_weight(const StepSpec& step, const WeightSpec& spec, const Tensor& blocks, Weight* weight) {
  require_blocks(step, spec, blocks);
  std::memset(weight, 0, sizeof *weight);
  weight->blocks = static_cast<const std::uint8_t*>(blocks.data);
  weight->channels = spec.channels;
  weight->bits = spec.bits;
  weight->group = spec.group;
  weight->flags = spec.flags;
}

void set_weight(const StepSpec& step, const WeightSpec& spec, const Tensor& blocks, const Tensor& bias, Weight* weight) {
  set_weight(step, spec, blocks, weight);
  set_bias(bias, spec.channels, weight);
}

void set_bias(const Tensor& bias, std::int64_t channels, Weight* weight) {
  if (bias.count == 0) return;
  require(bias.contiguous() && bias.count == channels, "a bias has another size than its weight");
  weight->bias = bias.data;
  weight->bias_dtype = float_dtype(bias.dtype);
}

void require_channels(Value told, const WeightSpec& spec) {
  require(static_cast<std::int64_t>(told) == spec.channels, "the spec has another number of channels");
}

}  // namespace hf_quant
