// Sixteen lanes in four of the vector types of GCC and Clang, which they turn into whatever the target has.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "abi.h"

namespace {

#define HFQ_INLINE inline __attribute__((always_inline))
#define HFQ_LAMBDA_INLINE __attribute__((always_inline))
#define HFQ_LANES for (int i = 0; i < 16; ++i)

typedef float Quad __attribute__((vector_size(16)));
typedef std::int32_t IntQuad __attribute__((vector_size(16)));
typedef std::uint8_t ByteQuad __attribute__((vector_size(16)));
typedef std::uint32_t WordQuad __attribute__((vector_size(16)));
typedef std::int16_t HalfQuad __attribute__((vector_size(16)));

template <class Vector>
struct Four {
  Vector v[4];
};

#define HFQ_OPERATOR(op)                                                                      \
  template <class Vector>                                                                     \
  HFQ_INLINE auto operator op(Four<Vector> a, Four<Vector> b)->Four<decltype(a.v[0] op b.v[0])> { \
    return {{a.v[0] op b.v[0], a.v[1] op b.v[1], a.v[2] op b.v[2], a.v[3] op b.v[3]}};        \
  }                                                                                           \
  template <class Vector, class Scalar>                                                       \
  HFQ_INLINE auto operator op(Four<Vector> a, Scalar b)->Four<decltype(a.v[0] op b)> {        \
    return {{a.v[0] op b, a.v[1] op b, a.v[2] op b, a.v[3] op b}};                            \
  }
HFQ_OPERATOR(+)
HFQ_OPERATOR(-)
HFQ_OPERATOR(*)
HFQ_OPERATOR(/)
HFQ_OPERATOR(&)
HFQ_OPERATOR(|)
HFQ_OPERATOR(<<)
HFQ_OPERATOR(>>)
HFQ_OPERATOR(<)
HFQ_OPERATOR(>)
HFQ_OPERATOR(>=)
HFQ_OPERATOR(==)
HFQ_OPERATOR(!=)
#undef HFQ_OPERATOR

template <class Vector>
HFQ_INLINE Four<Vector> operator~(Four<Vector> a) {
  return {{~a.v[0], ~a.v[1], ~a.v[2], ~a.v[3]}};
}

struct Simd {
  using Float = Four<Quad>;
  using Int = Four<IntQuad>;
  using Bytes = Four<ByteQuad>;
  using Words = Four<WordQuad>;
  using Halves = Four<HalfQuad>;
  // Of 4 inputs, the even ones and the odd ones apart, each pair in one lane.
  struct Weights {
    Halves even, odd;
  };
  struct Activations {
    Halves even, odd;
  };
  using Act = std::int8_t;

  static constexpr int kRows = 1;
  static constexpr int kGroupRows = 1;
  static constexpr int kNibbleRows = 1;
  static constexpr int kFloatRows = 2;
  static constexpr int kTileVectors = 1;
  static constexpr int kAheadRows = 0;
  static constexpr int kCodeOffset = 0;

