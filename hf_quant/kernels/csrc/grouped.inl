// Convolutions whose channels are in groups, each output of which is made from few channels: no rows of patches, but
// windows, four numbers along a row of codes for each of sixteen outputs, times four taps of a filter. Windows lie so
// that a tap finds those of all outputs of a band in one stretch. Per instruction set.

namespace {

using hf_quant::GroupedConvolution;

constexpr int kFilters = 4;                       // that share loaded windows
constexpr int kMostVectors = Simd::kRows >= 8 ? 8 : 2;

struct GroupedJob {
  const GroupedConvolution* request;
  const std::int64_t* offsets;  // in windows, of what each tap is multiplied with, in bytes
  const std::int64_t* remainders[2];  // of places by the stride, in the order of their rows
  std::uint8_t* own;             // per thread
  std::int64_t own_bytes;
  std::atomic<std::int64_t> next;
};

struct GroupedMemory {
  std::uint8_t* windows;
  std::int8_t* rows;  // of one channel, with what is around it
  Act* taps;
};

Range range_of_plane(const GroupedConvolution& g, std::int64_t at, std::int64_t count) {
  const std::int32_t dtype = g.shape.step.input.dtype;
  Extremes first, second;
  std::int64_t k = 0;
  for (; k + 32 <= count; k += 32) {
    first.see(load_as(g.shape.input, at + k, dtype));
    second.see(load_as(g.shape.input, at + k + 16, dtype));
  }
  for (; k < count; k += 16) {
    const int some = static_cast<int>(count - k < 16 ? count - k : 16);
    first.see(some == 16 ? load_as(g.shape.input, at + k, dtype) : load_some(g.shape.input, at + k, dtype, some));
  }
  first.low = Simd::min(first.low, second.low);
  first.high = Simd::max(first.high, second.high);
  first.poison = Simd::add(first.poison, second.poison);
  return first.range();
}

// `count` bytes, and up to 15 more.
HFQ_INLINE void fill(std::int8_t* to, std::int64_t count, int code) {
  std::uint8_t all[16];
  std::memset(all, code, 16);
  for (std::int64_t k = 0; k < count; k += 16) std::memcpy(to + k, all, 16);
}

// A row of the input as codes, what is before it being there.
HFQ_INLINE void code_row(const void* input, std::int32_t dtype, std::int64_t at, std::int64_t width, std::int64_t after,
                         std::int64_t all, const Grid& grid, std::int8_t* row) {
  for (std::int64_t k = 0; k < width; k += 16) {
    // Where this row ends the next is read, which there is unless it is the very last.
    const std::int64_t left = all - at - k;
    const Float v = left < 16 ? load_some(input, at + k, dtype, static_cast<int>(left)) : load_as(input, at + k, dtype);
    Simd::store_s8(row + k, static_code(v, grid));
  }
  fill(row + width, after, grid.zero);
}

// `count` windows of four codes, a step of the convolution apart, and up to 15 more.
template <int Stride>
HFQ_INLINE void spread_steps(const std::uint8_t* row, std::int64_t count, std::uint8_t* out) {
  for (std::int64_t k = 0; k < count; k += 16) {
    Simd::bytes_store(out + 4 * k, Simd::centre<8>(Simd::windows<Stride>(row + k * Stride)));
  }
}

HFQ_INLINE void spread(const GroupedConvolution& g, const std::uint8_t* row, std::uint8_t* out) {
  const std::int64_t stride = g.shape.stride[2], dilation = g.shape.dilation[2];
  if (dilation == 1 && stride == 1) return spread_steps<1>(row, g.pitch, out);
  if (dilation == 1 && stride == 2) return spread_steps<2>(row, g.pitch, out);
  for (std::int64_t k = 0; k < g.pitch; ++k) {
    for (int i = 0; i < 4; ++i) out[4 * k + i] = row[k * stride + i * dilation] ^ 0x80;
  }
}

// The windows of a group's channels for outputs [begin, begin + length) along the second dimension. `border` is the code
// that lies around rows already.
void spread_band(const GroupedJob& job, std::int64_t item, std::int64_t group, std::int64_t begin, std::int64_t length,
                 const Grid& grid, const GroupedMemory& memory, std::int32_t* border) {
  const GroupedConvolution& g = *job.request;
  const Convolution& c = g.shape;
  const std::int64_t high = (length - 1) * c.stride[1] + (c.kernel[1] - 1) * c.dilation[1] + 1;
  // Not read anew after each store of bytes, which might have changed them.
  const std::int64_t width = c.in[2], before = c.before[2], after = c.padded[2] - before - width, row_bytes = g.row_bytes;
  const std::int64_t all = c.batch * c.groups * c.width * pixels_of(c);
  const std::int32_t dtype = c.step.input.dtype;
  const void* input = c.input;
  std::uint8_t* out = memory.windows;
  for (std::int64_t channel = 0; channel < c.width; ++channel) {
    std::int64_t plane = ((item * c.groups + group) * c.width + channel) * c.in[0];
    for (std::int64_t d = 0; d < g.deep; ++d) {
      const std::int64_t z = d - c.before[0];
      std::int8_t* row = memory.rows + d * g.high * row_bytes;
      for (std::int64_t h = 0, y = begin * c.stride[1] - c.before[1]; h < high; ++h, ++y, row += row_bytes) {
        const bool inside = z >= 0 && z < c.in[0] && y >= 0 && y < c.in[1];
        if (*border != grid.zero) fill(row, inside ? before : c.padded[2], grid.zero);
        if (inside) code_row(input, dtype, ((plane + z) * c.in[1] + y) * width, width, after, all, grid, row + before);
      }
    }
    if (length == c.out[1]) *border = grid.zero;  // rows of the next channel have it
    // In the order of memory, so that what is written past the end of a row is overwritten.
    const std::uint8_t* rows = reinterpret_cast<const std::uint8_t*>(memory.rows);
    for (std::int64_t q = 0; q < g.planes; ++q, rows += 4 * c.dilation[2]) {
      for (std::int64_t first = 0; first < g.slots[0]; first += g.slot_rows[0]) {
        std::int64_t d = job.remainders[0][first / g.slot_rows[0]];
        for (std::int64_t i = 0; i < g.slot_rows[0]; ++i, d += c.stride[0]) {
          for (std::int64_t second = 0; second < g.slots[1]; second += g.slot_rows[1]) {
            std::int64_t h = job.remainders[1][second / g.slot_rows[1]];
            for (std::int64_t j = 0; j < g.slot_rows[1]; ++j, h += c.stride[1], out += 4 * g.pitch) {
              if (d < g.deep && h < high) spread(g, rows + (d * g.high + h) * g.row_bytes, out);
            }
          }
        }
      }
    }
  }
}

// Sums of `Filters` filters for 16 * `Vectors` outputs.
template <int Filters, int Vectors>
HFQ_INLINE void sum_windows(const GroupedJob& job, const std::uint8_t* windows, const Act* taps,
                            Int (&total)[Filters][Vectors]) {
  for (auto& each : total) {
    for (Int& sum : each) sum = Simd::int_zero();
  }
  for (std::int64_t t = 0; t < job.request->words; ++t) {
    Simd::Weights w[Vectors];
    for (int v = 0; v < Vectors; ++v) w[v] = Simd::weights<8>(Simd::bytes(windows + job.offsets[t] + 64 * v));
    for (int f = 0; f < Filters; ++f) {
      const Simd::Activations a = Simd::activations(taps + (f * job.request->words + t) * 4);
      for (int v = 0; v < Vectors; ++v) total[f][v] = Simd::dot(total[f][v], w[v], a);
    }
  }
}

// The product of two numbers, whatever strangers say that the second is.
inline std::int32_t wrapped(std::int32_t a, std::int32_t b) {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(a) * static_cast<std::uint32_t>(b));
}

