// Which function computes a tile: a few rows times a block of 32 channels, by bits of the codes and number of rows. Per
// instruction set.

namespace {

using hf_quant::Layout;
using hf_quant::Weight;

constexpr std::int64_t kPanelInputs = 1024;  // inputs of a block that are decoded to floats at a time

HFQ_INLINE Block block_of(const Layout& layout, const Weight& weight, std::int64_t index) {
  const std::uint8_t* at = weight.blocks + index * layout.block_bytes;
  Block block;
  block.scales = at;
  block.zeros = (weight.flags & hf_quant::kHasZeros) ? at + layout.zeros_at : nullptr;
  block.sums = (weight.flags & hf_quant::kHasSums) ? reinterpret_cast<const std::int32_t*>(at + layout.sums_at) : nullptr;
  block.codes = at + layout.codes_at;
  block.groups = layout.groups;
  block.narrow = layout.narrow;
  block.group_chunks = layout.group / kChunk;
  block.middle = 1 << (weight.bits - 1);
  return block;
}

template <int Bits, int R, int Grouped, bool Integer>
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

template <int Bits, int Grouped, bool Integer, int... R>
Tile tile_for(int rows, std::integer_sequence<int, R...>) {
  static constexpr Tile kTable[] = {tile_to<Bits, R + 1, Grouped, Integer>...};
  return kTable[rows - 1];
}

template <int Bits, int Grouped, bool Integer, int Most>
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

template <int Bits, int Grouped, bool Integer>
Tile direct_tile_of(int rows) {
  return tile_of<Bits, Grouped, Integer, direct_rows(Bits, Grouped, Integer)>(rows);
}

template <int Grouped, bool Integer>
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

template <int Grouped>
Tile expanded_tile(int rows) {
  return tile_of<kExpanded, Grouped, true, Grouped ? Simd::kGroupRows : Simd::kRows>(rows);
}

template <int Grouped>
Tile integer_tile_of(bool expanded, int bits, int rows) {
  return expanded ? expanded_tile<Grouped>(rows) : direct_tile<Grouped, true>(bits, rows);
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

void decode(const Block& block, int bits, std::int64_t begin, std::int64_t end, float* out) {
  switch (bits) {
    case 2: return decode_panel<2>(block, begin, end, out);
    case 3: return decode_panel<3>(block, begin, end, out);
    case 4: return decode_panel<4>(block, begin, end, out);
    case 5: return decode_panel<5>(block, begin, end, out);
    case 6: return decode_panel<6>(block, begin, end, out);
    case 7: return decode_panel<7>(block, begin, end, out);
    default: return decode_panel<8>(block, begin, end, out);
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

}  // namespace
