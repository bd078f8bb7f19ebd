// Sixteen lanes in two AVX2 registers. With HFQ_AVX_VNNI, bytes are multiplied by its dot product; without, codes are
// widened to 16 bits, since the byte multiplication of AVX2 saturates.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "abi.h"

namespace {

#define HFQ_INLINE inline __attribute__((always_inline))
#define HFQ_LAMBDA_INLINE __attribute__((always_inline))

struct Simd {
  struct Float {
    __m256 a, b;
  };
  struct Int {
    __m256i a, b;
  };
  using Bytes = Int;

  static constexpr int kRows = 4;
  static constexpr int kGroupRows = 4;
  static constexpr int kNibbleRows = 4;
  static constexpr int kFloatRows = 5;
  static constexpr int kTileVectors = 1;
  static constexpr int kAheadRows = 4;
  static constexpr int kCodeOffset = 0;

  static HFQ_INLINE Float load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static HFQ_INLINE void store(float* p, Float v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
  }
  static HFQ_INLINE Float set(float v) {
    const __m256 all = _mm256_set1_ps(v);
    return {all, all};
  }
  static HFQ_INLINE Float zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static HFQ_INLINE Float add(Float x, Float y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static HFQ_INLINE Float sub(Float x, Float y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static HFQ_INLINE Float mul(Float x, Float y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static HFQ_INLINE Float div(Float x, Float y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static HFQ_INLINE Float fma(Float x, Float y, Float z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  static HFQ_INLINE Float min(Float x, Float y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static HFQ_INLINE Float max(Float x, Float y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static HFQ_INLINE Float abs(Float x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
  }
  static HFQ_INLINE Float select_negative(Float x, Float negative, Float other) {
    const __m256 none = _mm256_setzero_ps();
    return {_mm256_blendv_ps(other.a, negative.a, _mm256_cmp_ps(x.a, none, _CMP_LT_OQ)),
            _mm256_blendv_ps(other.b, negative.b, _mm256_cmp_ps(x.b, none, _CMP_LT_OQ))};
  }
  static HFQ_INLINE Float round(Float x) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, kNearest), _mm256_round_ps(x.b, kNearest)};
  }
  static HFQ_INLINE Float round_any(Float x) { return round(x); }  // of any size
  static HFQ_INLINE __m256 power_of_two(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
  }
  static HFQ_INLINE Float power_of_two(Float n) { return {power_of_two(n.a), power_of_two(n.b)}; }
  template <class Combine>
  static HFQ_INLINE float reduce(__m256 x, Combine combine) {
    __m128 v = combine(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    v = combine(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(combine(v, _mm_shuffle_ps(v, v, 1)));
  }
  static HFQ_INLINE float sum(Float x) {
    return reduce(_mm256_add_ps(x.a, x.b), [](__m128 p, __m128 q) { return _mm_add_ps(p, q); });
  }
  static HFQ_INLINE float least(Float x) {
    return reduce(_mm256_min_ps(x.a, x.b), [](__m128 p, __m128 q) { return _mm_min_ps(p, q); });
  }
  static HFQ_INLINE float most(Float x) {
    return reduce(_mm256_max_ps(x.a, x.b), [](__m128 p, __m128 q) { return _mm_max_ps(p, q); });
  }
  // The sums of sixteen vectors, one a lane.
  static HFQ_INLINE Float sums(const Float (&v)[16]) {
    __m256 part[2];
    for (int h = 0; h < 2; ++h) {
      __m256 r[8];
      for (int i = 0; i < 8; ++i) r[i] = _mm256_add_ps(v[8 * h + i].a, v[8 * h + i].b);
      const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(r[0], r[1]), _mm256_hadd_ps(r[2], r[3]));
      const __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(r[4], r[5]), _mm256_hadd_ps(r[6], r[7]));
      part[h] = _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
    }
    return {part[0], part[1]};
  }

  static HFQ_INLINE __m256i load_half(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static HFQ_INLINE Int int_zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static HFQ_INLINE Int int_set(std::int32_t v) {
    const __m256i all = _mm256_set1_epi32(v);
    return {all, all};
  }
  static HFQ_INLINE Int int_load(const std::int32_t* p) { return {load_half(p), load_half(p + 8)}; }
  static HFQ_INLINE Int int_add(Int x, Int y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
  static HFQ_INLINE Int int_sub(Int x, Int y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
  static HFQ_INLINE Int int_mul(Int x, Int y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
  static HFQ_INLINE Int int_min(Int x, Int y) { return {_mm256_min_epi32(x.a, y.a), _mm256_min_epi32(x.b, y.b)}; }
  static HFQ_INLINE Int int_max(Int x, Int y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
  static HFQ_INLINE std::int32_t int_sum(Int x) {
    const __m256i v = _mm256_add_epi32(x.a, x.b);
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
  }
  static HFQ_INLINE Float to_float(Int x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  static HFQ_INLINE Int to_int(Float x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
  static HFQ_INLINE Int load_u8(const std::uint8_t* p) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128(v, 8))};
  }
  static HFQ_INLINE __m128i narrow(__m256i v) {  // to 16 bits, saturating
    return _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  }
  static HFQ_INLINE void store_s8(std::int8_t* p, Int x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(narrow(x.a), narrow(x.b)));
  }
  static HFQ_INLINE void store_s8(std::int8_t* p, Int w, Int x, Int y, Int z) {
    store_s8(p, w);
    store_s8(p + 16, x);
    store_s8(p + 32, y);
    store_s8(p + 48, z);
  }
  static HFQ_INLINE Int add_codes(Int sum, const std::int8_t* p) {
    for (int i = 0; i < 64; i += 32) {
      const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), load_half(p + i));
      sum.a = _mm256_add_epi32(sum.a, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return sum;
  }

  static HFQ_INLINE __m256 from_bf16(__m128i v) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
  }
  static HFQ_INLINE Float load_bf16(const std::uint16_t* p) {
    return {from_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            from_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static HFQ_INLINE Float load_f16(const std::uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static HFQ_INLINE __m128i to_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256 is_nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    const __m256i kept = _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded), nan, is_nan));
    const __m256i high = _mm256_srli_epi32(kept, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  }
  static HFQ_INLINE void store_bf16(std::uint16_t* p, Float x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bf16(x.a));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), to_bf16(x.b));
  }
  static HFQ_INLINE void store_f16(std::uint16_t* p, Float x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
  }

  template <int Step>
  static HFQ_INLINE __m256 butterfly(__m256 v) {
    __m256 swapped = Step == 1   ? _mm256_permute_ps(v, 0xb1)
                     : Step == 2 ? _mm256_permute_ps(v, 0x4e)
                                 : _mm256_permute2f128_ps(v, v, 1);
    constexpr int kSecond = Step == 1 ? 0xaa : Step == 2 ? 0xcc : 0xf0;
    return _mm256_blend_ps(_mm256_add_ps(v, swapped), _mm256_sub_ps(swapped, v), kSecond);
  }
  template <int Step>
  static HFQ_INLINE Float butterfly(Float x) {
    if constexpr (Step == 8) {
      return {_mm256_add_ps(x.a, x.b), _mm256_sub_ps(x.a, x.b)};
    } else {
      return {butterfly<Step>(x.a), butterfly<Step>(x.b)};
    }
  }

  static HFQ_INLINE Bytes bytes(const std::uint8_t* p) { return {load_half(p), load_half(p + 32)}; }
  static HFQ_INLINE void bytes_store(std::uint8_t* p, Bytes v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), v.b);
  }
  // Four bytes from each of sixteen places that are `Stride` (1 or 2) apart; 64 are read.
  template <int Stride>
  static HFQ_INLINE __m256i half_windows(const std::uint8_t* p) {
    const __m256i words = Stride == 1 ? _mm256_setr_epi32(0, 1, 1, 1, 1, 2, 2, 2) : _mm256_setr_epi32(0, 1, 2, 2, 2, 3, 4, 4);
    const __m128i order = Stride == 1 ? _mm_setr_epi8(0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5, 3, 4, 5, 6)
                                      : _mm_setr_epi8(0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7, 8, 9);
    return _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(load_half(p), words), _mm256_broadcastsi128_si256(order));
  }
  template <int Stride>
  static HFQ_INLINE Bytes windows(const std::uint8_t* p) {
    return {half_windows<Stride>(p), half_windows<Stride>(p + 8 * Stride)};
  }
  template <int Shift>
  static HFQ_INLINE Bytes bits(Bytes v, std::uint8_t mask) {
    const __m256i keep = _mm256_set1_epi8(static_cast<char>(mask));
    return {_mm256_and_si256(_mm256_srli_epi16(v.a, Shift), keep), _mm256_and_si256(_mm256_srli_epi16(v.b, Shift), keep)};
  }
  template <int Shift>
  static HFQ_INLINE Bytes above(Bytes low, Bytes high) {
    return {_mm256_or_si256(low.a, _mm256_slli_epi16(high.a, Shift)),
            _mm256_or_si256(low.b, _mm256_slli_epi16(high.b, Shift))};
  }
  static HFQ_INLINE void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

#if defined(HFQ_AVX_VNNI)
  using Weights = Bytes;
  using Activations = __m256i;
  using Act = std::int8_t;
  template <int Bits>
  static HFQ_INLINE Weights weights(Bytes codes) {
    return codes;
  }
  static HFQ_INLINE Activations activations(const Act* p) {
    std::int32_t word;
    std::memcpy(&word, p, 4);
    return _mm256_set1_epi32(word);
  }
  static HFQ_INLINE Int dot(Int sum, Weights w, Activations a) {
    return {_mm256_dpbusd_avx_epi32(sum.a, w.a, a), _mm256_dpbusd_avx_epi32(sum.b, w.b, a)};
  }
  static void arrange(Act*, const std::int8_t*, std::int64_t) {}
#else
  // Of 4 inputs, the even ones and the odd ones apart, each pair in one lane.
  struct Weights {
    Int even, odd;
  };
  struct Activations {
    __m256i even, odd;
  };
  using Act = std::int16_t;
  template <int Bits>
  static HFQ_INLINE Weights weights(Bytes codes) {
    const __m256i low = _mm256_set1_epi16(0xff);
    return {{_mm256_and_si256(codes.a, low), _mm256_and_si256(codes.b, low)},
            {_mm256_srli_epi16(codes.a, 8), _mm256_srli_epi16(codes.b, 8)}};
  }
  static HFQ_INLINE Activations activations(const Act* p) {
    std::int32_t even, odd;
    std::memcpy(&even, p, 4);
    std::memcpy(&odd, p + 2, 4);
    return {_mm256_set1_epi32(even), _mm256_set1_epi32(odd)};
  }
  static HFQ_INLINE __m256i dot(__m256i sum, __m256i even, __m256i odd, Activations a) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, a.even));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(odd, a.odd));
  }
  static HFQ_INLINE Int dot(Int sum, Weights w, Activations a) {
    return {dot(sum.a, w.even.a, w.odd.a, a), dot(sum.b, w.even.b, w.odd.b, a)};
  }
  static void arrange(Act* out, const std::int8_t* in, std::int64_t count) {
    for (std::int64_t k = 0; k < count; k += 4) {
      out[k] = in[k];
      out[k + 1] = in[k + 2];
      out[k + 2] = in[k + 1];
      out[k + 3] = in[k + 3];
    }
  }
#endif

  template <int Bits>
  static HFQ_INLINE Bytes centre(Bytes codes) {
    const __m256i middle = _mm256_set1_epi8(static_cast<char>(1 << (Bits - 1)));
    return {_mm256_sub_epi8(codes.a, middle), _mm256_sub_epi8(codes.b, middle)};
  }
  template <int Index>
  static HFQ_INLINE __m256 channel_floats(__m256i codes) {
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(codes, 24 - 8 * Index), 24));
  }
  template <int Index>
  static HFQ_INLINE Float channel_floats(Bytes codes) {
    return {channel_floats<Index>(codes.a), channel_floats<Index>(codes.b)};
  }
};

}  // namespace
