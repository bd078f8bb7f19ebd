// Programs: steps of quantize, multiply, finish, shared by the threads of one parallel region. Per instruction set.

namespace {

using hf_quant::Layout;
using hf_quant::Step;
using hf_quant::Team;
using hf_quant::Weight;

constexpr std::int64_t kRowsAtOnce = 516;       // rows of inputs that are quantized before weights are read
constexpr std::int64_t kChainedRows = 264;      // the same where rows go from one step to the next, through the cache
constexpr std::int64_t kFewRows = 12;           // rows up to which each thread reads one stretch of the weights
constexpr std::int64_t kAloneRows = 4;          // rows that each thread quantizes for itself rather than wait,
constexpr std::int64_t kOwnQuantize = 1 << 15;  // if they hold no more numbers than this
constexpr int kMostSteps = 8;
constexpr std::int64_t kPanelInputs = 1024;     // inputs of a block that are decoded to floats at a time

// What differs from step to step but not from chunk to chunk.
struct Plan {
  const Step* step;
  bool integer;
  std::int64_t units;       // blocks of the first weight, or of all of them
  std::int64_t kept_stride; // of what is kept for the next step, 0: nothing is
};

HFQ_INLINE Block block_of(const Layout& layout, const Weight& weight, std::int64_t index) {
  const std::uint8_t* at = weight.blocks + index * layout.block_bytes;
  Block block;
  block.scales = at;
  block.zeros = (weight.flags & hf_quant::kHasZeros) ? at + layout.zeros_at : nullptr;
  block.sums = (weight.flags & hf_quant::kHasSums) ? reinterpret_cast<const std::int32_t*>(at + layout.sums_at) : nullptr;
  block.codes = at + layout.codes_at;
  block.groups = layout.groups;
  block.group_chunks = layout.group / kChunk;
  block.middle = 1 << (weight.bits - 1);
  return block;
}

template <int Bits, int R, bool Grouped, bool Integer>
void tile_to(const Block& block, const Rows& rows, std::int64_t row, float* out) {
  constexpr int kV = Simd::kTileVectors;
  for (int first = 0; first < hf_quant::kVectors; first += kV) {
    Float result[R][kV];
    if constexpr (Integer) {
      integer_tile<Bits, R, kV, Grouped>(block, first, rows, row, result);
    } else {
      float_tile<Bits, R, kV, Grouped>(block, first, rows, row, result);
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kV; ++v) Simd::store(out + r * kBlock + kLanes * (first + v), result[r][v]);
    }
  }
}

using Tile = void (*)(const Block&, const Rows&, std::int64_t, float*);

template <int Bits, bool Grouped, bool Integer, int... R>
Tile tile_for(int rows, std::integer_sequence<int, R...>) {
  static constexpr Tile kTable[] = {tile_to<Bits, R + 1, Grouped, Integer>...};
  return kTable[rows - 1];
}

template <int Bits, bool Grouped, bool Integer, int Most>
Tile tile_of(int rows) {
  return tile_for<Bits, Grouped, Integer>(rows, std::make_integer_sequence<int, Most>{});
}

// Few rows of floats are multiplied with codes as they are; up to here.
constexpr int kFewFloats = 4;

// Rows of a tile that reads codes of `bits` bits as they are; more rows of other widths than 4 and 8 have them expanded
// first.
constexpr int direct_rows(int bits, bool grouped, bool integer) {
  if (!integer) return bits == 4 || bits == 8 ? kFewFloats : 1;
  return bits == 8 ? grouped ? Simd::kGroupRows : Simd::kRows : bits == 4 ? Simd::kNibbleRows : 1;
}

template <int Bits, bool Grouped, bool Integer>
Tile direct_tile_of(int rows) {
  return tile_of<Bits, Grouped, Integer, direct_rows(Bits, Grouped, Integer)>(rows);
}

