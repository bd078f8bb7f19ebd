// Kernels for NEON with the byte dot product.

#include "isa.h"
#include "simd_neon.h"

#include "kernels.inl"

namespace hf_quant {
constexpr Kernels kNeonDotKernels = kernels();
}
