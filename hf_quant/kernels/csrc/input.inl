// Rows of floats to what weights are multiplied with: loaded, normalised, rotated, quantized. Per instruction set.

namespace {

// Where the rows of one chunk go.
struct Rows {
  Act* codes;           // [rows, stride]; null for float inputs
  float* floats;        // [rows, stride] for float inputs that are not used where they lie
  float* scales;        // [rows, scales_per_row]
  std::int32_t* sums;   // [rows, sums_per_row]: sums of codes, per group of the weights
  std::int32_t* zeros;  // [rows]
  float* float_sums;    // [rows, sums_per_row]: sums of floats, for weight-only
  std::int64_t stride;
  std::int64_t scales_per_row;
  std::int64_t sums_per_row;
  std::int64_t sum_group;  // inputs that share a sum
};

struct Range {
  float low, high;
  bool finite;
};

// Extremes of what has been seen, widened to hold zero. NaN and infinities make them not finite.
struct Extremes {
  Float low = Simd::zero(), high = Simd::zero(), poison = Simd::zero();

  HFQ_INLINE void see(Float v) {
    low = Simd::min(v, low);
    high = Simd::max(v, high);
    poison = Simd::fma(v, Simd::zero(), poison);
  }
  HFQ_INLINE Range range() const { return {Simd::least(low), Simd::most(high), Simd::sum(poison) == 0.0f}; }
};

// One row as floats, padded with zeros to a whole vector: where it lies if it may stay there, else in `buffer`. What is
// rotated on its way is also shown to `seen`; returns with `*showed` whether that happened.
inline const float* load_row(const hf_quant::Input& in, const void* data, std::int64_t row, float* buffer,
                             Extremes* seen = nullptr, bool* showed = nullptr) {
  const std::int64_t width = in.width, whole = width / 16 * 16;
  const int rest = static_cast<int>(width - whole);
  const std::int64_t at = row * in.stride;
  if (in.rotation && in.norm == hf_quant::kNoNorm) {
    // Blocks are whole vectors, so there is no rest.
    Extremes extremes;
    const auto see = [&](Float v) { extremes.see(v); };
    if (in.dtype == hf_quant::kFloat32) {
      const float* x = static_cast<const float*>(data) + at;
      rotate_row(width, in.rotation, buffer, [&](std::int64_t k) { return Simd::load(x + k); }, see);
    } else {
      rotate_row(width, in.rotation, buffer, [&](std::int64_t k) { return load_as(data, at + k, in.dtype); }, see);
    }
    if (seen) *seen = extremes;
    if (showed) *showed = true;
    return buffer;
  }
  const bool changed = in.norm != hf_quant::kNoNorm || in.rotation != 0;
  if (in.dtype == hf_quant::kFloat32 && rest == 0 && !changed) return static_cast<const float*>(data) + at;
  Float total = Simd::zero();
  for (std::int64_t k = 0; k < whole; k += 16) {
    const Float v = load_as(data, at + k, in.dtype);
    total = in.norm == hf_quant::kRmsNorm ? Simd::fma(v, v, total) : Simd::add(v, total);
    Simd::store(buffer + k, v);
  }
  if (rest) {
    const Float v = load_some(data, at + whole, in.dtype, rest);
    total = in.norm == hf_quant::kRmsNorm ? Simd::fma(v, v, total) : Simd::add(v, total);
    Simd::store(buffer + whole, v);
  }
  if (in.norm != hf_quant::kNoNorm) {
    const float n = static_cast<float>(width);
    float mean = 0.0f, variance = Simd::sum(total) / n;
    if (in.norm == hf_quant::kLayerNorm) {
      mean = variance;
      // Lanes past the end are as far from the mean as the mean itself: they add nothing.
      for (std::int64_t k = width; k < whole + (rest ? 16 : 0); ++k) buffer[k] = mean;
      Float squares = Simd::zero();
      for (std::int64_t k = 0; k < width; k += 16) {
        const Float d = Simd::sub(Simd::load(buffer + k), Simd::set(mean));
        squares = Simd::fma(d, d, squares);
      }
      variance = Simd::sum(squares) / n;
    }
    const float factor = 1.0f / std::sqrt(variance + in.epsilon);
    for (std::int64_t k = 0; k < width; k += 16) {
      const int count = static_cast<int>(width - k < 16 ? width - k : 16);
      Float v = Simd::mul(Simd::sub(Simd::load(buffer + k), Simd::set(mean)), Simd::set(factor));
      if (in.norm_weight) {
        const Float weight = count == 16 ? load_as(in.norm_weight, k, in.norm_dtype)
                                         : load_some(in.norm_weight, k, in.norm_dtype, count);
        v = Simd::mul(v, weight);
      }
      if (in.norm_bias) {
        const Float bias = count == 16 ? load_as(in.norm_bias, k, in.norm_dtype)
                                       : load_some(in.norm_bias, k, in.norm_dtype, count);
        v = Simd::add(v, bias);
      }
      Simd::store(buffer + k, v);
    }
    for (std::int64_t k = width; k < whole + (rest ? 16 : 0); ++k) buffer[k] = 0.0f;
  }
  if (in.rotation) rotate_row(buffer, width, in.rotation);
  return buffer;
}

HFQ_INLINE Range range_of(const float* x, std::int64_t begin, std::int64_t end) {
  Extremes first, second;
  std::int64_t k = begin;
  for (; k + 32 <= end; k += 32) {
    first.see(Simd::load(x + k));
    second.see(Simd::load(x + k + 16));
  }
  if (k < end) first.see(Simd::load(x + k));
  first.low = Simd::min(first.low, second.low);
  first.high = Simd::max(first.high, second.high);
  first.poison = Simd::add(first.poison, second.poison);
  return first.range();
}

struct Grid {
  float scale, inverse;
  std::int32_t zero, lowest;
  bool clip;  // inputs may lie outside
};

template <bool Clip>
HFQ_INLINE Int code_of(const float* x, const Grid& grid) {
  Float v = Simd::mul(Simd::load(x), Simd::set(grid.inverse));
  // Far outside, so that what follows does not overflow.
  if (Clip) v = Simd::min(Simd::set(1024.0f), Simd::max(Simd::set(-1024.0f), v));
  Int code = Simd::int_add(Simd::to_int(v), Simd::int_set(grid.zero));
  if (Clip) code = Simd::int_max(code, Simd::int_set(grid.lowest));
  return code;
}

// Codes of [begin, end) of a row into `out`; returns their sum. A zero of padding becomes the zero point.
template <bool Clip>
HFQ_INLINE std::int32_t encode(const float* x, std::int8_t* out, std::int64_t begin, std::int64_t end, const Grid& grid) {
  Int total = Simd::int_zero();
  std::int64_t k = begin;
  for (; k + 64 <= end; k += 64) {
    Simd::store_s8(out + k, code_of<Clip>(x + k, grid), code_of<Clip>(x + k + 16, grid), code_of<Clip>(x + k + 32, grid),
                   code_of<Clip>(x + k + 48, grid));
    total = Simd::add_codes(total, out + k);
  }
  for (; k < end; k += 16) {
    Int code = code_of<Clip>(x + k, grid);
    code = Simd::int_min(Simd::int_max(code, Simd::int_set(-128)), Simd::int_set(127));
    total = Simd::int_add(total, code);
    Simd::store_s8(out + k, code);
  }
  return Simd::int_sum(total);
}

constexpr float kTiny = 1.17549435e-38f;

// The grid that calibration has found.
HFQ_INLINE Grid static_grid(const hf_quant::Input& in) {
  return {in.static_scale, 1.0f / in.static_scale, in.static_zero, in.static_lowest, true};
}

// The grid of dynamic inputs, as AffineFormat.quantize_input in formats/affine.py has it, operation by operation.
HFQ_INLINE Grid grid_of(Range range, bool symmetric) {
  Grid grid;
  grid.clip = false;
  if (symmetric) {
    const float largest = range.high > -range.low ? range.high : -range.low;
    const float scale = largest / 127.0f;
    grid.scale = scale > kTiny ? scale : kTiny;
    grid.zero = 0;
    grid.lowest = -127;
  } else {
    const float scale = range.high / 255.0f - range.low / 255.0f;
    grid.scale = scale > kTiny ? scale : kTiny;
    float zero = std::nearbyint(-128.0f - range.low / grid.scale);
    zero = zero < -128.0f ? -128.0f : zero > 127.0f ? 127.0f : zero;
    grid.zero = static_cast<std::int32_t>(zero);
    grid.lowest = -128;
  }
  grid.inverse = 1.0f / grid.scale;
  return grid;
}

constexpr float kNaN = __builtin_nanf("");

// Quantize one row into row `r` of `rows`; `seen` are its extremes, where they are known. `bytes` has room for its codes.
inline void quantize_row(const hf_quant::Input& in, const float* x, const Extremes* seen, const Rows& rows,
                         std::int64_t r, std::int8_t* bytes) {
  const std::int64_t width = in.width, padded = (width + 15) / 16 * 16;
  constexpr bool kInPlace = sizeof(Act) == 1;
  std::int8_t* out = kInPlace ? reinterpret_cast<std::int8_t*>(rows.codes + r * rows.stride) : bytes;
  std::int32_t* sums = rows.sums + r * rows.sums_per_row;
  float* scales = rows.scales + r * rows.scales_per_row;
  rows.zeros[r] = 0;
  if (in.mode == hf_quant::kGroupSymmetric) {
    for (std::int64_t g = 0; g < rows.sums_per_row; ++g) {
      const std::int64_t begin = g * in.group, end = begin + in.group;
      const Range range = range_of(x, begin, end);
      if (!range.finite) {
        scales[g] = kNaN;
        sums[g] = 0;
        std::memset(out + begin, 0, static_cast<std::size_t>(in.group));
        continue;
      }
      const Grid grid = grid_of(range, true);
      scales[g] = grid.scale;
      sums[g] = encode<false>(x, out, begin, end, grid);
    }
  } else if (const Range range = seen ? seen->range() : range_of(x, 0, padded); !range.finite) {
    // A row that cannot be told in codes becomes NaN as a whole.
    scales[0] = kNaN;
    for (std::int64_t g = 0; g < rows.sums_per_row; ++g) sums[g] = 0;
    std::memset(out, 0, static_cast<std::size_t>(padded));
  } else {
    Grid grid = static_grid(in);
    if (in.mode != hf_quant::kStatic) grid = grid_of(range, in.mode == hf_quant::kTokenSymmetric);
    scales[0] = grid.scale;
    rows.zeros[r] = grid.zero;
    for (std::int64_t g = 0; g < rows.sums_per_row; ++g) {
      const std::int64_t begin = g * rows.sum_group;
      const std::int64_t end = begin + rows.sum_group < padded ? begin + rows.sum_group : padded;
      sums[g] = grid.clip ? encode<true>(x, out, begin, end, grid) : encode<false>(x, out, begin, end, grid);
    }
    sums[rows.sums_per_row - 1] -= static_cast<std::int32_t>(padded - width) * grid.zero;
  }
  for (std::int64_t k = width; k < rows.stride; ++k) out[k] = 0;
  if (!kInPlace) Simd::arrange(rows.codes + r * rows.stride, bytes, rows.stride);
}

// One float row into row `r` of `rows`, padded with zeros, with the sum of each group.
inline void keep_row(const hf_quant::Input& in, const float* x, const Rows& rows, std::int64_t r) {
  const std::int64_t padded = (in.width + 15) / 16 * 16;
  if (rows.floats) {
    float* out = rows.floats + r * rows.stride;
    if (out != x) std::memcpy(out, x, static_cast<std::size_t>(padded) * sizeof(float));
    for (std::int64_t k = padded; k < rows.stride; ++k) out[k] = 0.0f;
  }
  for (std::int64_t g = 0; g < rows.sums_per_row; ++g) {
    const std::int64_t begin = g * rows.sum_group;
    const std::int64_t end = begin + rows.sum_group < padded ? begin + rows.sum_group : padded;
    Float total = Simd::zero();
    for (std::int64_t k = begin; k < end; k += 16) total = Simd::add(total, Simd::load(x + k));
    rows.float_sums[r * rows.sums_per_row + g] = Simd::sum(total);
  }
}

}  // namespace