template <bool Grouped, bool Integer>
Tile direct_tile(int bits, int rows) {
  switch (bits) {
    case 2: return direct_tile_of<2, Grouped, Integer>(rows);
    case 3: return direct_tile_of<3, Grouped, Integer>(rows);
    case 4: return direct_tile_of<4, Grouped, Integer>(rows);
    case 5: return direct_tile_of<5, Grouped, Integer>(rows);
    case 6: return direct_tile_of<6, Grouped, Integer>(rows);
    case 7: return direct_tile_of<7, Grouped, Integer>(rows);
    default: return direct_tile_of<8, Grouped, Integer>(rows);
  }
}

template <bool Grouped>
Tile expanded_tile(int rows) {
  return tile_of<kExpanded, Grouped, true, Grouped ? Simd::kGroupRows : Simd::kRows>(rows);
}

void expand(const Block& block, int bits, std::uint8_t* out) {
  switch (bits) {
    case 2: return expand_block<2>(block, out);
    case 3: return expand_block<3>(block, out);
    case 4: return expand_block<4>(block, out);
    case 5: return expand_block<5>(block, out);
    case 6: return expand_block<6>(block, out);
    default: return expand_block<7>(block, out);
  }
}

void decode(const Block& block, int bits, bool grouped, std::int64_t begin, std::int64_t end, float* out) {
  switch (bits) {
    case 2: return decode_panel<2>(block, grouped, begin, end, out);
    case 3: return decode_panel<3>(block, grouped, begin, end, out);
    case 4: return decode_panel<4>(block, grouped, begin, end, out);
    case 5: return decode_panel<5>(block, grouped, begin, end, out);
    case 6: return decode_panel<6>(block, grouped, begin, end, out);
    case 7: return decode_panel<7>(block, grouped, begin, end, out);
    default: return decode_panel<8>(block, grouped, begin, end, out);
  }
}

template <int R>
void panel_to(const float* panel, std::int64_t inputs, const float* x, std::int64_t stride, bool more, float* out) {
  constexpr int kV = Simd::kTileVectors;
  for (int first = 0; first < hf_quant::kVectors; first += kV) {
    Float result[R][kV];
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kV; ++v) {
        result[r][v] = more ? Simd::load(out + r * kBlock + kLanes * (first + v)) : Simd::zero();
      }
    }
    panel_tile<R, kV>(panel + kLanes * first, inputs, x, stride, result);
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kV; ++v) Simd::store(out + r * kBlock + kLanes * (first + v), result[r][v]);
    }
  }
}

using PanelTile = void (*)(const float*, std::int64_t, const float*, std::int64_t, bool, float*);

template <int... R>
PanelTile panel_for(int rows, std::integer_sequence<int, R...>) {
  static constexpr PanelTile kTable[] = {panel_to<R + 1>...};
  return kTable[rows - 1];
}

PanelTile panel_of(int rows) { return panel_for(rows, std::make_integer_sequence<int, Simd::kFloatRows>{}); }

// `count` rows in tiles of at most `most`, as even as can be: the rows of tile `index`, and where it starts.
struct Tiles {
  std::int64_t count, tiles;
  Tiles(std::int64_t rows, std::int64_t most) : count(rows), tiles((rows + most - 1) / most) {}
  std::int64_t begin(std::int64_t index) const { return count * index / tiles; }
};

// Bias, activation, gate, residual, and the way to memory.
struct Finish {
  const Step* step;
  const Weight* weight;
  const float* gate;  // [rows][kBlock], activated already, or null
  void* output;
  std::int64_t output_stride;
  std::int64_t first_row;  // where the chunk's first row goes
  std::int64_t channel;    // of the block's first
  std::int32_t dtype;
  std::int32_t activation;
  bool residual;
};

constexpr std::int32_t kAny = -1;  // an activation that is looked up for each vector

