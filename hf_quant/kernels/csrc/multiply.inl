// One block of channels times all rows of a chunk, and the way of each tile to memory: bias, activation, gate,
// residual. Per instruction set.

namespace {

using hf_quant::Step;

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
    const Tile tile = layout.grouped ? direct_tile<kNarrow, false>(weight.bits, r)
                                     : direct_tile<kPerChannel, false>(weight.bits, r);
    tile(block, rows, 0, work.tile);
    finish(to, work.tile, 0, count);
    return;
  }
  if (!integer) {
    float* panel = reinterpret_cast<float*>(work.spare);
    const Tiles tiles(count, Simd::kFloatRows);
    for (std::int64_t k = 0; k < layout.padded_width; k += kPanelInputs) {
      const std::int64_t end = k + kPanelInputs < layout.padded_width ? k + kPanelInputs : layout.padded_width;
      decode(block, weight.bits, k, end, panel);
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
    const int kind = !layout.grouped ? kPerChannel : layout.narrow ? kNarrow : kWide;
    const Tile tile = kind == kPerChannel ? integer_tile_of<kPerChannel>(expanded, weight.bits, r)
                      : kind == kNarrow   ? integer_tile_of<kNarrow>(expanded, weight.bits, r)
                                          : integer_tile_of<kWide>(expanded, weight.bits, r);
    tile(block, rows, row, work.tile);
    finish(to, work.tile, row, r);
  }
}

}  // namespace
