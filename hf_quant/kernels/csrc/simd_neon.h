// Sixteen lanes in four NEON registers, with the byte dot product; with HFQ_I8MM also that of unsigned by signed bytes.

#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "abi.h"

namespace {

#define HFQ_INLINE inline __attribute__((always_inline))
#define HFQ_LAMBDA_INLINE __attribute__((always_inline))
#define HFQ_QUARTERS for (int i = 0; i < 4; ++i)

struct Simd {
  struct Float {
    float32x4_t v[4];
  };
  struct Int {
    int32x4_t v[4];
  };
  struct Bytes {
    uint8x16_t v[4];
  };
  using Activations = int8x16_t;
  using Act = std::int8_t;

  static constexpr int kRows = 5;
  static constexpr int kGroupRows = 4;
  static constexpr int kNibbleRows = 4;
  static constexpr int kFloatRows = 6;
  static constexpr int kTileVectors = 1;
  static constexpr int kAheadRows = 4;

  static HFQ_INLINE Float load(const float* p) {
    Float r;
    HFQ_QUARTERS r.v[i] = vld1q_f32(p + 4 * i);
    return r;
  }
  static HFQ_INLINE void store(float* p, Float x) { HFQ_QUARTERS vst1q_f32(p + 4 * i, x.v[i]); }
  static HFQ_INLINE Float set(float v) {
    Float r;
    HFQ_QUARTERS r.v[i] = vdupq_n_f32(v);
    return r;
  }
  static HFQ_INLINE Float zero() { return set(0.0f); }
  static HFQ_INLINE Float add(Float x, Float y) {
    HFQ_QUARTERS x.v[i] = vaddq_f32(x.v[i], y.v[i]);
    return x;
  }
  static HFQ_INLINE Float sub(Float x, Float y) {
    HFQ_QUARTERS x.v[i] = vsubq_f32(x.v[i], y.v[i]);
    return x;
  }
  static HFQ_INLINE Float mul(Float x, Float y) {
    HFQ_QUARTERS x.v[i] = vmulq_f32(x.v[i], y.v[i]);
    return x;
  }
  static HFQ_INLINE Float div(Float x, Float y) {
    HFQ_QUARTERS x.v[i] = vdivq_f32(x.v[i], y.v[i]);
    return x;
  }
  static HFQ_INLINE Float fma(Float x, Float y, Float z) {
    HFQ_QUARTERS z.v[i] = vfmaq_f32(z.v[i], x.v[i], y.v[i]);
    return z;
  }
  // As on x86: the second operand where either is NaN.
  static HFQ_INLINE Float min(Float x, Float y) {
    HFQ_QUARTERS x.v[i] = vbslq_f32(vcltq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]);
    return x;
  }
  static HFQ_INLINE Float max(Float x, Float y) {
    HFQ_QUARTERS x.v[i] = vbslq_f32(vcgtq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]);
    return x;
  }
  static HFQ_INLINE Float abs(Float x) {
    HFQ_QUARTERS x.v[i] = vabsq_f32(x.v[i]);
    return x;
  }
  static HFQ_INLINE Float select_negative(Float x, Float negative, Float other) {
    HFQ_QUARTERS x.v[i] = vbslq_f32(vcltzq_f32(x.v[i]), negative.v[i], other.v[i]);
    return x;
  }
  static HFQ_INLINE Float round(Float x) {
    HFQ_QUARTERS x.v[i] = vrndnq_f32(x.v[i]);
    return x;
  }
  static HFQ_INLINE Float round_any(Float x) { return round(x); }  // of any size
  static HFQ_INLINE Float power_of_two(Float n) {
    HFQ_QUARTERS {
      const int32x4_t biased = vaddq_s32(vcvtnq_s32_f32(n.v[i]), vdupq_n_s32(127));
      n.v[i] = vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
    }
    return n;
  }
  static HFQ_INLINE float sum(Float x) {
    return vaddvq_f32(vaddq_f32(vaddq_f32(x.v[0], x.v[1]), vaddq_f32(x.v[2], x.v[3])));
  }
  static HFQ_INLINE float least(Float x) {
    return vminvq_f32(vminq_f32(vminq_f32(x.v[0], x.v[1]), vminq_f32(x.v[2], x.v[3])));
  }
  static HFQ_INLINE float most(Float x) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.v[0], x.v[1]), vmaxq_f32(x.v[2], x.v[3])));
  }
  // The sums of sixteen vectors, one a lane.
  static HFQ_INLINE Float sums(const Float (&v)[16]) {
    Float r;
    HFQ_QUARTERS {
      float32x4_t part[4];
      for (int j = 0; j < 4; ++j) {
        const Float& x = v[4 * i + j];
        part[j] = vaddq_f32(vaddq_f32(x.v[0], x.v[1]), vaddq_f32(x.v[2], x.v[3]));
      }
      r.v[i] = vpaddq_f32(vpaddq_f32(part[0], part[1]), vpaddq_f32(part[2], part[3]));
    }
    return r;
  }

  static HFQ_INLINE Int int_set(std::int32_t v) {
    Int r;
    HFQ_QUARTERS r.v[i] = vdupq_n_s32(v);
    return r;
  }
  static HFQ_INLINE Int int_zero() { return int_set(0); }
  static HFQ_INLINE Int int_load(const std::int32_t* p) {
    Int r;
    HFQ_QUARTERS r.v[i] = vld1q_s32(p + 4 * i);
    return r;
  }
  static HFQ_INLINE Int int_add(Int x, Int y) {
    HFQ_QUARTERS x.v[i] = vaddq_s32(x.v[i], y.v[i]);
    return x;
  }
  static HFQ_INLINE Int int_sub(Int x, Int y) {
    HFQ_QUARTERS x.v[i] = vsubq_s32(x.v[i], y.v[i]);
    return x;
  }
  static HFQ_INLINE Int int_mul(Int x, Int y) {
    HFQ_QUARTERS x.v[i] = vmulq_s32(x.v[i], y.v[i]);
    return x;
  }
  static HFQ_INLINE Int int_min(Int x, Int y) {
    HFQ_QUARTERS x.v[i] = vminq_s32(x.v[i], y.v[i]);
    return x;
  }
  static HFQ_INLINE Int int_max(Int x, Int y) {
    HFQ_QUARTERS x.v[i] = vmaxq_s32(x.v[i], y.v[i]);
    return x;
  }
  static HFQ_INLINE std::int32_t int_sum(Int x) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3])));
  }
  static HFQ_INLINE Float to_float(Int x) {
    Float r;
    HFQ_QUARTERS r.v[i] = vcvtq_f32_s32(x.v[i]);
    return r;
  }
  static HFQ_INLINE Int to_int(Float x) {
    Int r;
    HFQ_QUARTERS r.v[i] = vcvtnq_s32_f32(x.v[i]);
    return r;
  }
  static HFQ_INLINE Int load_u8(const std::uint8_t* p) {
    const uint8x16_t bytes = vld1q_u8(p);
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
    return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), vreinterpretq_s32_u32(vmovl_high_u16(low)),
             vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))), vreinterpretq_s32_u32(vmovl_high_u16(high))}};
  }
  static HFQ_INLINE void store_s8(std::int8_t* p, Int x) {
    const int16x8_t low = vqmovn_high_s32(vqmovn_s32(x.v[0]), x.v[1]);
    const int16x8_t high = vqmovn_high_s32(vqmovn_s32(x.v[2]), x.v[3]);
    vst1q_s8(p, vqmovn_high_s16(vqmovn_s16(low), high));
  }
  static HFQ_INLINE void store_s8(std::int8_t* p, Int w, Int x, Int y, Int z) {
    store_s8(p, w);
    store_s8(p + 16, x);
    store_s8(p + 32, y);
    store_s8(p + 48, z);
  }
  static HFQ_INLINE Int add_codes(Int sum, const std::int8_t* p) {
    HFQ_QUARTERS sum.v[i] = vdotq_s32(sum.v[i], vld1q_s8(p + 16 * i), vdupq_n_s8(1));
    return sum;
  }

  static HFQ_INLINE Float load_bf16(const std::uint16_t* p) {
    Float r;
    HFQ_QUARTERS r.v[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
    return r;
  }
  static HFQ_INLINE void store_bf16(std::uint16_t* p, Float x) {
    HFQ_QUARTERS {
      const uint32x4_t bits = vreinterpretq_u32_f32(x.v[i]);
      const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
      const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
      const uint32x4_t kept = vbslq_u32(vceqq_f32(x.v[i], x.v[i]), rounded, vdupq_n_u32(0x7fc00000));
      vst1_u16(p + 4 * i, vshrn_n_u32(kept, 16));
    }
  }
  static HFQ_INLINE Float load_f16(const std::uint16_t* p) {
    Float r;
    HFQ_QUARTERS r.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
    return r;
  }
  static HFQ_INLINE void store_f16(std::uint16_t* p, Float x) {
    HFQ_QUARTERS vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])));
  }

  template <int Step>
  static HFQ_INLINE Float butterfly(Float x) {
    Float r;
    if constexpr (Step >= 4) {
      constexpr int kApart = Step / 4;
      HFQ_QUARTERS r.v[i] = (i & kApart) ? vsubq_f32(x.v[i ^ kApart], x.v[i]) : vaddq_f32(x.v[i], x.v[i ^ kApart]);
    } else {
      const uint32_t second[4] = {0, Step == 1 ? ~0u : 0, Step == 2 ? ~0u : 0, ~0u};
      const uint32x4_t mask = vld1q_u32(second);
      HFQ_QUARTERS {
        const float32x4_t swapped = Step == 1 ? vrev64q_f32(x.v[i]) : vextq_f32(x.v[i], x.v[i], 2);
        r.v[i] = vbslq_f32(mask, vsubq_f32(swapped, x.v[i]), vaddq_f32(x.v[i], swapped));
      }
    }
    return r;
  }

  static HFQ_INLINE Bytes bytes(const std::uint8_t* p) {
    Bytes r;
    HFQ_QUARTERS r.v[i] = vld1q_u8(p + 16 * i);
    return r;
  }
  static HFQ_INLINE void bytes_store(std::uint8_t* p, Bytes x) { HFQ_QUARTERS vst1q_u8(p + 16 * i, x.v[i]); }
  // Four bytes from each of sixteen places that are `Stride` (1 or 2) apart; 64 are read.
  template <int Stride>
  static HFQ_INLINE Bytes windows(const std::uint8_t* p) {
    alignas(16) static constexpr std::uint8_t kOne[16] = {0, 1, 2, 3, 1, 2, 3, 4, 2, 3, 4, 5, 3, 4, 5, 6};
    alignas(16) static constexpr std::uint8_t kTwo[16] = {0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7, 8, 9};
    const uint8x16_t order = vld1q_u8(Stride == 1 ? kOne : kTwo);
    Bytes r;
    HFQ_QUARTERS r.v[i] = vqtbl1q_u8(vld1q_u8(p + 4 * Stride * i), order);
    return r;
  }
  template <int Shift>
  static HFQ_INLINE Bytes bits(Bytes x, std::uint8_t mask) {
    HFQ_QUARTERS {
      uint8x16_t shifted = x.v[i];
      if constexpr (Shift != 0) shifted = vshrq_n_u8(shifted, Shift);
      x.v[i] = vandq_u8(shifted, vdupq_n_u8(mask));
    }
    return x;
  }
  template <int Shift>
  static HFQ_INLINE Bytes above(Bytes low, Bytes high) {
    HFQ_QUARTERS low.v[i] = vorrq_u8(low.v[i], vshlq_n_u8(high.v[i], Shift));
    return low;
  }
  static HFQ_INLINE void prefetch(const void* p) { __builtin_prefetch(p); }

  static HFQ_INLINE Activations activations(const Act* p) {
    std::int32_t word;
    std::memcpy(&word, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(word));
  }
  static void arrange(Act*, const std::int8_t*, std::int64_t) {}