// 16 channels of `count` rows, `lanes` of which are there. With an activation known in advance: all of them are, as floats,
// without gate; a residual there is or not as `Residual` says.
template <std::int32_t Activation, bool Residual>
void finish_lanes(const Finish& to, const float* tile, std::int64_t row, std::int64_t count, int at, int lanes) {
  const Weight& weight = *to.weight;
  const std::int64_t n = to.channel + at;
  Float bias = Simd::zero();
  if (weight.bias) {
    bias = lanes == kLanes ? load_as(weight.bias, n, weight.bias_dtype)
                           : load_some(weight.bias, n, weight.bias_dtype, lanes);
  }
  std::int64_t where = (to.first_row + row) * to.output_stride + n;
  std::int64_t from = (to.first_row + row) * to.step->residual_stride + n;
  for (std::int64_t r = 0; r < count; ++r, where += to.output_stride, from += to.step->residual_stride) {
    Float v = Simd::add(Simd::load(tile + r * kBlock + at), bias);
    if constexpr (Activation != kAny) {
      v = activate(v, Activation);
      if constexpr (Residual) v = Simd::add(v, Simd::load(static_cast<const float*>(to.step->residual) + from));
      Simd::store(static_cast<float*>(to.output) + where, v);
    } else {
      v = activate(v, to.activation);
      if (to.gate) v = Simd::mul(v, Simd::load(to.gate + (row + r) * kBlock + at));
      if (to.residual) {
        v = Simd::add(v, lanes == kLanes ? load_as(to.step->residual, from, to.dtype)
                                         : load_some(to.step->residual, from, to.dtype, lanes));
      }
      lanes == kLanes ? store_as(to.output, where, to.dtype, v) : store_some(to.output, where, to.dtype, v, lanes);
    }
  }
}

using FinishLanes = void (*)(const Finish&, const float*, std::int64_t, std::int64_t, int, int);

FinishLanes finish_way(const Finish& to, bool whole) {
  if (to.dtype != hf_quant::kFloat32 || to.gate || !whole) return finish_lanes<kAny, false>;
  if (to.residual) {
    return to.activation == hf_quant::kNoActivation ? finish_lanes<hf_quant::kNoActivation, true> : finish_lanes<kAny, false>;
  }
  switch (to.activation) {
    case hf_quant::kNoActivation: return finish_lanes<hf_quant::kNoActivation, false>;
    case hf_quant::kGeluErf: return finish_lanes<hf_quant::kGeluErf, false>;
    case hf_quant::kGeluTanh: return finish_lanes<hf_quant::kGeluTanh, false>;
    case hf_quant::kSilu: return finish_lanes<hf_quant::kSilu, false>;
    default: return finish_lanes<kAny, false>;
  }
}

// Rows [row, row + count) of the chunk, from tile [count][kBlock].
void finish(const Finish& to, const float* tile, std::int64_t row, std::int64_t count) {
  for (int at = 0; at < kBlock && to.channel + at < to.weight->channels; at += kLanes) {
    const std::int64_t left = to.weight->channels - to.channel - at;
    const int lanes = static_cast<int>(left < kLanes ? left : kLanes);
    finish_way(to, lanes == kLanes)(to, tile, row, count, at, lanes);
  }
}

// Fetches a stretch of memory bit by bit while something else is worked on.
struct Ahead {
  const std::uint8_t* at;
  std::int64_t bytes;

  void fetch(std::int64_t part, std::int64_t parts) const {
    const std::int64_t end = bytes * (part + 1) / parts;
    for (std::int64_t i = bytes * part / parts / 64 * 64; i < end; i += 64) Simd::prefetch(at + i);
  }
};

// What a thread multiplies with, and the memory it has for that.
struct Workspace {
  float* tile;          // [rows][kBlock]
  std::uint8_t* spare;  // a block as bytes, or a panel of floats
};

