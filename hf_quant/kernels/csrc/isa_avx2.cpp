// Kernels for AVX2.

#include "isa.h"
#include "simd_avx2.h"

#include "kernels.inl"

namespace hf_quant {
constexpr Kernels kAvx2Kernels = kernels();
}
