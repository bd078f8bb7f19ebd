// Kernels for NEON with the int8 matrix extension.

#define HFQ_I8MM

#include "isa.h"
#include "simd_neon.h"

#include "kernels.inl"

namespace hf_quant {
constexpr Kernels kNeonI8mmKernels = kernels();
}
