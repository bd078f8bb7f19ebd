// Kernels for AVX2 with AVX-VNNI.

#define HFQ_AVX_VNNI

#include "isa.h"
#include "simd_avx2.h"

#include "kernels.inl"

namespace hf_quant {
constexpr Kernels kAvx2VnniKernels = kernels();
}
