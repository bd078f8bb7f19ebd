// The padded copy of an input that patches are cut from: channels innermost, as floats or as codes. Per instruction set.

namespace {

using hf_quant::Convolution;

// Sixteen numbers to codes of a static grid. A NaN becomes some code; that it was there is seen elsewhere.
HFQ_INLINE Int static_code(Float x, const Grid& grid) {
  const Float v = Simd::mul(x, Simd::set(grid.inverse));
  const Float kept = Simd::min(Simd::max(v, Simd::set(-1024.0f)), Simd::set(1024.0f));
  return Simd::int_max(Simd::int_add(Simd::to_int(kept), Simd::int_set(grid.zero)), Simd::int_set(grid.lowest));
}

Grid static_grid(const hf_quant::Input& in) {
  return {in.static_scale, 1.0f / in.static_scale, in.static_zero, in.static_lowest, true};
}

std::int64_t pixels_of(const Convolution& c) { return c.in[0] * c.in[1] * c.in[2]; }

// Where pixels [first, first + count) of the input lie in an item of the image, in bytes.
inline void places_of(const Convolution& c, std::int64_t first, int count, std::int64_t* places) {
  std::int64_t w = first % c.in[2], h = first / c.in[2] % c.in[1], d = first / c.in[2] / c.in[1];
  for (int i = 0; i < count; ++i) {
    places[i] = (d + c.before[0]) * c.plane_bytes + (h + c.before[1]) * c.line_bytes + (w + c.before[2]) * c.pixel_bytes;
    if (++w < c.in[2]) continue;
    w = 0;
    if (++h < c.in[1]) continue;
    h = 0;
    ++d;
  }
}

constexpr int kPixels = 64;  // pixels that are worked on at a time

// `channels` (at most 16) channels of `pixels` (likewise) that lie in planes, `pitch` numbers apart, to [channel][pixel].
template <class Number>
HFQ_INLINE void load_square(const Convolution& c, std::int64_t at, std::int64_t pitch, int channels, int pixels,
                            const Grid& grid, Float& poison, Number* square) {
  const std::int32_t dtype = c.step.input.dtype;
  for (int i = 0; i < channels; ++i, at += pitch) {
    const Float v = pixels == 16 ? load_as(c.input, at, dtype) : load_some(c.input, at, dtype, pixels);
    if constexpr (sizeof(Number) == 1) {
      poison = Simd::fma(v, Simd::zero(), poison);
      Simd::store_s8(square + 16 * i, static_code(v, grid));
    } else {
      Simd::store(square + 16 * i, v);
    }
  }
  for (int i = channels; i < 16; ++i) std::memset(square + 16 * i, 0, 16 * sizeof(Number));
}

// Pixels that lie in planes, one for each channel.
template <class Number>
void stage_planes(const Convolution& c, std::int64_t item, std::int64_t first, int count, const std::int64_t* places,
                  std::uint8_t* image, Float& poison) {
  const Grid grid = static_grid(c.step.input);
  const std::int64_t pitch = pixels_of(c);
  alignas(64) Number square[256], turned[256];
  for (std::int64_t g = 0; g < c.groups; ++g) {
    for (std::int64_t channel = 0; channel < c.width; channel += 16) {
      const int channels = static_cast<int>(c.width - channel < 16 ? c.width - channel : 16);
      const std::int64_t at = ((item * c.groups + g) * c.width + channel) * pitch + first;
      std::uint8_t* to = image + g * c.group_bytes + channel * static_cast<std::int64_t>(sizeof(Number));
      for (int p = 0; p < count; p += 16) {
        const int pixels = count - p < 16 ? count - p : 16;
        load_square(c, at + p, pitch, channels, pixels, grid, poison, square);
        if (channels == 16 && pixels == 16) {
          transpose(square, [&](int i) { return reinterpret_cast<Number*>(to + places[p + i]); });
          continue;
        }
        transpose(square, [&](int i) { return turned + 16 * i; });
        const std::size_t bytes = static_cast<std::size_t>(channels) * sizeof(Number);
        for (int i = 0; i < pixels; ++i) std::memcpy(to + places[p + i], turned + 16 * i, bytes);
      }
    }
  }
}

// Pixels whose channels lie side by side.
template <class Number>
void stage_pixels(const Convolution& c, std::int64_t item, std::int64_t first, int count, const std::int64_t* places,
                  std::uint8_t* image, Float& poison) {
  const Grid grid = static_grid(c.step.input);
  const std::int32_t dtype = c.step.input.dtype;
  std::int64_t at = (item * pixels_of(c) + first) * c.groups * c.width;
  alignas(64) Number some[16];
  for (int p = 0; p < count; ++p) {
    for (std::int64_t g = 0; g < c.groups; ++g, at += c.width) {
      std::uint8_t* to = image + g * c.group_bytes + places[p];
      for (std::int64_t k = 0; k < c.width; k += 16) {
        const int channels = static_cast<int>(c.width - k < 16 ? c.width - k : 16);
        const Float v = channels == 16 ? load_as(c.input, at + k, dtype) : load_some(c.input, at + k, dtype, channels);
        if constexpr (sizeof(Number) == 1) {
          poison = Simd::fma(v, Simd::zero(), poison);
          Simd::store_s8(some, static_code(v, grid));
        } else {
          Simd::store(some, v);
        }
        std::uint8_t* out = to + k * static_cast<std::int64_t>(sizeof(Number));
        if (channels == 16) {
          std::memcpy(out, some, sizeof some);
        } else {
          std::memcpy(out, some, static_cast<std::size_t>(channels) * sizeof(Number));
        }
      }
    }
  }
}

// Everything around the input: zeros, or the code of zero.
void stage_border(const Convolution& c, std::int64_t line, std::uint8_t* image) {
  const int fill = c.codes ? c.step.input.static_zero : 0;
  const std::int64_t h = line % c.padded[1] - c.before[1], d = line / c.padded[1] % c.padded[0] - c.before[0];
  const std::int64_t g = line / c.padded[1] / c.padded[0];
  std::uint8_t* at = image + g * c.group_bytes + (d + c.before[0]) * c.plane_bytes + (h + c.before[1]) * c.line_bytes;
  const bool outside = h < 0 || h >= c.in[1] || d < 0 || d >= c.in[0];
  const std::int64_t left = outside ? c.padded[2] : c.before[2], inside = outside ? 0 : c.in[2];
  const std::int64_t right = c.padded[2] - left - inside;
  std::memset(at, fill, static_cast<std::size_t>(left * c.pixel_bytes));
  std::memset(at + (left + inside) * c.pixel_bytes, fill, static_cast<std::size_t>(right * c.pixel_bytes));
}

// This thread's share of `items` of the batch, from `first` on; false where a number was not finite.
bool stage(const Convolution& c, const Team& team, std::int64_t first, std::int64_t items) {
  std::int64_t begin, end;
  const std::int64_t lines = c.groups * c.padded[0] * c.padded[1];
  const bool bordered = c.padded[0] != c.in[0] || c.padded[1] != c.in[1] || c.padded[2] != c.in[2];
  team.share(bordered ? items * lines : 0, &begin, &end);
  for (std::int64_t i = begin; i < end; ++i) stage_border(c, i % lines, c.image + i / lines * c.item_bytes);
  const std::int64_t pixels = pixels_of(c), parts = (pixels + kPixels - 1) / kPixels;
  const auto way = c.channels_last ? c.codes ? stage_pixels<std::int8_t> : stage_pixels<float>
                   : c.codes       ? stage_planes<std::int8_t>
                                   : stage_planes<float>;
  Float poison = Simd::zero();
  std::int64_t places[kPixels];
  team.share(items * parts, &begin, &end);
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t from = i % parts * kPixels;
    const int count = static_cast<int>(pixels - from < kPixels ? pixels - from : kPixels);
    std::uint8_t* image = c.image + i / parts * c.item_bytes;
    places_of(c, from, count, places);
    way(c, first + i / parts, from, count, places, image, poison);
    if (!c.rotation) continue;
    for (std::int64_t g = 0; g < c.groups; ++g) {
      for (int p = 0; p < count; ++p) {
        rotate_row(reinterpret_cast<float*>(image + g * c.group_bytes + places[p]), c.width, c.rotation);
      }
    }
  }
  return Simd::sum(poison) == 0.0f;
}

}  // namespace
