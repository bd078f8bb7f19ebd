#include "pack.h"

#include <cstring>

#include "chunk.h"
#include "layout.h"
#include "neutral.h"
#include "parallel.h"

namespace hf_quant {
namespace {

// Codes of a row of neutral words as unsigned bytes, for inputs [begin, begin + kChunk); zeros past the end.
void read_codes(const std::uint32_t* row, int bits, std::int64_t begin, std::int64_t width, std::uint8_t* out) {
  const std::int32_t middle = 1 << (bits - 1);
  for (int i = 0; i < kChunk; ++i) {
    out[i] = begin + i < width ? static_cast<std::uint8_t>(neutral_code(row, bits, begin + i) + middle) : 0;
  }
}

// A word holds eight 4-bit codes in order; the layout wants those of inputs i and i + 4 in one byte.
std::uint32_t spread(std::uint32_t four) {
  four = (four | (four << 8)) & 0x00ff00ffu;
  return (four | (four << 4)) & 0x0f0f0f0fu;
}
std::uint32_t gather(std::uint32_t nibbles) {
  nibbles = (nibbles | (nibbles >> 4)) & 0x00ff00ffu;
  return (nibbles | (nibbles >> 8)) & 0xffffu;
}

struct Job {
  const Neutral* weight;
  std::uint8_t* blocks;
  std::uint32_t* words;
};

void pack_codes(const Neutral& weight, const Layout& layout, std::int64_t channel, std::uint8_t* out) {
  const std::uint32_t* row = weight.words + channel * weight.words_per_row;
  const std::int64_t chunk_bytes = weight.bits * kChunkStep;
  std::uint8_t codes[kChunk];
  for (std::int64_t k = 0; k < layout.padded_width; k += kChunk, out += chunk_bytes) {
    if (weight.bits == 8 && k + kChunk <= layout.width) {
      for (int j = 0; j < 8; ++j) {
        const std::uint32_t word = row[k / 4 + j] ^ 0x80808080u;
        std::memcpy(out + j * kChunkStep, &word, 4);
      }
    } else if (weight.bits == 4 && k + kChunk <= layout.width) {
      for (int j = 0; j < 4; ++j) {
        const std::uint32_t word = row[k / 8 + j] ^ 0x88888888u;
        const std::uint32_t bytes = spread(word & 0xffffu) | (spread(word >> 16) << 4);
        std::memcpy(out + j * kChunkStep, &bytes, 4);
      }
    } else {
      read_codes(row, weight.bits, k, layout.width, codes);
      pack_chunk(codes, weight.bits, out);
    }
  }
}

void unpack_codes(const Neutral& weight, const Layout& layout, const std::uint8_t* in, std::uint32_t* row) {
  const std::int64_t chunk_bytes = weight.bits * kChunkStep;
  const std::uint32_t middle = 1u << (weight.bits - 1);
  std::uint8_t codes[kChunk];
  std::memset(row, 0, static_cast<std::size_t>(weight.words_per_row) * 4);
  for (std::int64_t k = 0; k < layout.padded_width; k += kChunk, in += chunk_bytes) {
    if (weight.bits == 8 && k + kChunk <= layout.width) {
      for (int j = 0; j < 8; ++j) {
        std::uint32_t word;
        std::memcpy(&word, in + j * kChunkStep, 4);
        row[k / 4 + j] = word ^ 0x80808080u;
      }
    } else if (weight.bits == 4 && k + kChunk <= layout.width) {
      for (int j = 0; j < 4; ++j) {
        std::uint32_t bytes;
        std::memcpy(&bytes, in + j * kChunkStep, 4);
        row[k / 8 + j] = (gather(bytes & 0x0f0f0f0fu) | (gather((bytes >> 4) & 0x0f0f0f0fu) << 16)) ^ 0x88888888u;
      }
    } else {
      unpack_chunk(in, weight.bits, codes);
      for (int i = 0; i < kChunk && k + i < layout.width; ++i) {
        const std::uint32_t code = codes[i] ^ middle;
        const std::int64_t bit = (k + i) * weight.bits;
        const int shift = static_cast<int>(bit % 32);
        row[bit / 32] |= code << shift;
        if (shift + weight.bits > 32) row[bit / 32 + 1] |= code >> (32 - shift);
      }
    }
  }
}

// Sum of (code - zero point) over each group of a channel.
void sum_codes(const Neutral& weight, const Layout& layout, std::int64_t channel, std::int32_t* out) {
  const std::uint32_t* row = weight.words + channel * weight.words_per_row;
  const std::int32_t middle = 1 << (weight.bits - 1);
  std::uint8_t codes[kChunk];
  for (std::int64_t g = 0; g < layout.groups; ++g) {
    const std::int64_t at = weight.per_tensor ? 0 : channel * layout.groups + g;
    const std::int32_t zero = weight.zeros ? weight.zeros[at] : 0;
    std::int32_t sum = 0;
    const std::int64_t begin = g * layout.group;
    const std::int64_t end = begin + layout.group < layout.width ? begin + layout.group : layout.width;
    if (weight.bits == 8) {
      const auto* bytes = reinterpret_cast<const std::int8_t*>(row);
      for (std::int64_t k = begin; k < end; ++k) sum += bytes[k];
      out[g * kBlock] = sum - static_cast<std::int32_t>(end - begin) * zero;
      continue;
    }
    for (std::int64_t k = begin; k < end; k += kChunk) {
      read_codes(row, weight.bits, k, layout.width, codes);
      for (int i = 0; i < kChunk && k + i < end; ++i) sum += codes[i] - middle - zero;
    }
    out[g * kBlock] = sum;
  }
}

void pack_block(const Neutral& weight, const Layout& layout, std::int64_t index, std::uint8_t* block) {
  std::memset(block, 0, static_cast<std::size_t>(layout.codes_at));
  const std::uint8_t middle = static_cast<std::uint8_t>(1 << (weight.bits - 1));
  for (std::int64_t c = 0; c < kBlock; ++c) {
    const std::int64_t channel = index * kBlock + c;
    std::uint8_t* codes = block + layout.codes_at + c / kLanes * 64 + c % kLanes * 4;
    if (channel >= layout.channels) {
      for (std::int64_t v = 0; v < layout.padded_width / kChunk * weight.bits; ++v) std::memset(codes + v * kChunkStep, 0, 4);
      continue;
    }
    for (std::int64_t g = 0; g < layout.groups; ++g) {
      const std::int64_t from = weight.per_tensor ? 0 : channel * layout.groups + g, to = g * kBlock + c;
      if (layout.narrow) {
        std::memcpy(block + 2 * to, static_cast<const std::uint16_t*>(weight.scales) + from, 2);
      } else {
        std::memcpy(block + 4 * to, static_cast<const float*>(weight.scales) + from, 4);
      }
      if (weight.flags & kHasZeros) {
        block[layout.zeros_at + to] = static_cast<std::uint8_t>(weight.zeros[from] + middle);
      }
    }
    if (weight.flags & kHasSums) {
      sum_codes(weight, layout, channel, reinterpret_cast<std::int32_t*>(block + layout.sums_at) + c);
    }
    pack_codes(weight, layout, channel, codes);
  }
}

Layout layout_of(const Neutral& weight) {
  return Layout(weight.channels, weight.width, weight.bits, weight.group, weight.flags);
}

void pack_team(const Team& team, void* data) {
  const Job& job = *static_cast<Job*>(data);
  const Layout layout = layout_of(*job.weight);
  std::int64_t begin, end;
  team.share(layout.blocks(), &begin, &end);
  for (std::int64_t b = begin; b < end; ++b) pack_block(*job.weight, layout, b, job.blocks + b * layout.block_bytes);
}

void unpack_team(const Team& team, void* data) {
  const Job& job = *static_cast<Job*>(data);
  const Layout layout = layout_of(*job.weight);
  std::int64_t begin, end;
  team.share(layout.channels, &begin, &end);
  for (std::int64_t n = begin; n < end; ++n) {
    const std::uint8_t* block = job.blocks + n / kBlock * layout.block_bytes;
    const std::uint8_t* codes = block + layout.codes_at + n % kBlock / kLanes * 64 + n % kLanes * 4;
    unpack_codes(*job.weight, layout, codes, job.words + n * job.weight->words_per_row);
  }
}

}  // namespace

std::int64_t packed_bytes(const Neutral& weight) { return layout_of(weight).total_bytes(); }

void pack(const Neutral& weight, std::uint8_t* blocks, int threads) {
  Job job{&weight, blocks, nullptr};
  parallel(threads, pack_team, &job);
}

void unpack(const Neutral& weight, const std::uint8_t* blocks, std::uint32_t* words, int threads) {
  Job job{&weight, const_cast<std::uint8_t*>(blocks), words};
  parallel(threads, unpack_team, &job);
}

}  // namespace hf_quant
