// Neutral codes to the layout of kernels, and back. Plain C++: it runs once a load.

#pragma once

#include <cstdint>

namespace hf_quant {

// Neutral weight and scales, as a checkpoint holds them.
struct Neutral {
  const std::uint32_t* words;  // [channels, words_per_row]
  const void* scales;          // [channels, groups]: float32, or bfloat16 when grouped and not kWideScales; one when per_tensor
  const std::int8_t* zeros;    // as scales, or null
  std::int64_t channels;
  std::int64_t words_per_row;
  std::int32_t width;
  std::int32_t bits;
  std::int32_t group;  // 0: none
  std::int32_t flags;  // WeightFlags
  std::int32_t per_tensor;
  std::int32_t reserved;
};

// Bytes that `pack` writes.
std::int64_t packed_bytes(const Neutral& weight);

// Fill `blocks`, which is aligned to 64 bytes.
void pack(const Neutral& weight, std::uint8_t* blocks, int threads);

// The words that `pack` was given, from its blocks; `weight.words` is where they go.
void unpack(const Neutral& weight, const std::uint8_t* blocks, std::uint32_t* words, int threads);

}  // namespace hf_quant
