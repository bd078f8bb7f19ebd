// Kernels in plain C++.

#include "isa.h"
#include "simd_portable.h"

#include "kernels.inl"

namespace hf_quant {
constexpr Kernels kPortableKernels = kernels();
}
