// Where a packed weight keeps what. One layout for every instruction set, so that a weight is packed once.
//
// Channels lie in blocks of 32, inputs in chunks of 32, both padded with zero codes. A block is
// [scales][zero points][sums of codes], each of [groups][channels], then padding to 64 bytes, then the codes. Codes are
// unsigned (code + 2^(bits-1)) and split into planes of 4, 2 or 1 bits (8 stand alone). In a chunk each plane holds
// vectors of 64 bytes, two for the two halves of the channels: byte 4 * channel + i of vector j holds, from its low bits up, the codes of inputs
// 4 * (j * per_byte + s) + i for s = 0 .. per_byte - 1. A vector so expands by shift and mask into operands of 16
// channels by 4 inputs, as dot-product instructions take them.

#pragma once

#include <cstddef>
#include <cstdint>

#include "abi.h"

namespace hf_quant {

constexpr int kLanes = 16;    // channels in one vector
constexpr int kChunk = 32;    // inputs in one chunk
constexpr int kBlock = 32;    // channels in one block
constexpr int kVectors = kBlock / kLanes;

inline std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

struct Layout {
  std::int64_t channels, width, padded_width, groups, group, block_bytes, zeros_at, sums_at, codes_at;
  std::int32_t bits, flags;
  bool grouped, narrow;  // narrow: scales are bfloat16

  Layout(std::int64_t channels_, std::int64_t width_, std::int32_t bits_, std::int32_t group_, std::int32_t flags_)
      : channels(channels_), width(width_), bits(bits_), flags(flags_), grouped(group_ != 0),
        narrow(group_ != 0 && !(flags_ & kWideScales)) {
    padded_width = round_up(width, kChunk);
    group = grouped ? group_ : padded_width;
    groups = padded_width / group;
    const std::int64_t scale_bytes = narrow ? 2 : 4;
    zeros_at = groups * kBlock * scale_bytes;
    sums_at = zeros_at + ((flags & kHasZeros) ? groups * kBlock : 0);
    codes_at = round_up(sums_at + ((flags & kHasSums) ? groups * kBlock * 4 : 0), 64);
    block_bytes = codes_at + padded_width / kChunk * bits * 64 * kVectors;
  }

  std::int64_t blocks() const { return (channels + kBlock - 1) / kBlock; }
  std::int64_t total_bytes() const { return blocks() * block_bytes; }
};

}  // namespace hf_quant
