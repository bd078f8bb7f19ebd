// Sixteen lanes in one AVX-512 register.

#pragma once

#include <immintrin.h>

#include <cstdint>

#include "abi.h"

namespace {

#define HFQ_INLINE inline __attribute__((always_inline))
#define HFQ_LAMBDA_INLINE __attribute__((always_inline))

struct Simd {
  using Float = __m512;   // 16 floats
  using Int = __m512i;    // 16 int32
  using Bytes = __m512i;  // 64 bytes
  using Weights = __m512i;      // codes as `dot` takes them
  using Activations = __m512i;  // 4 codes, repeated for each channel
  using Act = std::int8_t;      // how codes of inputs are kept

  static constexpr int kRows = 12;       // rows of a tile, one scale a channel
  static constexpr int kGroupRows = 7;   // rows of a tile, scales in groups
  static constexpr int kNibbleRows = 9;  // rows of a tile, codes of 4 bits
  static constexpr int kFloatRows = 12;  // rows of a tile of floats
  static constexpr int kTileVectors = 2;
  static constexpr int kAheadRows = 8;    // up to this many rows, tiles fetch codes ahead
  static constexpr int kCodeOffset = 0;  // what `weights<8>` subtracts from codes of 8 bits

  static HFQ_INLINE Float load(const float* p) { return _mm512_loadu_ps(p); }
  static HFQ_INLINE void store(float* p, Float v) { _mm512_storeu_ps(p, v); }
  static HFQ_INLINE Float set(float v) { return _mm512_set1_ps(v); }
  static HFQ_INLINE Float zero() { return _mm512_setzero_ps(); }
  static HFQ_INLINE Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static HFQ_INLINE Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
  static HFQ_INLINE Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static HFQ_INLINE Float div(Float a, Float b) { return _mm512_div_ps(a, b); }
  static HFQ_INLINE Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  // The second operand where either is NaN.
  static HFQ_INLINE Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
  static HFQ_INLINE Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
  static HFQ_INLINE Float abs(Float a) { return _mm512_abs_ps(a); }
  static HFQ_INLINE Float select_negative(Float x, Float negative, Float other) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), other, negative);
  }
  static HFQ_INLINE Float round(Float a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static HFQ_INLINE Float round_any(Float a) { return round(a); }  // of any size
  // 2 to an integral power, |n| < 127.
  static HFQ_INLINE Float power_of_two(Float n) {
    const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
  }
  static HFQ_INLINE float sum(Float a) { return _mm512_reduce_add_ps(a); }
  static HFQ_INLINE float least(Float a) { return _mm512_reduce_min_ps(a); }
  static HFQ_INLINE float most(Float a) { return _mm512_reduce_max_ps(a); }
  // The sums of sixteen vectors, one a lane.
  static HFQ_INLINE Float sums(const Float (&v)[16]) {
    __m256 part[2];
    for (int h = 0; h < 2; ++h) {
      __m256 r[8];
      for (int i = 0; i < 8; ++i) {
        r[i] = _mm256_add_ps(_mm512_castps512_ps256(v[8 * h + i]), _mm512_extractf32x8_ps(v[8 * h + i], 1));
      }
      const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(r[0], r[1]), _mm256_hadd_ps(r[2], r[3]));
      const __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(r[4], r[5]), _mm256_hadd_ps(r[6], r[7]));
      part[h] = _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
    }
    return _mm512_insertf32x8(_mm512_castps256_ps512(part[0]), part[1], 1);
  }

  static HFQ_INLINE Int int_zero() { return _mm512_setzero_si512(); }
  static HFQ_INLINE Int int_set(std::int32_t v) { return _mm512_set1_epi32(v); }
  static HFQ_INLINE Int int_load(const std::int32_t* p) { return _mm512_loadu_si512(p); }
  static HFQ_INLINE void int_store(std::int32_t* p, Int v) { _mm512_storeu_si512(p, v); }
  static HFQ_INLINE Int int_add(Int a, Int b) { return _mm512_add_epi32(a, b); }
  static HFQ_INLINE Int int_sub(Int a, Int b) { return _mm512_sub_epi32(a, b); }
  static HFQ_INLINE Int int_mul(Int a, Int b) { return _mm512_mullo_epi32(a, b); }
  static HFQ_INLINE Int int_min(Int a, Int b) { return _mm512_min_epi32(a, b); }
  static HFQ_INLINE Int int_max(Int a, Int b) { return _mm512_max_epi32(a, b); }
  static HFQ_INLINE std::int32_t int_sum(Int a) { return _mm512_reduce_add_epi32(a); }
  static HFQ_INLINE Float to_float(Int a) { return _mm512_cvtepi32_ps(a); }
  static HFQ_INLINE Int to_int(Float a) { return _mm512_cvtps_epi32(a); }  // nearest, ties to even
  static HFQ_INLINE Int load_u8(const std::uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static HFQ_INLINE void store_s8(std::int8_t* p, Int v) {  // saturating
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(v));
  }
  // 64 of them, in order.
  static HFQ_INLINE void store_s8(std::int8_t* p, Int a, Int b, Int c, Int d) {
    const __m512i mixed = _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, mixed));
  }
  // Adds the sums of 4 codes each of 64 codes to the 16 lanes.
  static HFQ_INLINE Int add_codes(Int sum, const std::int8_t* p) {
    return dot(sum, _mm512_set1_epi8(1), _mm512_loadu_si512(p));
  }

  static HFQ_INLINE Float load_bf16(const std::uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static HFQ_INLINE Float load_f16(const std::uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static HFQ_INLINE void store_bf16(std::uint16_t* p, Float v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc00000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
  }
  static HFQ_INLINE void store_f16(std::uint16_t* p, Float v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }

  // One stage of a Hadamard butterfly within the register: lanes i and i + Step of each pair.
  template <int Step>
  static HFQ_INLINE Float butterfly(Float v) {
    Float swapped;
    if (Step == 1) swapped = _mm512_permute_ps(v, 0xb1);
    if (Step == 2) swapped = _mm512_permute_ps(v, 0x4e);
    if (Step == 4) swapped = _mm512_shuffle_f32x4(v, v, 0xb1);
    if (Step == 8) swapped = _mm512_shuffle_f32x4(v, v, 0x4e);
    // One multiplication by 1 or -1, which is exact, adds or subtracts.
    constexpr std::uint32_t kSecond = Step == 1 ? 0xaaaa : Step == 2 ? 0xcccc : Step == 4 ? 0xf0f0 : 0xff00;
    const __m512 sign = _mm512_mask_blend_ps(static_cast<__mmask16>(kSecond), _mm512_set1_ps(1.0f), _mm512_set1_ps(-1.0f));
    return _mm512_fmadd_ps(v, sign, swapped);
  }

  static HFQ_INLINE Bytes bytes(const std::uint8_t* p) { return _mm512_loadu_si512(p); }
  static HFQ_INLINE void bytes_store(std::uint8_t* p, Bytes v) { _mm512_storeu_si512(p, v); }
  // Four bytes from each of sixteen places that are `Stride` (1 or 2) apart; 64 are read.
  template <int Stride>
  static HFQ_INLINE Bytes windows(const std::uint8_t* p) {
    const __m512i words = Stride == 1 ? _mm512_setr_epi32(0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4)
                                      : _mm512_setr_epi32(0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 8, 8);
    const __m128i order = Stride == 1 ? _mm_setr_epi8(0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5, 3, 4, 5, 6)
                                      : _mm_setr_epi8(0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7, 8, 9);
    return _mm512_shuffle_epi8(_mm512_permutexvar_epi32(words, _mm512_loadu_si512(p)), _mm512_broadcast_i32x4(order));
  }
  template <int Shift>
  static HFQ_INLINE Bytes bits(Bytes v, std::uint8_t mask) {
    const __m512i shifted = Shift ? _mm512_srli_epi16(v, Shift) : v;
    return _mm512_and_si512(shifted, _mm512_set1_epi8(static_cast<char>(mask)));
  }
  template <int Shift>
  static HFQ_INLINE Bytes above(Bytes low, Bytes high) {
    return _mm512_or_si512(low, _mm512_slli_epi16(high, Shift));
  }
  static HFQ_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

  template <int Bits>
  static HFQ_INLINE Weights weights(Bytes codes) {
    return codes;
  }
  static HFQ_INLINE Activations activations(const Act* p) {
    std::int32_t word;
    __builtin_memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
  }
  // As assembly rather than the intrinsic, whose result GCC copies from register to register.
  static HFQ_INLINE Int dot(Int sum, Weights w, Activations a) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(a));
    return sum;
  }

  static void arrange(Act*, const std::int8_t*, std::int64_t) {}

  // Codes less the middle one, as signed bytes.
  template <int Bits>
  static HFQ_INLINE Bytes centre(Bytes codes) {
    return _mm512_sub_epi8(codes, _mm512_set1_epi8(static_cast<char>(1 << (Bits - 1))));
  }
  // Signed byte `Index` (0 to 3) of each channel, as floats.
  template <int Index>
  static HFQ_INLINE Float channel_floats(Bytes codes) {
    const __m512i top = Index == 3 ? codes : _mm512_slli_epi32(codes, 24 - 8 * Index);
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(top, 24));
  }
};

}  // namespace
