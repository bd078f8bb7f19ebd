// Everything that is compiled once per instruction set. Include after a header that defines `Simd`.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "chunk.h"
#include "isa.h"
#include "layout.h"
#include "neutral.h"
#include "parallel.h"

namespace {
using hf_quant::kBlock;
using hf_quant::kChunk;
using hf_quant::kLanes;
}  // namespace

#include "math.inl"

#include "input.inl"

#include "dot.inl"

#include "tiles.inl"

#include "multiply.inl"

#include "memory.inl"

#include "program.inl"

#include "rows.inl"

#include "attention.inl"

#include "transpose.inl"

#include "image.inl"

#include "convolution.inl"

#include "grouped.inl"

#include "weights.inl"

#include "limits.inl"

namespace {
constexpr hf_quant::Kernels kernels() {
  return {run_program, run_quantize, run_embed, run_normalize, run_attend, run_convolve, run_grouped,
          run_read, run_dots};
}
}  // namespace
