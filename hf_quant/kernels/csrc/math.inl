// Elementary functions and the Hadamard butterfly on sixteen lanes. Included once per instruction set.

namespace {

using Float = Simd::Float;
using Int = Simd::Int;
using Bytes = Simd::Bytes;
using Act = Simd::Act;

// e^x for |x| <= 87, to 1e-7: 2^n e^r with |r| <= ln(2)/2 and a minimax polynomial of degree 6. NaN stays NaN.
HFQ_INLINE Float exponential(Float x) {
  x = Simd::min(Simd::set(87.0f), Simd::max(Simd::set(-87.0f), x));
  const Float n = Simd::round(Simd::mul(x, Simd::set(1.44269504f)));
  // ln(2) in two parts, the first with few bits, so that n times it is exact.
  Float r = Simd::fma(n, Simd::set(-0.693359375f), x);
  r = Simd::fma(n, Simd::set(2.12194440e-4f), r);
  Float p = Simd::set(1.3839782030e-3f);
  p = Simd::fma(p, r, Simd::set(8.3717826289e-3f));
  p = Simd::fma(p, r, Simd::set(4.1668111344e-2f));
  p = Simd::fma(p, r, Simd::set(1.6666491570e-1f));
  p = Simd::fma(p, r, Simd::set(4.9999994036e-1f));
  p = Simd::fma(p, r, Simd::set(1.0f));
  p = Simd::fma(p, r, Simd::set(1.0f));
  return Simd::mul(p, Simd::power_of_two(n));
}

// erfc(z) for z >= 0: e^(-z^2) times a minimax polynomial in 1 / (1 + 0.4 z), to 1e-7 of the value.
HFQ_INLINE Float complementary_error(Float z) {
  const Float t = Simd::div(Simd::set(1.0f), Simd::fma(Simd::set(0.4f), z, Simd::set(1.0f)));
  Float p = Simd::set(0.039867790820f);
  p = Simd::fma(p, t, Simd::set(-0.133357587219f));
  p = Simd::fma(p, t, Simd::set(0.069060634946f));
  p = Simd::fma(p, t, Simd::set(0.105743247735f));
  p = Simd::fma(p, t, Simd::set(0.066933818470f));
  p = Simd::fma(p, t, Simd::set(0.199107446052f));
  p = Simd::fma(p, t, Simd::set(0.200356187610f));
  p = Simd::fma(p, t, Simd::set(0.226668126600f));
  p = Simd::fma(p, t, Simd::set(0.225620380658f));
  return Simd::mul(Simd::mul(p, t), exponential(Simd::sub(Simd::zero(), Simd::mul(z, z))));
}

HFQ_INLINE Float times_sigmoid(Float x, Float argument) {
  const Float e = exponential(Simd::sub(Simd::zero(), argument));
  return Simd::div(x, Simd::add(Simd::set(1.0f), e));
}

HFQ_INLINE Float activate(Float x, std::int32_t kind) {
  switch (kind) {
    case hf_quant::kGeluErf: {
      // Through erfc of the magnitude, which does not cancel where the result is small.
      const Float half = Simd::mul(Simd::set(0.5f), x);
      const Float tail = Simd::mul(half, complementary_error(Simd::mul(Simd::abs(x), Simd::set(0.70710678f))));
      return Simd::select_negative(x, tail, Simd::sub(x, tail));
    }
    case hf_quant::kGeluTanh: {
      // 1 + tanh(u) is twice the sigmoid of 2u.
      const Float cubic = Simd::fma(Simd::mul(Simd::mul(x, x), x), Simd::set(0.044715f), x);
      return times_sigmoid(x, Simd::mul(cubic, Simd::set(1.5957691216f)));
    }
    case hf_quant::kSilu:
      return times_sigmoid(x, x);
    case hf_quant::kRelu:
      return Simd::max(Simd::zero(), x);
    default:
      return x;
  }
}

// Sixteen numbers of any of the three dtypes.
HFQ_INLINE Float load_as(const void* p, std::int64_t at, std::int32_t dtype) {
  if (dtype == hf_quant::kFloat32) return Simd::load(static_cast<const float*>(p) + at);
  const std::uint16_t* half = static_cast<const std::uint16_t*>(p) + at;
  return dtype == hf_quant::kBfloat16 ? Simd::load_bf16(half) : Simd::load_f16(half);
}

HFQ_INLINE void store_as(void* p, std::int64_t at, std::int32_t dtype, Float v) {
  if (dtype == hf_quant::kFloat32) return Simd::store(static_cast<float*>(p) + at, v);
  std::uint16_t* half = static_cast<std::uint16_t*>(p) + at;
  dtype == hf_quant::kBfloat16 ? Simd::store_bf16(half, v) : Simd::store_f16(half, v);
}

// The same for `count` < 16 numbers; lanes past them are zero. Nothing past them is touched.
inline Float load_some(const void* p, std::int64_t at, std::int32_t dtype, int count) {
  alignas(64) std::uint8_t buffer[64] = {};
  const int size = dtype == hf_quant::kFloat32 ? 4 : 2;
  std::memcpy(buffer, static_cast<const std::uint8_t*>(p) + at * size, static_cast<std::size_t>(count * size));
  return load_as(buffer, 0, dtype);
}

inline void store_some(void* p, std::int64_t at, std::int32_t dtype, Float v, int count) {
  alignas(64) std::uint8_t buffer[64];
  const int size = dtype == hf_quant::kFloat32 ? 4 : 2;
  store_as(buffer, 0, dtype, v);
  std::memcpy(static_cast<std::uint8_t*>(p) + at * size, buffer, static_cast<std::size_t>(count * size));
}

// One block of 16 * Vectors numbers times the orthonormal Hadamard matrix, in place. The stages go from neighbours to
// halves; formats/rotation.py adds in the same order, so results are the same to the last bit.
template <int Vectors>
HFQ_INLINE void hadamard_block(float* p, float norm) {
  Float v[Vectors];
  for (int i = 0; i < Vectors; ++i) {
    v[i] = Simd::load(p + 16 * i);
    v[i] = Simd::butterfly<1>(v[i]);
    v[i] = Simd::butterfly<2>(v[i]);
    v[i] = Simd::butterfly<4>(v[i]);
    v[i] = Simd::butterfly<8>(v[i]);
  }
  for (int step = 1; step < Vectors; step *= 2) {
    for (int i = 0; i < Vectors; ++i) {
      if (i & step) continue;
      const Float a = v[i], b = v[i + step];
      v[i] = Simd::add(a, b);
      v[i + step] = Simd::sub(a, b);
    }
  }
  for (int i = 0; i < Vectors; ++i) Simd::store(p + 16 * i, Simd::mul(v[i], Simd::set(norm)));
}

inline void rotate_row(float* row, std::int64_t width, std::int32_t block) {
  const float norm = 1.0f / std::sqrt(static_cast<float>(block));
  for (std::int64_t at = 0; at < width; at += block) {
    switch (block) {
      case 16: hadamard_block<1>(row + at, norm); break;
      case 32: hadamard_block<2>(row + at, norm); break;
      case 64: hadamard_block<4>(row + at, norm); break;
      case 128: hadamard_block<8>(row + at, norm); break;
      default: hadamard_block<16>(row + at, norm); break;
    }
  }
}

}  // namespace
