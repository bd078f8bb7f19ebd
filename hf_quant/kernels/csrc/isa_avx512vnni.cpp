// Kernels for AVX-512 with VNNI.

#include "isa.h"
#include "simd_avx512.h"

#include "kernels.inl"

namespace hf_quant {
constexpr Kernels kAvx512VnniKernels = kernels();
}
