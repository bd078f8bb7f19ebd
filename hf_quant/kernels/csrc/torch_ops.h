// Ops for torch's dispatcher. Each takes its arguments from `stack`, one in each place, tensors first, and puts its results
// there. The tensors it is given are its own to release. Errors are C++ exceptions, as the stable interface means them to
// be. The schemas are defined in hf_quant/kernels/native/ops.py.

#pragma once

#include <cstdint>

#include "libtorch.h"

namespace hf_quant {

using Op = void(Value* stack, std::uint64_t arguments, std::uint64_t results);

Op linear, linears, block, experts;  // ops_products.cpp
Op embedding, norm;                  // ops_rows.cpp
Op attention;                        // ops_attention.cpp
Op recurrent;                        // ops_recurrent.cpp
Op convolution, grouped_convolution;  // ops_convolution.cpp

// Throw where a kernel returned an error.
void check(std::int32_t status);

}  // namespace hf_quant
