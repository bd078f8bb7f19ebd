// The padded copy of a band of an input that patches are cut from: channels innermost, as floats or as codes. Per
// instruction set.

namespace {

using hf_quant::Convolution;

// In steps of `Step` bytes, the last of which overlaps the one before.
template <int Step>
HFQ_INLINE void copy_steps(std::uint8_t* to, const std::uint8_t* from, std::int64_t bytes) {
  for (std::int64_t i = 0; i + Step < bytes; i += Step) std::memcpy(to + i, from + i, Step);
  std::memcpy(to + bytes - Step, from + bytes - Step, Step);
}

// Up to 64 bytes. A call of memcpy costs more than most pieces do.
HFQ_INLINE void copy_few(std::uint8_t* to, const std::uint8_t* from, std::int64_t bytes) {
  if (bytes >= 16) return copy_steps<16>(to, from, bytes);
  if (bytes >= 4) return copy_steps<4>(to, from, bytes);
  for (std::int64_t i = 0; i < bytes; ++i) to[i] = from[i];
}

HFQ_INLINE void copy(std::uint8_t* to, const std::uint8_t* from, std::int64_t bytes) {
  bytes >= 64 ? copy_steps<64>(to, from, bytes) : copy_few(to, from, bytes);
}

// Up to sixteen numbers.
template <class Number>
HFQ_INLINE void copy_numbers(std::uint8_t* to, const Number* from, int count) {
  constexpr int kSize = sizeof(Number);
  if (count == 16) {
    std::memcpy(to, from, 16 * kSize);
  } else {
    copy_few(to, reinterpret_cast<const std::uint8_t*>(from), static_cast<std::int64_t>(count) * kSize);
  }
}

// Sixteen numbers to codes of a static grid. A NaN becomes some code; that it was there is seen elsewhere.
HFQ_INLINE Int static_code(Float x, const Grid& grid) {
  const Float v = Simd::mul(x, Simd::set(grid.inverse));
  const Float kept = Simd::min(Simd::max(v, Simd::set(-1024.0f)), Simd::set(1024.0f));
  return Simd::int_max(Simd::int_add(Simd::to_int(kept), Simd::int_set(grid.zero)), Simd::int_set(grid.lowest));
}

std::int64_t pixels_of(const Convolution& c) { return c.in[0] * c.in[1] * c.in[2]; }

// What is worked on at a time: outputs [begin, begin + length) along the axis, of items [first, first + items).
struct Band {
  std::int64_t first, items, begin, length;
  const std::uint8_t* image;
  bool spoiled;  // numbers were not finite, where the image is of codes
};

// Where pixels [first, first + count) of the input lie in an item of the image, in bytes.
inline void places_of(const Convolution& c, const Band& band, std::int64_t first, int count, std::int64_t* places) {
  std::int64_t w = first % c.in[2], h = first / c.in[2] % c.in[1], d = first / c.in[2] / c.in[1];
  const std::int64_t origin = band.begin * c.stride[c.axis] * c.step_bytes[c.axis];
  for (int i = 0; i < count; ++i) {
    places[i] = (d + c.before[0]) * c.step_bytes[0] + (h + c.before[1]) * c.step_bytes[1] +
                (w + c.before[2]) * c.step_bytes[2] - origin;
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
  for (int i = channels; i % (sizeof(Number) == 1 ? 16 : 4) != 0; ++i) std::memset(square + 16 * i, 0, 16 * sizeof(Number));
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
          transpose(square, channels, [&](int i) { return reinterpret_cast<Number*>(to + places[p + i]); });
          continue;
        }
        transpose(square, channels, [&](int i) { return turned + 16 * i; });
        for (int i = 0; i < pixels; ++i) copy_numbers(to + places[p + i], turned + 16 * i, channels);
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
  for (int p = 0, run = 1; p < count; p += run) {
    // Pixels of one group lie side by side in both.
    for (run = 1; c.groups == 1 && p + run < count && places[p + run] - places[p] == run * c.step_bytes[2];) ++run;
    const std::int64_t width = run * c.width;
    for (std::int64_t g = 0; g < c.groups; ++g, at += width) {
      std::uint8_t* to = image + g * c.group_bytes + places[p];
      for (std::int64_t k = 0; k < width; k += 16) {
        const int channels = static_cast<int>(width - k < 16 ? width - k : 16);
        const Float v = channels == 16 ? load_as(c.input, at + k, dtype) : load_some(c.input, at + k, dtype, channels);
        if constexpr (sizeof(Number) == 1) {
          poison = Simd::fma(v, Simd::zero(), poison);
          Simd::store_s8(some, static_code(v, grid));
        } else {
          Simd::store(some, v);
        }
        std::uint8_t* out = to + k * static_cast<std::int64_t>(sizeof(Number));
        copy_numbers(out, some, channels);
      }
    }
  }
}

// One line of the image of a band, all but what the input covers: zeros, or the code of zero.
void stage_border(const Convolution& c, const Band& band, std::int64_t line, std::uint8_t* image) {
  const int fill = c.codes ? c.step.input.static_zero : 0;
  const std::int64_t place[2] = {line / c.extent[1] % c.extent[0], line % c.extent[1]};
  bool outside = false;
  for (int i = 0; i < 2; ++i) {
    const std::int64_t at = place[i] + (i == c.axis ? band.begin * c.stride[i] : 0) - c.before[i];
    outside = outside || at < 0 || at >= c.in[i];
  }
  std::uint8_t* at = image + line / c.extent[1] / c.extent[0] * c.group_bytes + place[0] * c.step_bytes[0] +
                     place[1] * c.step_bytes[1];
  const std::int64_t pixel = c.step_bytes[2], left = outside ? c.extent[2] : c.before[2];
  const std::int64_t inside = outside ? 0 : c.in[2], right = c.extent[2] - left - inside;
  std::memset(at, fill, static_cast<std::size_t>(left * pixel));
  std::memset(at + (left + inside) * pixel, fill, static_cast<std::size_t>(right * pixel));
}

// Fill the image of a band.
void stage(const Convolution& c, Band* band, std::uint8_t* image) {
  const int axis = c.axis;
  const std::int64_t start = band->begin * c.stride[axis] - c.before[axis];  // in the input, along the axis
  const std::int64_t reach = (band->length - 1) * c.stride[axis] + (c.kernel[axis] - 1) * c.dilation[axis] + 1;
  const std::int64_t end = start + reach < c.in[axis] ? start + reach : c.in[axis];
  const bool bordered = start < 0 || end < start + reach || c.extent[1 - axis] != c.in[1 - axis] || c.extent[2] != c.in[2];
  const auto way = c.channels_last ? c.codes ? stage_pixels<std::int8_t> : stage_pixels<float>
                   : c.codes       ? stage_planes<std::int8_t>
                                   : stage_planes<float>;
  const std::int64_t each = axis == 0 ? c.in[1] * c.in[2] : c.in[2];  // pixels of one place on the axis
  Float poison = Simd::zero();
  std::int64_t places[kPixels];
  for (std::int64_t i = 0; i < band->items; ++i, image += c.item_bytes) {
    const std::int64_t lines = bordered ? c.groups * c.extent[0] * c.extent[1] : 0;
    for (std::int64_t line = 0; line < lines; ++line) stage_border(c, *band, line, image);
    for (std::int64_t from = (start > 0 ? start : 0) * each; from < end * each; from += kPixels) {
      const int count = static_cast<int>(end * each - from < kPixels ? end * each - from : kPixels);
      places_of(c, *band, from, count, places);
      way(c, band->first + i, from, count, places, image, poison);
      if (!c.rotation) continue;
      for (std::int64_t g = 0; g < c.groups; ++g) {
        for (int p = 0; p < count; ++p) {
          rotate_row(reinterpret_cast<float*>(image + g * c.group_bytes + places[p]), c.width, c.rotation);
        }
      }
    }
  }
  band->spoiled = Simd::sum(poison) != 0.0f;
}

}  // namespace