// One block of one weight times all rows of the chunk.
void multiply(const Layout& layout, const Weight& weight, std::int64_t index, const Rows& rows, std::int64_t count,
              bool integer, const Workspace& work, const Ahead& ahead, const Finish& to) {
  Block block = block_of(layout, weight, index);
  const std::int64_t direct = direct_rows(weight.bits, layout.grouped, integer);
  if (!integer && count <= direct) {
    const int r = static_cast<int>(count);
    const Tile tile = layout.grouped ? direct_tile<true, false>(weight.bits, r) : direct_tile<false, false>(weight.bits, r);
    tile(block, rows, 0, work.tile);
    finish(to, work.tile, 0, count);
    return;
  }
  if (!integer) {
    float* panel = reinterpret_cast<float*>(work.spare);
    const Tiles tiles(count, Simd::kFloatRows);
    for (std::int64_t k = 0; k < layout.padded_width; k += kPanelInputs) {
      const std::int64_t end = k + kPanelInputs < layout.padded_width ? k + kPanelInputs : layout.padded_width;
      decode(block, weight.bits, layout.grouped, k, end, panel);
      // Rows that are read where they lie end with the input, not with the padding.
      const std::int64_t used = (end < layout.width ? end : layout.width) - k;
      for (std::int64_t t = 0; t < tiles.tiles; ++t) {
        const std::int64_t row = tiles.begin(t);
        const int r = static_cast<int>(tiles.begin(t + 1) - row);
        float* out = work.tile + row * kBlock;
        panel_of(r)(panel, used, rows.floats + row * rows.stride + k, rows.stride, k > 0, out);
        if (end == layout.padded_width) finish(to, out, row, r);
      }
    }
    return;
  }
  const bool expanded = count > direct && weight.bits != 4 && weight.bits != 8;
  if (expanded) {
    expand(block, weight.bits, work.spare);
    block.codes = work.spare;
  }
  const Tiles tiles(count, !expanded ? direct : layout.grouped ? Simd::kGroupRows : Simd::kRows);
  for (std::int64_t t = 0; t < tiles.tiles; ++t) {
    const std::int64_t row = tiles.begin(t);
    const int r = static_cast<int>(tiles.begin(t + 1) - row);
    ahead.fetch(t, tiles.tiles);
    const Tile tile = expanded         ? layout.grouped ? expanded_tile<true>(r) : expanded_tile<false>(r)
                      : layout.grouped ? direct_tile<true, true>(weight.bits, r)
                                       : direct_tile<false, true>(weight.bits, r);
    tile(block, rows, row, work.tile);
    finish(to, work.tile, row, r);
  }
}

// Memory of a program: what all threads share, then what each has to itself.
struct Memory {
  std::uint8_t* base;
  std::int64_t used = 0;
  void* take(std::int64_t bytes) {
    void* at = base ? base + used : nullptr;
    used += hf_quant::round_up(bytes, 64);
    return at;
  }
};

struct Program {
  const Step* steps;
  int count;
  int threads;
  std::int64_t rows_at_once;
  std::atomic<std::int64_t>* next;  // [chunks][steps]
  Plan plans[kMostSteps];
  Rows shared;
  float* kept[2];
  std::uint8_t* own;  // per thread
  std::int64_t own_bytes;
};

std::int64_t act_stride(std::int64_t width) {
  // Rows that lie a multiple of 4096 bytes apart compete for the same lines of the cache.
  const std::int64_t padded = hf_quant::round_up(width, 64);
  return padded % 1024 == 0 ? padded + 64 : padded;
}

struct Own {
  float* row;
  std::int8_t* bytes;
  Rows rows;
  float* tile;
  float* gate;
  std::uint8_t* spare;
};

// The rows of one chunk as memory; sized for the largest step.
void take_rows(Memory& memory, const Program& program, std::int64_t count, bool codes, Rows* rows) {
  std::int64_t stride = 0, groups = 1;
  for (int s = 0; s < program.count; ++s) {
    const Step& step = program.steps[s];
    const std::int64_t width = step.input.width;
    stride = stride > act_stride(width) ? stride : act_stride(width);
    for (int w = 0; w < step.weight_count; ++w) {
      const std::int64_t g = step.weights[w].group ? width / step.weights[w].group : 1;
      groups = groups > g ? groups : g;
    }
  }
  rows->codes = codes ? static_cast<Act*>(memory.take(count * stride * static_cast<std::int64_t>(sizeof(Act)))) : nullptr;
  rows->floats = codes ? nullptr : static_cast<float*>(memory.take(count * stride * 4));
  rows->scales = static_cast<float*>(memory.take(count * groups * 4));
  rows->sums = static_cast<std::int32_t*>(memory.take(count * groups * 4));
  rows->float_sums = static_cast<float*>(memory.take(count * groups * 4));
  rows->zeros = static_cast<std::int32_t*>(memory.take(count * 4));
}

