// What tensors do not say of a program, checked: a spec against what kernels can do, a packed weight against its spec.

#pragma once

#include <cstdint>

#include "abi.h"
#include "tensors.h"

namespace hf_quant {

constexpr std::int32_t kMostWeights = 3;

// The spec that `tensor` holds the bytes of; throws where no kernel can do what it says.
ProgramSpec spec_of(const Tensor& tensor);

// Fill all but where the input lies.
void set_input(const StepSpec& spec, Input* input);

// Throw where `blocks` are not as large as the spec says.
void require_blocks(const StepSpec& step, const WeightSpec& spec, const Tensor& blocks);

// Fill all but where the output lies; an empty `bias` stands for none.
void set_weight(const StepSpec& step, const WeightSpec& spec, const Tensor& blocks, const Tensor& bias, Weight* weight);

// The same without a bias; a bias of as many channels.
void set_weight(const StepSpec& step, const WeightSpec& spec, const Tensor& blocks, Weight* weight);
void set_bias(const Tensor& bias, std::int64_t channels, Weight* weight);

// What fake implementations were told has to be what happens.
void require_channels(Value told, const WeightSpec& spec);

}  // namespace hf_quant
