// Convolutions: tiles of rows that are patches of an image, times blocks of channels. Per instruction set.

namespace {

constexpr std::int64_t kTileBytes = 256 << 10;  // of the rows of a tile, about
constexpr std::int64_t kLeastTile = 24, kMostTile = 252;

struct ConvolutionJob {
  const Convolution* request;
  Program program;              // for the memory of a thread
  std::int64_t blocks, pixels;  // blocks of channels of a group, pixels of an output plane
  std::int64_t pieces, piece_bytes;     // of a patch: what lies in one stretch
  const std::int64_t* piece_at;         // where each begins
  std::int64_t run;                     // rows that lie evenly, from each multiple of it on
  std::int64_t run_bytes;               // from one of them to the next
  std::int64_t along, bands;            // bands along the axis, and in all
  std::int64_t columns;                 // blocks of all groups
  std::int64_t splits;                  // of the columns; each is worked on by one thread
  std::atomic<std::int64_t> next;
};

// A thread's memory: rows of a tile, and what else a product needs.
struct Bench {
  Own own;
  Rows rows;    // their memory
  float* patch;
  std::uint8_t* image;
};

struct Place {
  std::int64_t item, at[3];  // within a band
};

inline Place place_of(const Convolution& c, const Band& band, std::int64_t row) {
  Place place;
  for (int i = 2; i >= 0; --i) {
    const std::int64_t size = i == c.axis ? band.length : c.out[i];
    place.at[i] = row % size;
    row /= size;
  }
  place.item = row;
  return place;
}

inline void next_place(const Convolution& c, const Band& band, Place* place) {
  for (int i = 2; i >= 0; --i) {
    if (++place->at[i] < (i == c.axis ? band.length : c.out[i])) return;
    place->at[i] = 0;
  }
  ++place->item;
}

// Where the patch of a row begins in the image.
HFQ_INLINE const std::uint8_t* patch_of(const Convolution& c, const Band& band, std::int64_t group, const Place& place) {
  const std::uint8_t* at = band.image + place.item * c.item_bytes + group * c.group_bytes;
  for (int i = 0; i < 3; ++i) at += place.at[i] * c.stride[i] * c.step_bytes[i];
  return at;
}

inline void gather(const ConvolutionJob& job, const std::uint8_t* from, std::uint8_t* to) {
  for (std::int64_t i = 0; i < job.pieces; ++i, to += job.piece_bytes) copy(to, from + job.piece_at[i], job.piece_bytes);
}

// Whether the numbers that a row is made of are finite; for inputs that are known to hold others.
bool is_finite(const Convolution& c, const Band& band, std::int64_t group, Place place) {
  place.at[c.axis] += band.begin;
  const std::int64_t pixels = pixels_of(c), item = band.first + place.item;
  Float poison = Simd::zero();
  for (std::int64_t k = 0; k < c.kernel[0] * c.kernel[1] * c.kernel[2]; ++k) {
    const std::int64_t of[3] = {k / c.kernel[2] / c.kernel[1], k / c.kernel[2] % c.kernel[1], k % c.kernel[2]};
    std::int64_t pixel = 0;
    bool inside = true;
    for (int i = 0; i < 3; ++i) {
      const std::int64_t at = place.at[i] * c.stride[i] + of[i] * c.dilation[i] - c.before[i];
      inside = inside && at >= 0 && at < c.in[i];
      pixel = pixel * c.in[i] + at;
    }
    for (std::int64_t n = group * c.width; inside && n < (group + 1) * c.width; ++n) {
      const std::int64_t all = c.groups * c.width;
      const std::int64_t at = c.channels_last ? (item * pixels + pixel) * all + n : (item * all + n) * pixels + pixel;
      poison = Simd::fma(load_some(c.input, at, c.step.input.dtype, 1), Simd::zero(), poison);
    }
  }
  return Simd::sum(poison) == 0.0f;
}

// Sums of codes of a row, one for each group of the weight.
inline void sum_codes(const std::int8_t* codes, std::int64_t width, const Rows& rows, std::int64_t r) {
  for (std::int64_t g = 0; g < rows.sums_per_row; ++g) {
    std::int64_t k = g * rows.sum_group;
    const std::int64_t end = k + rows.sum_group < width ? k + rows.sum_group : width;
    Int total = Simd::int_zero();
    for (; k + 64 <= end; k += 64) total = Simd::add_codes(total, codes + k);
    if (k < end) {
      alignas(64) std::int8_t rest[64] = {};
      std::memcpy(rest, codes + k, static_cast<std::size_t>(end - k));
      total = Simd::add_codes(total, rest);
    }
    rows.sums[r * rows.sums_per_row + g] = Simd::int_sum(total);
  }
}

// One row of codes, cut from an image of codes or read where it lies.
void code_row(const ConvolutionJob& job, const Bench& bench, const Band& band, std::int64_t group,
              const Place& place, std::int64_t r, bool in_place, const Rows& rows) {
  const hf_quant::Input& in = job.request->step.input;
  constexpr bool kBytes = sizeof(Act) == 1;
  const std::uint8_t* patch = patch_of(*job.request, band, group, place);
  const std::int8_t* codes = reinterpret_cast<const std::int8_t*>(patch);
  if (!in_place) {
    std::int8_t* out = kBytes ? reinterpret_cast<std::int8_t*>(rows.codes + r * rows.stride) : bench.own.bytes;
    gather(job, patch, reinterpret_cast<std::uint8_t*>(out));
    if (!kBytes) Simd::arrange(rows.codes + r * rows.stride, out, rows.stride);
    codes = out;
  }
  sum_codes(codes, in_place ? in.width : hf_quant::round_up(in.width, 64), rows, r);
  rows.scales[r] = band.spoiled && !is_finite(*job.request, band, group, place) ? kNaN : in.static_scale;
  rows.zeros[r] = in.static_zero;
}

// One row of an image of floats: quantized, or kept.
void float_row(const ConvolutionJob& job, const Bench& bench, const Band& band, std::int64_t group,
               const Place& place, std::int64_t r, bool summed, const Rows& rows) {
  const hf_quant::Input& in = job.request->step.input;
  const std::uint8_t* patch = patch_of(*job.request, band, group, place);
  const float* x = reinterpret_cast<const float*>(patch);
  if (job.pieces > 1 || in.width % 16 != 0) {
    float* out = rows.floats && !in.rotation ? rows.floats + r * rows.stride : bench.patch;
    gather(job, patch, reinterpret_cast<std::uint8_t*>(out));
    x = out;
  }
  Extremes seen;
  bool known = false;
  hf_quant::Input as_floats = in;
  as_floats.dtype = hf_quant::kFloat32;
  if (in.rotation) x = load_row(as_floats, x, 0, bench.own.row, &seen, &known);
  if (job.program.plans[0].integer) {
    quantize_row(in, x, known ? &seen : nullptr, rows, r, bench.own.bytes);
  } else if (summed || (rows.floats && x != rows.floats + r * rows.stride)) {
    keep_row(in, x, rows, r);
  }
}

// Rows [first, first + count) of a band, as a product reads them.
Rows tile_rows(const ConvolutionJob& job, const Bench& bench, const Band& band, std::int64_t group, std::int64_t first,
               std::int64_t count) {
  const Convolution& c = *job.request;
  const hf_quant::Input& in = c.step.input;
  Rows rows = rows_for(bench.rows, c.step);
  Place place = place_of(c, band, first);
  const std::uint8_t* start = patch_of(c, band, group, place);
  const std::int64_t size = c.codes ? 1 : 4;
  // Whole chunks are read. Rows 4096 bytes apart compete for the same lines of the cache.
  const bool in_place = job.pieces == 1 && in.width % kChunk == 0 && !in.rotation &&
                        (c.codes ? sizeof(Act) == 1 : in.mode == hf_quant::kFloatInput) &&
                        first / job.run == (first + count - 1) / job.run && job.run_bytes % 4096 != 0;
  if (in_place) {
    rows.stride = job.run_bytes / size;
    if (c.codes) {
      rows.codes = reinterpret_cast<Act*>(const_cast<std::uint8_t*>(start));
    } else {
      rows.floats = nullptr;  // sums only
    }
  }
  for (std::int64_t r = 0; r < count; ++r, next_place(c, band, &place)) {
    if (c.codes) {
      code_row(job, bench, band, group, place, r, in_place, rows);
    } else {
      // Sums of floats are for few rows, which are multiplied with codes.
      float_row(job, bench, band, group, place, r, count <= kFewFloats, rows);
    }
  }
  if (in_place && !c.codes) rows.floats = reinterpret_cast<float*>(const_cast<std::uint8_t*>(start));
  return rows;
}

// 16 channels of what a product gave, [count][kBlock], scaled, shifted, activated and on their way to memory.
template <std::int32_t Activation>
void emit_lanes(const ConvolutionJob& job, const Band& band, const float* tile, std::int64_t first, std::int64_t count,
                std::int64_t channel, int lanes) {
  const Convolution& c = *job.request;
  const std::int64_t channels = c.groups * c.step.weights[0].channels;
  const std::int32_t dtype = c.step.output_dtype, kind = Activation == kAny ? c.activation : Activation;
  Float factor = Simd::set(1.0f), shift = Simd::zero();
  if (c.factor) {
    factor = load_some(c.factor, channel, hf_quant::kFloat32, lanes);
    shift = load_some(c.shift, channel, hf_quant::kFloat32, lanes);
  }
  const auto made = [&](std::int64_t r) HFQ_LAMBDA_INLINE {
    Float v = Simd::load(tile + r * kBlock);
    if (c.factor) v = Simd::add(Simd::mul(v, factor), shift);
    return activate(v, kind);
  };
  const std::int64_t each = job.pixels / c.out[c.axis], own = each * band.length;  // pixels of a band
  if (c.channels_last) {
    // Where there are several items, they are whole.
    const std::int64_t row = band.first * job.pixels + band.begin * each + first;
    for (std::int64_t r = 0; r < count; ++r) {
      const std::int64_t at = (row + r) * channels + channel;
      lanes == kLanes ? store_as(c.output, at, dtype, made(r)) : store_some(c.output, at, dtype, made(r), lanes);
    }
    return;
  }
  alignas(64) float square[256], turned[256];
  for (std::int64_t r = 0; r < count;) {
    // Up to 16 pixels of one plane.
    const std::int64_t item = band.first + (first + r) / own, within = (first + r) % own;
    const std::int64_t pixel = band.begin * each + within, left = own - within < count - r ? own - within : count - r;
    const int pixels = static_cast<int>(left < 16 ? left : 16);
    for (int i = 0; i < pixels; ++i) Simd::store(square + 16 * i, made(r + i));
    for (int i = pixels; i < 16; ++i) Simd::store(square + 16 * i, Simd::zero());
    const std::int64_t to = (item * channels + channel) * job.pixels + pixel;
    r += pixels;
    if (pixels == 16 && lanes == 16 && dtype == hf_quant::kFloat32) {
      transpose(square, 16, [&](int i) { return static_cast<float*>(c.output) + to + i * job.pixels; });
      continue;
    }
    transpose(square, 16, [&](int i) { return turned + 16 * i; });
    for (int i = 0; i < lanes; ++i) {
      const std::int64_t at = to + i * job.pixels;
      const Float v = Simd::load(turned + 16 * i);
      pixels == 16 ? store_as(c.output, at, dtype, v) : store_some(c.output, at, dtype, v, pixels);
    }
  }
}

void emit(const ConvolutionJob& job, const Band& band, const float* tile, std::int64_t first, std::int64_t count,
          std::int64_t group, std::int64_t block) {
  const Convolution& c = *job.request;
  const std::int64_t channels = c.step.weights[0].channels;
  const auto way = c.activation == hf_quant::kNoActivation ? emit_lanes<hf_quant::kNoActivation>
                   : c.activation == hf_quant::kRelu       ? emit_lanes<hf_quant::kRelu>
                                                           : emit_lanes<kAny>;
  for (std::int64_t n = block * kBlock; n < channels && n < (block + 1) * kBlock; n += kLanes) {
    const int lanes = static_cast<int>(channels - n < kLanes ? channels - n : kLanes);
    way(job, band, tile + n % kBlock, first, count, group * channels + n, lanes);
  }
}

// One block of channels of a group times the rows of a tile.
void convolve_block(const ConvolutionJob& job, const Bench& bench, const Band& band, const Rows& rows, std::int64_t first,
                    std::int64_t count, std::int64_t group, std::int64_t block) {
  const Convolution& c = *job.request;
  const Layout layout = layout_of(c.step, 0);
  Weight weight = c.step.weights[0];
  weight.blocks += group * c.weight_bytes;
  const Ahead ahead{weight.blocks + (block + 1) * layout.block_bytes, block + 1 < job.blocks ? layout.block_bytes : 0};
  if (weight.bias) {
    const std::int64_t size = weight.bias_dtype == hf_quant::kFloat32 ? 4 : 2;
    weight.bias = static_cast<const std::uint8_t*>(weight.bias) + (group * weight.channels + block * kBlock) * size;
  }
  // To memory of this thread as if the block were all there is.
  Weight alone = weight;
  alone.channels = static_cast<std::int32_t>(weight.channels - block * kBlock);
  const Finish keep{&c.step, &alone, nullptr, bench.own.gate, kBlock, 0, 0, hf_quant::kFloat32, hf_quant::kNoActivation, false};
  const Workspace work{bench.own.tile, bench.own.spare};
  multiply(layout, weight, block, rows, count, job.program.plans[0].integer, work, ahead, keep);
  emit(job, band, bench.own.gate, first, count, group, block);
}

Bench take_bench(Memory& memory, const ConvolutionJob& job) {
  Bench bench;
  const bool codes = job.program.plans[0].integer;
  bench.own = take_own(memory, job.program, codes);
  take_rows(memory, job.program, job.program.rows_at_once, codes, &bench.rows);
  bench.patch = static_cast<float*>(memory.take(hf_quant::round_up(job.request->step.input.width, 16) * 4));
  const Convolution& c = *job.request;
  bench.image = static_cast<std::uint8_t*>(memory.take(c.staged ? c.items * c.item_bytes : 0));
  return bench;
}

// Rows are as wide as kernels read them, with zeros beyond the patch, which nothing overwrites.
void clear_ends(const ConvolutionJob& job, const Bench& bench) {
  const std::int64_t width = job.request->step.input.width, count = job.program.rows_at_once;
  const Rows rows = rows_for(bench.rows, job.request->step);
  for (std::int64_t k = width; k < rows.stride; ++k) {
    bench.own.bytes[k] = 0;
    for (std::int64_t r = 0; rows.codes && r < count; ++r) rows.codes[r * rows.stride + k] = 0;
    for (std::int64_t r = 0; rows.floats && r < count; ++r) rows.floats[r * rows.stride + k] = 0.0f;
  }
  for (std::int64_t k = width; k < hf_quant::round_up(width, 16); ++k) bench.patch[k] = 0.0f;
}

void convolve_team(const Team& team, void* data) {
  ConvolutionJob& job = *static_cast<ConvolutionJob*>(data);
  const Convolution& c = *job.request;
  Memory memory{job.program.own + team.thread * job.program.own_bytes};
  const Bench bench = take_bench(memory, job);
  clear_ends(job, bench);
  std::int64_t held = -1;
  Band band{};
  for (std::int64_t unit = job.next.fetch_add(1); unit < job.bands * job.splits; unit = job.next.fetch_add(1)) {
    const std::int64_t index = unit / job.splits, split = unit % job.splits;
    if (index != held) {
      held = index;
      band.first = index / job.along * c.items;
      band.items = c.batch - band.first < c.items ? c.batch - band.first : c.items;
      band.begin = index % job.along * c.length;
      band.length = c.out[c.axis] - band.begin < c.length ? c.out[c.axis] - band.begin : c.length;
      band.image = c.staged ? bench.image
                            : static_cast<const std::uint8_t*>(c.input) + band.first * c.item_bytes +
                                  band.begin * c.stride[c.axis] * c.step_bytes[c.axis];
      if (c.staged) stage(c, &band, bench.image);
    }
    const Tiles tiles(band.items * (job.pixels / c.out[c.axis]) * band.length, job.program.rows_at_once);
    const std::int64_t begin = job.columns * split / job.splits, end = job.columns * (split + 1) / job.splits;
    for (std::int64_t tile = 0; tile < tiles.tiles; ++tile) {
      const std::int64_t row = tiles.begin(tile), count = tiles.begin(tile + 1) - row;
      Rows rows{};
      for (std::int64_t column = begin; column < end; ++column) {
        const std::int64_t group = column / job.blocks;
        if (column == begin || column % job.blocks == 0) rows = tile_rows(job, bench, band, group, row, count);
        convolve_block(job, bench, band, rows, row, count, group, column % job.blocks);
      }
    }
  }
}

// Pieces of a patch that lie in one stretch, and rows that lie evenly.
void find_pieces(const Convolution& c, ConvolutionJob* job, std::int64_t* piece_at) {
  job->piece_bytes = c.width * (c.codes ? 1 : 4);
  std::int64_t across[3] = {1, 1, 1};
  bool whole = true;
  for (int i = 2; i >= 0; --i) {
    if (c.kernel[i] == 1) continue;
    whole = whole && c.dilation[i] == 1 && c.step_bytes[i] == job->piece_bytes;
    (whole ? job->piece_bytes : across[i]) *= c.kernel[i];
  }
  job->pieces = across[0] * across[1] * across[2];
  for (std::int64_t i = 0; piece_at && i < job->pieces; ++i) {
    const std::int64_t of[3] = {i / across[2] / across[1], i / across[2] % across[1], i % across[2]};
    piece_at[i] = 0;
    for (int k = 0; k < 3; ++k) piece_at[i] += of[k] * c.dilation[k] * c.step_bytes[k];
  }
  job->piece_at = piece_at;
  const std::int64_t counts[4] = {c.items, c.axis == 0 ? c.length : c.out[0], c.axis == 1 ? c.length : c.out[1], c.out[2]};
  job->run = 1;
  job->run_bytes = 0;
  for (int i = 3; i >= 0; --i) {
    if (counts[i] == 1) continue;
    const std::int64_t step = i == 0 ? c.item_bytes : c.stride[i - 1] * c.step_bytes[i - 1];
    if (job->run > 1 && step != job->run_bytes * job->run) break;
    if (job->run == 1) job->run_bytes = step;
    job->run *= counts[i];
  }
}

// 0, or 1 when there is no memory.
int run_convolve(const Convolution& request, int threads) {
  ConvolutionJob job{};
  job.request = &request;
  job.blocks = (request.step.weights[0].channels + kBlock - 1) / kBlock;
  job.pixels = request.out[0] * request.out[1] * request.out[2];
  find_pieces(request, &job, nullptr);
  Program& program = job.program;
  program.steps = &request.step;
  program.count = 1;
  program.plans[0].step = &request.step;
  program.plans[0].integer = request.step.input.mode != hf_quant::kFloatInput;
  const std::int64_t size = program.plans[0].integer ? static_cast<std::int64_t>(sizeof(Act)) : 4;
  std::int64_t most = kTileBytes / (act_stride(request.step.input.width) * size) / 12 * 12;
  most = most < kLeastTile ? kLeastTile : most > kMostTile ? kMostTile : most;
  const std::int64_t rows = request.items * (job.pixels / request.out[request.axis]) * request.length;
  program.rows_at_once = rows < most ? rows : most;
  // Where there are few bands, threads share one by its channels, and each has an image of its own.
  job.along = (request.out[request.axis] + request.length - 1) / request.length;
  job.bands = job.along * ((request.batch + request.items - 1) / request.items);
  job.columns = request.groups * job.blocks;
  const std::int64_t wanted = (4 * threads + job.bands - 1) / job.bands;
  job.splits = threads == 1 ? 1 : wanted < job.columns ? wanted : job.columns;
  for (bool measuring = true;; measuring = false) {
    static thread_local std::int64_t needed;
    Memory memory{measuring ? nullptr : static_cast<std::uint8_t*>(hf_quant::scratch(needed))};
    if (!measuring && !memory.base) return 1;
    auto* piece_at = static_cast<std::int64_t*>(memory.take(job.pieces * 8));
    Memory own{nullptr};
    take_bench(own, job);
    program.own_bytes = own.used;
    program.own = static_cast<std::uint8_t*>(memory.take(own.used * threads));
    needed = memory.used + 4096;
    if (measuring) continue;
    find_pieces(request, &job, piece_at);
    break;
  }
  hf_quant::parallel(threads, convolve_team, &job);
  return 0;
}

}  // namespace
