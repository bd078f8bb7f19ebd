// One channel's part of a chunk of the packed layout, byte by byte.

#pragma once

#include <cstdint>
#include <cstring>

#include "layout.h"

namespace hf_quant {

constexpr int kMostPlanes = 3;

// Widths of the planes that codes of `bits` bits are split into, widest first.
inline int planes_of(int bits, int* planes) {
  int count = 0;
  for (int width = 8; width > 0; width /= 2) {
    if (bits & width) planes[count++] = width;
  }
  return count;
}

// Bytes from one vector of a chunk to the next.
constexpr std::int64_t kChunkStep = 64 * kVectors;

inline void pack_chunk(const std::uint8_t* codes, int bits, std::uint8_t* out) {
  int planes[kMostPlanes];
  const int count = planes_of(bits, planes);
  // The widest plane holds the lowest bits.
  int shift = 0;
  for (int p = 0; p < count; ++p) {
    const int plane = planes[p], per_byte = 8 / plane;
    for (int j = 0; j < 8 / per_byte; ++j) {
      for (int i = 0; i < 4; ++i) {
        unsigned byte = 0;
        for (int s = 0; s < per_byte; ++s) {
          const unsigned code = codes[4 * (j * per_byte + s) + i];
          byte |= ((code >> shift) & ((1u << plane) - 1)) << (s * plane);
        }
        out[i] = static_cast<std::uint8_t>(byte);
      }
      out += kChunkStep;
    }
    shift += plane;
  }
}

inline void unpack_chunk(const std::uint8_t* in, int bits, std::uint8_t* codes) {
  int planes[kMostPlanes];
  const int count = planes_of(bits, planes);
  std::memset(codes, 0, kChunk);
  int shift = 0;
  for (int p = 0; p < count; ++p) {
    const int plane = planes[p], per_byte = 8 / plane;
    for (int j = 0; j < 8 / per_byte; ++j) {
      for (int i = 0; i < 4; ++i) {
        for (int s = 0; s < per_byte; ++s) {
          const unsigned part = (in[i] >> (s * plane)) & ((1u << plane) - 1);
          codes[4 * (j * per_byte + s) + i] |= static_cast<std::uint8_t>(part << shift);
        }
      }
      in += kChunkStep;
    }
    shift += plane;
  }
}

}  // namespace hf_quant
