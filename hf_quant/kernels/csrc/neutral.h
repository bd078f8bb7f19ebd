// Codes as a checkpoint packs them: a stream of bits per row, lowest first, two's complement.

#pragma once

#include <cstdint>

namespace hf_quant {

// Code `index` of a row, sign-extended.
inline std::int32_t neutral_code(const std::uint32_t* row, int bits, std::int64_t index) {
  const std::int64_t bit = index * bits;
  const int shift = static_cast<int>(bit % 32);
  std::uint32_t code = row[bit / 32] >> shift;
  if (shift + bits > 32) code |= row[bit / 32 + 1] << (32 - shift);
  return static_cast<std::int32_t>(code << (32 - bits)) >> (32 - bits);
}

// Write `count` codes as one row of words, zeros after the last.
inline void write_neutral(const std::int8_t* codes, std::int64_t count, int bits, std::uint32_t* row) {
  const std::uint64_t mask = (1u << bits) - 1;
  std::uint64_t pending = 0;
  int held = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    pending |= (static_cast<std::uint64_t>(static_cast<std::uint8_t>(codes[i])) & mask) << held;
    held += bits;
    if (held >= 32) {
      *row++ = static_cast<std::uint32_t>(pending);
      pending >>= 32;
      held -= 32;
    }
  }
  if (held > 0) *row = static_cast<std::uint32_t>(pending);
}

// Read one row of `count` codes.
inline void read_neutral(const std::uint32_t* row, std::int64_t count, int bits, std::int8_t* codes) {
  std::uint64_t pending = 0;
  int held = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (held < bits) {
      pending |= static_cast<std::uint64_t>(*row++) << held;
      held += 32;
    }
    const std::uint32_t code = static_cast<std::uint32_t>(pending) << (32 - bits);
    codes[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(code) >> (32 - bits));
    pending >>= bits;
    held -= bits;
  }
}

}  // namespace hf_quant