Rows rows_for(const Rows& memory, const Step& step) {
  Rows rows = memory;
  const Weight& weight = step.weights[0];
  rows.stride = act_stride(step.input.width);
  rows.sums_per_row = weight.group ? step.input.width / weight.group : 1;
  rows.sum_group = weight.group ? weight.group : hf_quant::round_up(step.input.width, 64);
  rows.scales_per_row = step.input.mode == hf_quant::kGroupSymmetric ? rows.sums_per_row : 1;
  return rows;
}

// The weight and block that a unit of work stands for.
struct Unit {
  int weight;
  std::int64_t block;
};

Unit unit_of(const Step& step, std::int64_t unit) {
  int w = 0;
  if (!step.gated) {
    while (unit >= (step.weights[w].channels + kBlock - 1) / kBlock) {
      unit -= (step.weights[w].channels + kBlock - 1) / kBlock;
      ++w;
    }
  }
  return {w, unit};
}

Layout layout_of(const Step& step, int w) {
  const Weight& weight = step.weights[w];
  return Layout(weight.channels, step.input.width, weight.bits, weight.group, weight.flags);
}

void run_unit(const Program& program, int s, const Rows& rows, const Own& own, std::int64_t index, std::int64_t first_row,
              std::int64_t count) {
  const Plan& plan = program.plans[s];
  const Step& step = *plan.step;
  const Unit unit = unit_of(step, index);
  const Weight& weight = step.weights[unit.weight];
  const Workspace work{own.tile, own.spare};
  // Most likely this thread's next.
  Ahead ahead{nullptr, 0};
  if (index + program.threads < plan.units) {
    const Unit next = unit_of(step, index + program.threads);
    const Layout layout = layout_of(step, next.weight);
    ahead = {step.weights[next.weight].blocks + next.block * layout.block_bytes, layout.block_bytes};
  }
  Finish to{&step, &weight, nullptr, weight.output, weight.output_stride, first_row, unit.block * kBlock,
            step.output_dtype, step.activation, step.residual != nullptr};
  if (!weight.output) {
    to.output = program.kept[s % 2];
    to.output_stride = plan.kept_stride;
    to.dtype = hf_quant::kFloat32;
    to.first_row = 0;
  }
  if (step.gated) {
    // The gate goes to memory of this thread as if the block were all there is.
    Weight gate = weight;
    gate.channels = static_cast<std::int32_t>(weight.channels - to.channel);
    if (gate.bias) {
      const std::int64_t size = gate.bias_dtype == hf_quant::kFloat32 ? 4 : 2;
      gate.bias = static_cast<const std::uint8_t*>(gate.bias) + to.channel * size;
    }
    const Finish keep{&step, &gate, nullptr, own.gate, kBlock, 0, 0, hf_quant::kFloat32, step.activation, false};
    const Layout up = layout_of(step, 1);
    const Ahead second{step.weights[1].blocks + unit.block * up.block_bytes, up.block_bytes};
    multiply(layout_of(step, 0), weight, unit.block, rows, count, plan.integer, work, second, keep);
    to.weight = &step.weights[1];
    to.gate = own.gate;
    to.activation = hf_quant::kNoActivation;
    multiply(up, step.weights[1], unit.block, rows, count, plan.integer, work, ahead, to);
  } else {
    multiply(layout_of(step, unit.weight), weight, unit.block, rows, count, plan.integer, work, ahead, to);
  }
}

