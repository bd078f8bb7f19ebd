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

// erf(x / sqrt(2)) to 2e-7: z P(z^2) with a minimax polynomial of degree 15 on |z| <= 3.92, from where on erf is 1. The
// polynomial's argument is shifted and scaled to [-1, 1], which keeps its coefficients and rounding errors small.
HFQ_INLINE Float scaled_error_function(Float x) {
  constexpr float kMost = 3.92f;
  const Float z = Simd::mul(x, Simd::set(0.70710678f));
  const Float kept = Simd::min(Simd::set(kMost), Simd::max(Simd::set(-kMost), z));
  const Float u = Simd::fma(Simd::mul(kept, kept), Simd::set(2.0f / (kMost * kMost)), Simd::set(-1.0f));
  constexpr float kP[] = {-7.75410248e-4f, 2.04576569e-3f, -1.61868456e-3f, 2.08711002e-3f, -7.37198413e-3f,
                          1.40049291e-2f,  -2.01803908e-2f, 2.98207953e-2f, -4.33747113e-2f, 5.83585155e-2f,
                          -7.40301610e-2f, 9.06023070e-2f, -1.09178500e-1f, 1.34084276e-1f, -1.80108642e-1f,
                          3.60736814e-1f};
  Float p = Simd::set(kP[0]);
  for (int i = 1; i < 16; ++i) p = Simd::fma(p, u, Simd::set(kP[i]));
  return Simd::mul(kept, p);
}

HFQ_INLINE Float times_sigmoid(Float x, Float argument) {
  const Float e = exponential(Simd::sub(Simd::zero(), argument));
  return Simd::div(x, Simd::add(Simd::set(1.0f), e));
}

HFQ_INLINE Float activate(Float x, std::int32_t kind) {
  switch (kind) {
    case hf_quant::kGeluErf: {
      const Float half = Simd::mul(Simd::set(0.5f), x);
      return Simd::fma(half, scaled_error_function(x), half);
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

// One block of 16 * Vectors numbers times the orthonormal Hadamard matrix. The stages go from neighbours to halves;
// formats/rotation.py adds in the same order, so results are the same to the last bit.
template <int Vectors>
HFQ_INLINE void hadamard(Float (&v)[Vectors], Float norm) {
  for (int i = 0; i < Vectors; ++i) {
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
  for (int i = 0; i < Vectors; ++i) v[i] = Simd::mul(v[i], norm);
}

// A row of `width` numbers, rotated in blocks, from wherever `from(at)` reads sixteen of them to `out`; `see` gets each
// sixteen that are written.
template <int Vectors, class From, class See>
HFQ_INLINE void rotate_blocks(std::int64_t width, float* out, From from, See see) {
  const Float norm = Simd::set(1.0f / std::sqrt(static_cast<float>(16 * Vectors)));
  for (std::int64_t at = 0; at < width; at += 16 * Vectors) {
    Float v[Vectors];
    for (int i = 0; i < Vectors; ++i) v[i] = from(at + 16 * i);
    hadamard<Vectors>(v, norm);
    for (int i = 0; i < Vectors; ++i) {
      see(v[i]);
      Simd::store(out + at + 16 * i, v[i]);
    }
  }
}

template <class From, class See>
HFQ_INLINE void rotate_row(std::int64_t width, std::int32_t block, float* out, From from, See see) {
  switch (block) {
    case 16: return rotate_blocks<1>(width, out, from, see);
    case 32: return rotate_blocks<2>(width, out, from, see);
    case 64: return rotate_blocks<4>(width, out, from, see);
    case 128: return rotate_blocks<8>(width, out, from, see);
    default: return rotate_blocks<16>(width, out, from, see);
  }
}

inline void rotate_row(float* row, std::int64_t width, std::int32_t block) {
  rotate_row(width, block, row, [&](std::int64_t at) { return Simd::load(row + at); }, [](Float) {});
}

}  // namespace