  template <class Vector>
  static HFQ_INLINE Vector read(const void* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  template <class To, class From>
  static HFQ_INLINE To as(From v) {
    using Vector = decltype(To{}.v[0] + To{}.v[0]);
    return {{(Vector)v.v[0], (Vector)v.v[1], (Vector)v.v[2], (Vector)v.v[3]}};
  }
  template <class Vector>
  static HFQ_INLINE auto at(const Vector& a, int i) {
    return a.v[i / 4][i % 4];
  }
  static HFQ_INLINE Float select(Int mask, Float yes, Float no) {
    return as<Float>((as<Int>(yes) & mask) | (as<Int>(no) & ~mask));
  }

  static HFQ_INLINE Float load(const float* p) { return read<Float>(p); }
  static HFQ_INLINE void store(float* p, Float v) { std::memcpy(p, &v, sizeof v); }
  static HFQ_INLINE Float set(float x) { return Float{} + x; }
  static HFQ_INLINE Float zero() { return Float{}; }
  static HFQ_INLINE Float add(Float a, Float b) { return a + b; }
  static HFQ_INLINE Float sub(Float a, Float b) { return a - b; }
  static HFQ_INLINE Float mul(Float a, Float b) { return a * b; }
  static HFQ_INLINE Float div(Float a, Float b) { return a / b; }
  static HFQ_INLINE Float fma(Float a, Float b, Float c) { return a * b + c; }
  static HFQ_INLINE Float min(Float a, Float b) { return select(a < b, a, b); }
  static HFQ_INLINE Float max(Float a, Float b) { return select(a > b, a, b); }
  static HFQ_INLINE Float abs(Float a) { return as<Float>(as<Int>(a) & 0x7fffffff); }
  static HFQ_INLINE Float select_negative(Float x, Float negative, Float other) { return select(x < 0.0f, negative, other); }
  // To nearest, ties to even, for numbers below 2^22: adding 1.5 * 2^23 leaves no room for fractions.
  static HFQ_INLINE Float round(Float a) { return (a + 12582912.0f) - 12582912.0f; }
  // The same for numbers of any size: from 2^22 on, what fractions there are no longer matter to codes.
  static HFQ_INLINE Float round_any(Float a) { return select(abs(a) < 4194304.0f, round(a), a); }
  static HFQ_INLINE Float power_of_two(Float n) {
    // NaN, which has no integer, makes any power: the result is multiplied by NaN anyway.
    return as<Float>((to_int(n) + 127) << 23);
  }
  static HFQ_INLINE float sum(Float a) {
    float lane[16];
    store(lane, a);
    for (int step = 8; step > 0; step /= 2) {
      for (int i = 0; i < step; ++i) lane[i] += lane[i + step];
    }
    return lane[0];
  }
  static HFQ_INLINE float least(Float a) {
    float least = at(a, 0);
    HFQ_LANES least = at(a, i) < least ? at(a, i) : least;
    return least;
  }
  static HFQ_INLINE float most(Float a) {
    float most = at(a, 0);
    HFQ_LANES most = at(a, i) > most ? at(a, i) : most;
    return most;
  }
  // The sums of sixteen vectors, one a lane.
  static HFQ_INLINE Float sums(const Float (&v)[16]) {
    float lane[16];
    HFQ_LANES lane[i] = sum(v[i]);
    return load(lane);
  }

  static HFQ_INLINE Int int_set(std::int32_t x) { return Int{} + x; }
  static HFQ_INLINE Int int_zero() { return Int{}; }
  static HFQ_INLINE Int int_load(const std::int32_t* p) { return read<Int>(p); }
  static HFQ_INLINE Int int_add(Int a, Int b) { return a + b; }
  static HFQ_INLINE Int int_sub(Int a, Int b) { return a - b; }
  static HFQ_INLINE Int int_mul(Int a, Int b) { return a * b; }
  static HFQ_INLINE Int int_min(Int a, Int b) { return (a & (a < b)) | (b & ~(a < b)); }
  static HFQ_INLINE Int int_max(Int a, Int b) { return (a & (a > b)) | (b & ~(a > b)); }
  static HFQ_INLINE std::int32_t int_sum(Int a) {
    std::int32_t total = 0;
    HFQ_LANES total += at(a, i);
    return total;
  }
  static HFQ_INLINE Float to_float(Int a) { 
    return {{__builtin_convertvector(a.v[0], Quad), __builtin_convertvector(a.v[1], Quad),
             __builtin_convertvector(a.v[2], Quad), __builtin_convertvector(a.v[3], Quad)}};
  }
  // To nearest, for numbers below 2^22; NaN, which C++ leaves undefined, becomes 0.
  static HFQ_INLINE Int to_int(Float a) { 
    const Float r = select(a == a, round(a), Float{});
    return {{__builtin_convertvector(r.v[0], IntQuad), __builtin_convertvector(r.v[1], IntQuad),
             __builtin_convertvector(r.v[2], IntQuad), __builtin_convertvector(r.v[3], IntQuad)}};
  }
  static HFQ_INLINE Int load_u8(const std::uint8_t* p) {
    Int r{};
    HFQ_LANES r.v[i / 4][i % 4] = p[i];
    return r;
  }
  static HFQ_INLINE void store_s8(std::int8_t* p, Int a) {
    const Int kept = int_min(int_max(a, int_set(-128)), int_set(127));
    HFQ_LANES p[i] = static_cast<std::int8_t>(at(kept, i));
  }
  static HFQ_INLINE void store_s8(std::int8_t* p, Int w, Int x, Int y, Int z) {
    store_s8(p, w);
    store_s8(p + 16, x);
    store_s8(p + 32, y);
    store_s8(p + 48, z);
  }
  static HFQ_INLINE Int add_codes(Int sum, const std::int8_t* p) {
    HFQ_LANES sum.v[i / 4][i % 4] += p[4 * i] + p[4 * i + 1] + p[4 * i + 2] + p[4 * i + 3];
    return sum;
  }

  static HFQ_INLINE Words load_halves(const std::uint16_t* p) {
    Words r{};
    HFQ_LANES r.v[i / 4][i % 4] = p[i];
    return r;
  }
  static HFQ_INLINE void store_halves(std::uint16_t* p, Words v) { HFQ_LANES p[i] = static_cast<std::uint16_t>(at(v, i)); }
  static HFQ_INLINE Float load_bf16(const std::uint16_t* p) { return as<Float>(load_halves(p) << 16); }
  static HFQ_INLINE void store_bf16(std::uint16_t* p, Float a) {
    const Words bits = as<Words>(a), rounded = bits + 0x7fff + ((bits >> 16) & 1);
    const Words is_nan = as<Words>(a != a);
    store_halves(p, ((rounded & ~is_nan) | (is_nan & 0x7fc00000u)) >> 16);
  }
  static HFQ_INLINE Float load_f16(const std::uint16_t* p) {
    // Exponent and mantissa moved into place, then scaled by 2^112, which also makes subnormals right.
    const Words half = load_halves(p), sign = (half & 0x8000) << 16, rest = half & 0x7fff;
    const Words finite = as<Words>(as<Float>(rest << 13) * 5.192296858534828e33f);
    const Words special = as<Words>(rest >= 0x7c00u);
    return as<Float>(sign | (finite & ~special) | ((((rest & 0x3ff) << 13) | 0x7f800000u) & special));
  }
  static HFQ_INLINE void store_f16(std::uint16_t* p, Float a) {
    const Words bits = as<Words>(a), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    const Words normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
    // Subnormal: adding 0.5 puts the last bit of a half where rounding to a float happens.
    const Words small = as<Words>(as<Float>(magnitude) + 0.5f) - 0x3f000000u;
    const Words is_small = as<Words>(magnitude < 0x38800000u), is_large = as<Words>(magnitude >= 0x477ff000u);
    const Words is_nan = as<Words>(magnitude > 0x7f800000u);
    Words half = (small & is_small) | (normal & ~is_small);
    half = (is_large & 0x7c00u) | (half & ~is_large);
    store_halves(p, sign | (is_nan & 0x7e00u) | (half & ~is_nan));
  }

  template <int Step>
  static HFQ_INLINE Float butterfly(Float a) {
    Float r{};
    HFQ_LANES r.v[i / 4][i % 4] = (i & Step) ? at(a, i ^ Step) - at(a, i) : at(a, i) + at(a, i ^ Step);
    return r;
  }

  static HFQ_INLINE Bytes bytes(const std::uint8_t* p) { return read<Bytes>(p); }
  static HFQ_INLINE void bytes_store(std::uint8_t* p, Bytes a) { std::memcpy(p, &a, sizeof a); }
  // Four bytes from each of sixteen places that are `Stride` apart.
  template <int Stride>
  static HFQ_INLINE Bytes windows(const std::uint8_t* p) {
    std::uint8_t found[64];
    HFQ_LANES std::memcpy(found + 4 * i, p + Stride * i, 4);
    return bytes(found);
  }
  template <int Shift>
  static HFQ_INLINE Bytes bits(Bytes a, std::uint8_t mask) {
    return as<Bytes>(as<Words>(a) >> Shift) & mask;
  }
  template <int Shift>
  static HFQ_INLINE Bytes above(Bytes low, Bytes high) {
    return low | as<Bytes>(as<Words>(high) << Shift);
  }
  static HFQ_INLINE void prefetch(const void*) {}

  template <int Bits>
  static HFQ_INLINE Weights weights(Bytes codes) {
    const Words word = as<Words>(codes);
    return {as<Halves>(word & 0x00ff00ff), as<Halves>((word >> 8) & 0x00ff00ff)};
  }
  static HFQ_INLINE Activations activations(const Act* p) {
    const std::uint32_t even = static_cast<std::uint16_t>(p[0]) | static_cast<std::uint32_t>(p[2]) << 16;
    const std::uint32_t odd = static_cast<std::uint16_t>(p[1]) | static_cast<std::uint32_t>(p[3]) << 16;
    return {as<Halves>(Words{} + even), as<Halves>(Words{} + odd)};
  }
  static HFQ_INLINE Int dot(Int total, Weights w, Activations a) {
    // At most 255 * 128 in magnitude: products fit 16 bits.
    const Int even = as<Int>(w.even * a.even), odd = as<Int>(w.odd * a.odd);
    total = total + (as<Int>(as<Words>(even) << 16) >> 16) + (even >> 16);
    return total + (as<Int>(as<Words>(odd) << 16) >> 16) + (odd >> 16);
  }
  static void arrange(Act*, const std::int8_t*, std::int64_t) {}

  template <int Bits>
  static HFQ_INLINE Bytes centre(Bytes codes) {
    return codes - static_cast<std::uint8_t>(1 << (Bits - 1));
  }
  template <int Index>
  static HFQ_INLINE Float channel_floats(Bytes codes) {
    return to_float(as<Int>(as<Words>(codes) << (24 - 8 * Index)) >> 24);
  }
};

#undef HFQ_LANES

}  // namespace