void prepare_rows(const Program& program, int s, const Rows& rows, const Own& own, std::int64_t first_row,
                  std::int64_t begin, std::int64_t end) {
  const Plan& plan = program.plans[s];
  hf_quant::Input in = plan.step->input;
  const void* data = in.data;
  std::int64_t offset = first_row;
  if (!data) {
    data = program.kept[(s + 1) % 2];
    in.dtype = hf_quant::kFloat32;
    in.stride = program.plans[s - 1].kept_stride;
    offset = 0;
  }
  for (std::int64_t r = begin; r < end; ++r) {
    Extremes seen;
    bool known = false;
    const float* x = load_row(in, data, offset + r, own.row, &seen, &known);
    if (plan.integer) {
      quantize_row(in, x, known ? &seen : nullptr, rows, r, own.bytes);
    } else {
      keep_row(in, x, rows, r);
    }
  }
}

// Norm of rows of the output, where they lie.
void normalize_output(const Step& step, const Own& own, std::int64_t begin, std::int64_t end) {
  const Weight& weight = step.weights[0];
  hf_quant::Input in = {};
  in.norm = step.post_norm;
  in.norm_weight = step.post_weight;
  in.norm_bias = step.post_bias;
  in.norm_dtype = step.post_dtype;
  in.epsilon = step.post_epsilon;
  in.dtype = step.output_dtype;
  in.width = weight.channels;
  in.stride = weight.output_stride;
  const std::int64_t whole = in.width / 16 * 16;
  for (std::int64_t r = begin; r < end; ++r) {
    const float* x = load_row(in, weight.output, r, own.row);
    const std::int64_t at = r * in.stride;
    for (std::int64_t k = 0; k < whole; k += 16) store_as(weight.output, at + k, in.dtype, Simd::load(x + k));
    if (whole < in.width) {
      store_some(weight.output, at + whole, in.dtype, Simd::load(x + whole), static_cast<int>(in.width - whole));
    }
  }
}

void run_chunk(Program& program, const Team& team, const Own& own, std::int64_t chunk, std::int64_t first_row,
               std::int64_t count) {
  for (int s = 0; s < program.count; ++s) {
    const Plan& plan = program.plans[s];
    const bool alone = count <= kAloneRows && count * plan.step->input.width <= kOwnQuantize;
    const Rows rows = rows_for(alone ? own.rows : program.shared, *plan.step);
    std::int64_t begin = 0, end = count;
    if (!alone) team.share(count, &begin, &end);
    prepare_rows(program, s, rows, own, first_row, begin, end);
    if (!alone) team.barrier();
    if (count <= kFewRows) {
      // Each thread reads one stretch of the weights, in order.
      team.share(plan.units, &begin, &end);
      for (std::int64_t unit = begin; unit < end; ++unit) run_unit(program, s, rows, own, unit, first_row, count);
    } else {
      std::atomic<std::int64_t>& next = program.next[chunk * program.count + s];
      for (std::int64_t unit = next.fetch_add(1); unit < plan.units; unit = next.fetch_add(1)) {
        run_unit(program, s, rows, own, unit, first_row, count);
      }
    }
    // The next step reads what all threads wrote, and the next chunk overwrites what all threads read.
    team.barrier();
    if (plan.step->post_norm != hf_quant::kNoNorm) {
      team.share(count, &begin, &end);
      normalize_output(*plan.step, own, first_row + begin, first_row + end);
    }
  }
}