// What becomes of the sums of a filter: factor * (sum - middle) + shift, activated.
struct Ending {
  std::int64_t at;  // in the output
  std::int32_t middle;
  float factor, shift;
};

template <int Filters, int Vectors>
void filter_windows(const GroupedJob& job, const std::uint8_t* windows, const Act* taps, const Ending* endings,
                    std::int64_t first, std::int64_t count) {
  const Convolution& c = job.request->shape;
  Int total[Filters][Vectors];
  sum_windows<Filters, Vectors>(job, windows + 4 * first, taps, total);
  for (int f = 0; f < Filters; ++f) {
    const Ending& e = endings[f];
    for (int v = 0; v < Vectors && 16 * v < count; ++v) {
      Float y = Simd::to_float(Simd::int_sub(total[f][v], Simd::int_set(e.middle)));
      y = activate(Simd::fma(y, Simd::set(e.factor), Simd::set(e.shift)), c.activation);
      const std::int64_t at = e.at + first + 16 * v, left = count - 16 * v;
      left >= 16 ? store_as(c.output, at, c.step.output_dtype, y)
                 : store_some(c.output, at, c.step.output_dtype, y, static_cast<int>(left));
    }
  }
}

template <int Filters>
void filter_row(const GroupedJob& job, const std::uint8_t* windows, const Act* taps, const Ending* endings,
                std::int64_t count) {
  constexpr int kVectors = Filters == 1 || kMostVectors < 4 ? kMostVectors : kMostVectors / 2;
  std::int64_t k = 0;
  for (; k + 16 * (kVectors - 1) < count; k += 16 * kVectors) {
    filter_windows<Filters, kVectors>(job, windows, taps, endings, k, count - k);
  }
  if constexpr (kVectors > 4) {
    for (; k + 16 * 3 < count; k += 64) filter_windows<Filters, 4>(job, windows, taps, endings, k, count - k);
  }
  for (; k < count; k += 16) filter_windows<Filters, 1>(job, windows, taps, endings, k, count - k);
}

