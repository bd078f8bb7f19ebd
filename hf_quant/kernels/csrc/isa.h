// The kernels of one instruction set, as a table. Each table lives in a translation unit of its own, which is the only
// one that is compiled for that instruction set.

#pragma once

#include "abi.h"

namespace hf_quant {

struct Kernels {
  int (*run)(const Step* steps, int count, int threads);
  int (*quantize)(const Quantize& request, int threads);
  int (*embed)(const Embedding& request, int threads);
  int (*normalize)(const Input& input, std::int64_t rows, void* output, std::int64_t stride, int threads);
  int (*attend)(const Attention& request, int threads);
  int (*convolve)(const Convolution& request, int threads);
  int (*convolve_groups)(const GroupedConvolution& request, int threads);
  std::int64_t (*read)(const std::uint8_t* data, std::int64_t bytes, int threads);
  std::int64_t (*dots)(std::int64_t rounds, int threads);
};

// Constants, so that nothing of a translation unit runs before its instruction set was asked for.
extern const Kernels kPortableKernels, kAvx2Kernels, kAvx2VnniKernels, kAvx512VnniKernels, kNeonDotKernels,
    kNeonI8mmKernels;

}  // namespace hf_quant
