// Float weights to neutral codes: round to nearest, on the range between extremes or clipped to the least squared error.

namespace {

using hf_quant::Quantize;

struct WeightGrid {
  float scale;
  std::int32_t zero;
};

// A finite number as bfloat16 holds it, to nearest, ties to even.
inline float bf16_nearest(float scale) {
  std::uint32_t bits;
  std::memcpy(&bits, &scale, 4);
  bits = (bits + 0x7fffu + ((bits >> 16) & 1)) & 0xffff0000u;
  std::memcpy(&scale, &bits, 4);
  return scale;
}

inline float bf16_below(float scale) {
  std::uint32_t bits;
  std::memcpy(&bits, &scale, 4);
  bits &= 0xffff0000u;
  std::memcpy(&scale, &bits, 4);
  return scale;
}

// As AffineFormat.weight_grid in formats/affine.py, operation by operation.
inline WeightGrid weight_grid(float low, float high, int bits, bool symmetric, bool grouped) {
  const std::int32_t most = (1 << (bits - 1)) - 1, least = -(1 << (bits - 1)) + (symmetric && bits >= 8 ? 1 : 0);
  constexpr float kHuge = 3.4028234663852886e38f * (1.0f - 1.1920928955078125e-7f);
  WeightGrid grid{0.0f, 0};
  float steps, sign = 1.0f;
  if (symmetric) {
    const bool upper = high > -low;
    steps = static_cast<float>(-least);
    const float scale = (upper ? high : -low) / steps;
    grid.scale = scale > kTiny ? scale : kTiny;
    if (grouped) grid.scale = bf16_nearest(grid.scale);
    if (upper && least < -most) sign = -1.0f;
  } else {
    const float levels = static_cast<float>(most - least);
    const float scale = high / levels - low / levels;
    grid.scale = scale > kTiny ? scale : kTiny;
    if (grouped) grid.scale = bf16_nearest(grid.scale);
    float zero = std::nearbyint(static_cast<float>(least) - low / grid.scale);
    zero = zero < static_cast<float>(least) ? static_cast<float>(least) : zero;
    zero = zero > static_cast<float>(most) ? static_cast<float>(most) : zero;
    grid.zero = static_cast<std::int32_t>(zero);
    const float up = static_cast<float>(most) - zero, down = zero - static_cast<float>(least);
    steps = up > down ? up : down;
  }
  float cap = kHuge / steps;
  if (grouped) cap = bf16_below(cap);
  grid.scale = sign * (grid.scale < cap ? grid.scale : cap);
  return grid;
}

// Round [begin, end) of a row; where `error`, the sum of squared differences too.
HFQ_INLINE float round_weights(const float* x, std::int64_t begin, std::int64_t end, WeightGrid grid, std::int32_t least,
                               std::int32_t most, std::int8_t* out, bool error) {
  const Float inverse = Simd::set(1.0f / grid.scale), scale = Simd::set(grid.scale);
  const Float low = Simd::set(static_cast<float>(least - grid.zero)), high = Simd::set(static_cast<float>(most - grid.zero));
  Float squares = Simd::zero();
  for (std::int64_t k = begin; k < end; k += 16) {
    const Float v = Simd::load(x + k);
    const Float code = Simd::max(low, Simd::min(high, Simd::round_any(Simd::mul(v, inverse))));
    if (error) {
      const Float d = Simd::sub(v, Simd::mul(code, scale));
      squares = Simd::fma(d, d, squares);
    } else {
      Simd::store_s8(out + k, Simd::int_add(Simd::to_int(code), Simd::int_set(grid.zero)));
    }
  }
  return error ? Simd::sum(squares) : 0.0f;
}

inline WeightGrid best_grid(const Quantize& request, const float* x, std::int64_t begin, std::int64_t end, Range range,
                            std::int32_t least, std::int32_t most) {
  const bool symmetric = !request.zeros, grouped = request.group != 0;
  WeightGrid best = weight_grid(range.low, range.high, request.bits, symmetric, grouped);
  if (request.steps < 2) return best;
  float best_error = round_weights(x, begin, end, best, least, most, nullptr, true);
  for (std::int32_t t = 1; t < request.steps; ++t) {
    const float kept = 1.0f - (1.0f - request.narrowest) * static_cast<float>(t) / static_cast<float>(request.steps - 1);
    const WeightGrid grid = weight_grid(kept * range.low, kept * range.high, request.bits, symmetric, grouped);
    const float error = round_weights(x, begin, end, grid, least, most, nullptr, true);
    if (error < best_error) {
      best = grid;
      best_error = error;
    }
  }
  return best;
}

struct QuantizeJob {
  const Quantize* request;
  std::atomic<int> status;  // 0, 1: no memory, 2: NaN or infinite weights
};

// False where the row holds NaN or infinities.
inline bool quantize_weights(const Quantize& request, std::int64_t row, float* buffer, std::int8_t* codes) {
  const bool symmetric = !request.zeros, grouped = request.group != 0;
  const std::int64_t width = request.width, groups = grouped ? width / request.group : 1;
  const std::int64_t group = grouped ? request.group : width;
  const std::int32_t most = (1 << (request.bits - 1)) - 1;
  const std::int32_t least = -(1 << (request.bits - 1)) + (symmetric && request.bits >= 8 ? 1 : 0);
  hf_quant::Input in = {};
  in.stride = request.stride;
  in.dtype = request.dtype;
  in.width = request.width;
  in.rotation = request.rotation;
  const float* x = load_row(in, request.data, row, buffer);
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int64_t begin = g * group, end = begin + group;
    // Groups that are no multiple of a vector are copied to the end of the buffer, padded with zeros.
    const float* from = x;
    std::int64_t first = begin, last = end;
    std::int8_t* to = codes;
    if (grouped && group % 16 != 0) {
      float* copy = buffer + hf_quant::round_up(width, 16);
      const std::int64_t padded = hf_quant::round_up(group, 16);
      std::memcpy(copy, x + begin, static_cast<std::size_t>(group) * 4);
      for (std::int64_t k = group; k < padded; ++k) copy[k] = 0.0f;
      from = copy;
      to = codes + hf_quant::round_up(width, 16);
      first = 0;
      last = padded;
    } else {
      last = hf_quant::round_up(end, 16);
    }
    const Range range = range_of(from, first, last);
    if (!range.finite) return false;
    const WeightGrid grid = best_grid(request, from, first, last, range, least, most);
    round_weights(from, first, last, grid, least, most, to, false);
    if (to != codes) std::memmove(codes + begin, to, static_cast<std::size_t>(group));
    const std::int64_t at = row * groups + g;
    if (grouped) {
      std::uint32_t bits;
      std::memcpy(&bits, &grid.scale, 4);
      static_cast<std::uint16_t*>(request.scales)[at] = static_cast<std::uint16_t>(bits >> 16);
    } else {
      static_cast<float*>(request.scales)[at] = grid.scale;
    }
    if (!symmetric) request.zeros[at] = static_cast<std::int8_t>(grid.zero);
  }
  hf_quant::write_neutral(codes, width, request.bits, request.words + row * request.words_per_row);
  return true;
}

void quantize_team(const Team& team, void* data) {
  QuantizeJob& job = *static_cast<QuantizeJob*>(data);
  const Quantize& request = *job.request;
  const std::int64_t padded = hf_quant::round_up(request.width, 16) + 64;
  const std::int64_t spare = request.group ? hf_quant::round_up(request.group, 16) : 0;
  std::uint8_t* memory = static_cast<std::uint8_t*>(hf_quant::scratch((padded + spare) * 5 + 128));
  if (!memory) {
    job.status = 1;
    return;
  }
  float* buffer = reinterpret_cast<float*>(memory);
  std::int8_t* codes = reinterpret_cast<std::int8_t*>(memory + (padded + spare) * 4);
  std::int64_t begin, end;
  team.share(request.rows, &begin, &end);
  for (std::int64_t row = begin; row < end && job.status == 0; ++row) {
    if (!quantize_weights(request, row, buffer, codes)) job.status = 2;
  }
}

int run_quantize(const Quantize& request, int threads) {
  QuantizeJob job{&request, {0}};
  hf_quant::parallel(threads, quantize_team, &job);
  return job.status;
}

}  // namespace