// `filters` (at most kFilters) filters of a group, from `first` on, over windows of outputs [begin, begin + length).
void filter_band(const GroupedJob& job, std::int64_t item, std::int64_t first, int filters, std::int64_t begin,
                 std::int64_t length, const Grid& grid, float scale, const GroupedMemory& memory) {
  const GroupedConvolution& g = *job.request;
  const Convolution& c = g.shape;
  const std::int64_t channels = c.groups * c.step.weights[0].channels, pixels = c.out[0] * c.out[1] * c.out[2];
  const std::int8_t* given = g.taps + first * job.request->words * 4;
  const Act* taps = reinterpret_cast<const Act*>(given);
  if constexpr (sizeof(Act) != 1) {
    Simd::arrange(memory.taps, given, filters * job.request->words * 4);
    taps = memory.taps;
  }
  Ending endings[kFilters];
  const hf_quant::Weight& weight = c.step.weights[0];
  for (int f = 0; f < filters; ++f) {
    const std::int64_t channel = first + f;
    const float after = c.factor ? c.factor[channel] : 1.0f;
    const float bias = weight.bias ? Simd::sum(load_some(weight.bias, channel, weight.bias_dtype, 1)) : 0.0f;
    endings[f] = {(item * channels + channel) * pixels, wrapped(grid.zero + 128 - Simd::kCodeOffset, g.sums[channel]),
                  scale * g.scales[channel] * after, bias * after + (c.shift ? c.shift[channel] : 0.0f)};
  }
  const std::int64_t line = g.slots[1] * g.pitch * 4;
  for (std::int64_t z = 0; z < c.out[0]; ++z) {
    Ending here[kFilters];
    for (int f = 0; f < filters; ++f) {
      here[f] = endings[f];
      here[f].at += (z * c.out[1] + begin) * c.out[2];
    }
    const std::uint8_t* windows = memory.windows + z * line;
    const std::int64_t count = length * c.out[2];
    if (filters == kFilters) {
      filter_row<kFilters>(job, windows, taps, here, count);
      continue;
    }
    for (int f = 0; f < filters; ++f) filter_row<1>(job, windows, taps + f * job.request->words * 4, here + f, count);
  }
}

GroupedMemory take_grouped(Memory& memory, const GroupedJob& job) {
  GroupedMemory own;
  own.windows = static_cast<std::uint8_t*>(memory.take(job.request->window_bytes));
  own.rows = static_cast<std::int8_t*>(memory.take(job.request->deep * job.request->high * job.request->row_bytes + 64));
  own.taps = static_cast<Act*>(memory.take(sizeof(Act) == 1 ? 0 : kFilters * job.request->words * 4 * 2));
  return own;
}