#if defined(HFQ_I8MM)
  static constexpr int kCodeOffset = 0;
  using Weights = Bytes;
  template <int Bits>
  static HFQ_INLINE Weights weights(Bytes codes) {
    return codes;
  }
  static HFQ_INLINE Int dot(Int sum, const Weights& w, Activations a) {
    HFQ_QUARTERS sum.v[i] = vusdotq_s32(sum.v[i], w.v[i], a);
    return sum;
  }
#else
  // Both operands are signed: codes of 8 bits less 128, all others as they are.
  static constexpr int kCodeOffset = 128;
  struct Weights {
    int8x16_t v[4];
  };
  template <int Bits>
  static HFQ_INLINE Weights weights(Bytes codes) {
    Weights w;
    HFQ_QUARTERS w.v[i] = vreinterpretq_s8_u8(Bits == 8 ? veorq_u8(codes.v[i], vdupq_n_u8(0x80)) : codes.v[i]);
    return w;
  }
  static HFQ_INLINE Int dot(Int sum, const Weights& w, Activations a) {
    HFQ_QUARTERS sum.v[i] = vdotq_s32(sum.v[i], w.v[i], a);
    return sum;
  }
#endif

  template <int Bits>
  static HFQ_INLINE Bytes centre(Bytes codes) {
    HFQ_QUARTERS codes.v[i] = vsubq_u8(codes.v[i], vdupq_n_u8(static_cast<std::uint8_t>(1 << (Bits - 1))));
    return codes;
  }
  template <int Index>
  static HFQ_INLINE Float channel_floats(Bytes codes) {
    Float r;
    HFQ_QUARTERS {
      const int32x4_t word = vreinterpretq_s32_u8(codes.v[i]);
      int32x4_t top = word;
      if constexpr (Index != 3) top = vshlq_n_s32(word, 24 - 8 * Index);
      r.v[i] = vcvtq_f32_s32(vshrq_n_s32(top, 24));
    }
    return r;
  }
};

#undef HFQ_QUARTERS

}  // namespace