Own take_own(Memory& memory, const Program& program, bool codes) {
  std::int64_t width = 0, spare = 0;
  for (int s = 0; s < program.count; ++s) {
    const std::int64_t padded = hf_quant::round_up(program.steps[s].input.width, 64);
    const std::int64_t out = hf_quant::round_up(program.steps[s].weights[0].channels, 64);
    width = width > padded ? width : padded;
    if (program.steps[s].post_norm != hf_quant::kNoNorm) width = width > out ? width : out;
    const std::int64_t panel = (padded < kPanelInputs ? padded : kPanelInputs) * kBlock * 4;
    const std::int64_t bytes = program.plans[s].integer ? padded * kBlock : panel;
    spare = spare > bytes ? spare : bytes;
  }
  Own own;
  own.row = static_cast<float*>(memory.take(width * 4));
  own.bytes = static_cast<std::int8_t*>(memory.take(width + 128));
  take_rows(memory, program, kAloneRows, codes, &own.rows);
  own.tile = static_cast<float*>(memory.take(program.rows_at_once * kBlock * 4));
  own.gate = static_cast<float*>(memory.take(program.rows_at_once * kBlock * 4));
  own.spare = static_cast<std::uint8_t*>(memory.take(spare));
  return own;
}

void run_team(const Team& team, void* data) {
  Program& program = *static_cast<Program*>(data);
  Memory memory{program.own + team.thread * program.own_bytes};
  const Own own = take_own(memory, program, program.plans[0].integer);
  const std::int64_t rows = program.steps[0].rows;
  std::int64_t chunk = 0;
  for (std::int64_t first = 0; first < rows; first += program.rows_at_once, ++chunk) {
    const std::int64_t count = rows - first < program.rows_at_once ? rows - first : program.rows_at_once;
    run_chunk(program, team, own, chunk, first, count);
  }
}

// 0, or 1 when there is no memory. All steps of a program have inputs of one kind, integer or float.
int run_program(const Step* steps, int count, int threads) {
  Program program;
  program.steps = steps;
  program.count = count;
  program.threads = threads;
  const std::int64_t rows = steps[0].rows;
  // Chunks as even as whole tiles allow.
  const std::int64_t most = count > 1 ? kChainedRows : kRowsAtOnce, chunk_count = (rows + most - 1) / most;
  program.rows_at_once = hf_quant::round_up((rows + chunk_count - 1) / chunk_count, rows > most ? 12 : 1);
  std::int64_t kept = 0;
  for (int s = 0; s < count; ++s) {
    Plan& plan = program.plans[s];
    plan.step = &steps[s];
    plan.integer = steps[s].input.mode != hf_quant::kFloatInput;
    plan.units = 0;
    for (int w = 0; w < (steps[s].gated ? 1 : steps[s].weight_count); ++w) {
      plan.units += (steps[s].weights[w].channels + kBlock - 1) / kBlock;
    }
    plan.kept_stride = 0;
    if (!steps[s].weights[0].output) {
      plan.kept_stride = hf_quant::round_up(steps[s].weights[0].channels, 16);
      kept = kept > plan.kept_stride ? kept : plan.kept_stride;
    }
  }
  const std::int64_t chunks = (rows + program.rows_at_once - 1) / program.rows_at_once;
  for (bool measuring = true;; measuring = false) {
    static thread_local std::int64_t needed;
    Memory memory{measuring ? nullptr : static_cast<std::uint8_t*>(hf_quant::scratch(needed))};
    if (!measuring && !memory.base) return 1;
    program.next = static_cast<std::atomic<std::int64_t>*>(memory.take(chunks * count * 8));
    take_rows(memory, program, program.rows_at_once, program.plans[0].integer, &program.shared);
    program.kept[0] = static_cast<float*>(memory.take(program.rows_at_once * kept * 4));
    program.kept[1] = count > 2 ? static_cast<float*>(memory.take(program.rows_at_once * kept * 4)) : program.kept[0];
    Memory own{nullptr};
    take_own(own, program, program.plans[0].integer);
    program.own_bytes = own.used;
    program.own = static_cast<std::uint8_t*>(memory.take(own.used * threads));
    needed = memory.used + 4096;
    if (!measuring) break;
  }
  for (std::int64_t i = 0; i < chunks * count; ++i) new (&program.next[i]) std::atomic<std::int64_t>(0);
  hf_quant::parallel(threads, run_team, &program);
  return 0;
}

}  // namespace