void grouped_team(const Team& team, void* data) {
  GroupedJob& job = *static_cast<GroupedJob*>(data);
  const Convolution& c = job.request->shape;
  const hf_quant::Input& in = c.step.input;
  Memory memory{job.own + team.thread * job.own_bytes};
  const GroupedMemory own = take_grouped(memory, job);
  std::memset(own.windows, 0, static_cast<std::size_t>(job.request->window_bytes));
  const std::int64_t plane = c.width * pixels_of(c), filters = c.step.weights[0].channels;
  std::int32_t border = 1 << 10;  // the code around rows, once it is there
  for (std::int64_t unit = job.next.fetch_add(1); unit < c.batch * c.groups; unit = job.next.fetch_add(1)) {
    const std::int64_t item = unit / c.groups, group = unit % c.groups;
    const Range range = range_of_plane(*job.request, unit * plane, plane);
    const Grid grid = in.mode == hf_quant::kStatic ? static_grid(in) : grid_of(range, in.mode == hf_quant::kTokenSymmetric);
    const float scale = range.finite ? grid.scale : kNaN;
    for (std::int64_t begin = 0; begin < c.out[1]; begin += job.request->length) {
      const std::int64_t length = c.out[1] - begin < job.request->length ? c.out[1] - begin : job.request->length;
      spread_band(job, item, group, begin, length, grid, own, &border);
      for (std::int64_t f = 0; f < filters; f += kFilters) {
        const int some = static_cast<int>(filters - f < kFilters ? filters - f : kFilters);
        filter_band(job, item, group * filters + f, some, begin, length, grid, scale, own);
      }
    }
  }
}

// Where what each tap is multiplied with begins, and the remainders that there are; `slots` have room for all.
void find_windows(const GroupedConvolution& g, std::int64_t* const* slots, std::int64_t* const* remainders,
                  std::int64_t* offsets) {
  const Convolution& c = g.shape;
  for (int i = 0; i < 2; ++i) {
    for (std::int64_t r = 0; r < c.stride[i]; ++r) slots[i][r] = -1;
    std::int64_t used = 0;
    for (std::int64_t k = 0; k < c.kernel[i]; ++k) {
      const std::int64_t rest = k * c.dilation[i] % c.stride[i];
      if (slots[i][rest] >= 0) continue;
      slots[i][rest] = g.slot_rows[i] * used;
      remainders[i][used++] = rest;
    }
  }
  for (std::int64_t channel = 0, t = 0; channel < c.width; ++channel) {
    for (std::int64_t d = 0; d < c.kernel[0]; ++d) {
      const std::int64_t z = d * c.dilation[0], deep = slots[0][z % c.stride[0]] + z / c.stride[0];
      for (std::int64_t h = 0; h < c.kernel[1]; ++h) {
        const std::int64_t y = h * c.dilation[1], high = slots[1][y % c.stride[1]] + y / c.stride[1];
        for (std::int64_t q = 0; q < g.quads; ++q, ++t) {
          const std::int64_t plane = channel * g.planes + (g.planes == 1 ? 0 : q);
          const std::int64_t line = (plane * g.slots[0] + deep) * g.slots[1] + high;
          offsets[t] = 4 * (line * g.pitch + (g.planes == 1 ? 4 * q : 0));
        }
      }
    }
  }
}

// 0, or 1 when there is no memory.
int run_grouped(const GroupedConvolution& request, int threads) {
  GroupedJob job{};
  job.request = &request;
  Memory own{nullptr};
  take_grouped(own, job);
  job.own_bytes = own.used;
  static thread_local std::int64_t needed;
  std::int64_t *slots[2], *remainders[2], *offsets = nullptr;
  for (bool measuring = true;; measuring = false) {
    Memory memory{measuring ? nullptr : static_cast<std::uint8_t*>(hf_quant::scratch(needed))};
    if (!measuring && !memory.base) return 1;
    offsets = static_cast<std::int64_t*>(memory.take(request.words * 8));
    for (int i = 0; i < 2; ++i) {
      slots[i] = static_cast<std::int64_t*>(memory.take(request.shape.stride[i] * 8));
      remainders[i] = static_cast<std::int64_t*>(memory.take(request.shape.stride[i] * 8));
    }
    job.own = static_cast<std::uint8_t*>(memory.take(job.own_bytes * threads));
    needed = memory.used + 4096;
    if (!measuring) break;
  }
  find_windows(request, slots, remainders, offsets);
  job.offsets = offsets;
  for (int i = 0; i < 2; ++i) job.remainders[i] = remainders[i];
  hf_quant::parallel(threads, grouped_team, &job);
  return 0;
}

}  // namespace
