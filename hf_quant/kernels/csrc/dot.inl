// Tiles of a product: a few rows times the channels of one block, integer or float inside. Per instruction set.

namespace {

// One block of a packed weight.
struct Block {
  const void* scales;          // float32 [32] or [groups][32], or bfloat16 [groups][32] when narrow
  const std::uint8_t* zeros;   // [groups][32] or null
  const std::int32_t* sums;    // [groups][32] or null
  const std::uint8_t* codes;
  std::int64_t groups;
  std::int64_t group_chunks;
  std::int32_t middle;  // zero point where there are no `zeros`
  bool narrow;
};

// What has a scale: a channel, or each group of one, as bfloat16 or float32.
constexpr int kPerChannel = 0, kNarrow = 1, kWide = 2;

// Scales of 16 channels in a group.
HFQ_INLINE Float scales_at(const Block& block, std::int64_t at) {
  return block.narrow ? Simd::load_bf16(static_cast<const std::uint16_t*>(block.scales) + at)
                      : Simd::load(static_cast<const float*>(block.scales) + at);
}

// Codes as bytes: already expanded, of any width.
constexpr int kExpanded = 0;

constexpr int vectors_per_chunk(int bits) { return bits == kExpanded ? 8 : bits; }

constexpr std::int64_t kStride = 64 * hf_quant::kVectors;  // between vectors of one plane and half

// Codes of inputs 4 * Step .. 4 * Step + 3 of a chunk.
template <int Bits, int Step>
HFQ_INLINE Bytes codes_of(const std::uint8_t* chunk) {
  if constexpr (Bits == 8 || Bits == kExpanded) {
    return Simd::bytes(chunk + Step * kStride);
  } else if constexpr (Bits == 4) {
    return Simd::bits<4 * (Step % 2)>(Simd::bytes(chunk + Step / 2 * kStride), 15);
  } else if constexpr (Bits == 2) {
    return Simd::bits<2 * (Step % 4)>(Simd::bytes(chunk + Step / 4 * kStride), 3);
  } else if constexpr (Bits == 1) {
    return Simd::bits<Step>(Simd::bytes(chunk), 1);
  } else if constexpr (Bits > 4) {
    return Simd::above<4>(codes_of<4, Step>(chunk), codes_of<Bits - 4, Step>(chunk + 4 * kStride));
  } else {
    return Simd::above<2>(codes_of<2, Step>(chunk), codes_of<Bits - 2, Step>(chunk + 2 * kStride));
  }
}

template <int Step>
struct StepTag {
  static constexpr int value = Step;
};

template <class Work, int... Steps>
HFQ_INLINE void for_steps(Work&& work, std::integer_sequence<int, Steps...>) {
  (work(StepTag<Steps>{}), ...);
}

template <class Work>
HFQ_INLINE void for_each_step(Work&& work) {
  for_steps(work, std::make_integer_sequence<int, 8>{});
}

constexpr std::int64_t kAhead = 4096;  // bytes that codes are fetched ahead

// acc[r][v] += codes of inputs * codes of weights, over `chunks` chunks.
template <int Bits, int R, int V>
HFQ_INLINE void dot_chunks(const std::uint8_t* codes, std::int64_t chunks, const Act* rows, std::int64_t stride,
                           Int (&acc)[R][V]) {
  for (std::int64_t c = 0; c < chunks; ++c) {
    if constexpr (R <= Simd::kAheadRows) {
      for (int i = 0; i < vectors_per_chunk(Bits) * V; ++i) Simd::prefetch(codes + kAhead + 64 * i);
    }
    for_each_step([&](auto tag) HFQ_LAMBDA_INLINE {
      constexpr int kStep = decltype(tag)::value;
      Simd::Weights w[V];
      for (int v = 0; v < V; ++v) w[v] = Simd::weights<Bits>(codes_of<Bits, kStep>(codes + 64 * v));
      for (int r = 0; r < R; ++r) {
        const Simd::Activations a = Simd::activations(rows + r * stride + c * kChunk + 4 * kStep);
        for (int v = 0; v < V; ++v) acc[r][v] = Simd::dot(acc[r][v], w[v], a);
      }
    });
    codes += vectors_per_chunk(Bits) * kStride;
  }
}

// The real numbers that R rows times V vectors of channels make, into out[r][v].
template <int Bits, int R, int V, int Grouped>
HFQ_INLINE void integer_tile(const Block& block, int first, const Rows& rows, std::int64_t row, Float (&out)[R][V]) {
  const Act* codes = rows.codes + row * rows.stride;
  const std::int32_t* sums = rows.sums + row * rows.sums_per_row;
  const float* scales = rows.scales + row * rows.scales_per_row;
  const bool per_group = rows.scales_per_row > 1;
  const std::int32_t offset = Bits == 8 ? Simd::kCodeOffset : 0;
  const std::uint8_t* weights = block.codes + 64 * first;
  const std::int64_t chunk_bytes = vectors_per_chunk(Bits) * kStride;
  Float total[R][V];
  if constexpr (Grouped) {
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) total[r][v] = Simd::zero();
    }
  }
  for (std::int64_t g = 0; g < block.groups; ++g) {
    Int acc[R][V];
    for (int v = 0; v < V; ++v) {
      const std::int64_t at = g * kBlock + kLanes * (first + v);
      // sum (c - z) (x - zx) = sum c x - z sum x - zx sum (c - z)
      if (block.zeros) {
        const Int zero = Simd::int_sub(Simd::load_u8(block.zeros + at), Simd::int_set(offset));
        for (int r = 0; r < R; ++r) {
          acc[r][v] = Simd::int_mul(zero, Simd::int_set(-sums[r * rows.sums_per_row + g]));
        }
      } else {
        const std::int32_t zero = block.middle - offset;
        for (int r = 0; r < R; ++r) acc[r][v] = Simd::int_set(-zero * sums[r * rows.sums_per_row + g]);
      }
      if (block.sums) {
        const Int sum = Simd::int_load(block.sums + at);
        for (int r = 0; r < R; ++r) {
          acc[r][v] = Simd::int_sub(acc[r][v], Simd::int_mul(sum, Simd::int_set(rows.zeros[row + r])));
        }
      }
    }
    dot_chunks<Bits, R, V>(weights + g * block.group_chunks * chunk_bytes, block.group_chunks,
                           codes + g * block.group_chunks * kChunk, rows.stride, acc);
    for (int v = 0; v < V; ++v) {
      const std::int64_t at = g * kBlock + kLanes * (first + v);
      if constexpr (Grouped) {
        // Known beforehand: a branch here would cost as much as the product of a small group.
        const Float scale = Grouped == kWide ? Simd::load(static_cast<const float*>(block.scales) + at)
                                             : Simd::load_bf16(static_cast<const std::uint16_t*>(block.scales) + at);
        for (int r = 0; r < R; ++r) {
          const float s = scales[r * rows.scales_per_row + (per_group ? g : 0)];
          total[r][v] = Simd::fma(Simd::to_float(acc[r][v]), Simd::mul(scale, Simd::set(s)), total[r][v]);
        }
      } else {
        const Float scale = Simd::load(static_cast<const float*>(block.scales) + at);
        for (int r = 0; r < R; ++r) {
          const Float s = Simd::set(scales[r * rows.scales_per_row]);
          total[r][v] = Simd::mul(Simd::mul(Simd::to_float(acc[r][v]), scale), s);
        }
      }
    }
    if constexpr (!Grouped) break;
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) out[r][v] = total[r][v];
  }
}

// The same for rows that stay floats. Codes are centred before they become floats, which keeps sums small.
template <int Bits, int R, int V, int Grouped>
HFQ_INLINE void float_tile(const Block& block, int first, const Rows& rows, std::int64_t row, Float (&out)[R][V]) {
  const float* inputs = rows.floats + row * rows.stride;
  const float* sums = rows.float_sums + row * rows.sums_per_row;
  const std::uint8_t* weights = block.codes + 64 * first;
  Float total[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) total[r][v] = Simd::zero();
  }
  for (std::int64_t g = 0; g < block.groups; ++g) {
    Float acc[R][V];
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) acc[r][v] = Simd::zero();
    }
    for (std::int64_t c = 0; c < block.group_chunks; ++c) {
      for (int i = 0; i < vectors_per_chunk(Bits) * V; ++i) Simd::prefetch(weights + kAhead + 64 * i);
      for_each_step([&](auto tag) HFQ_LAMBDA_INLINE {
        constexpr int kStep = decltype(tag)::value;
        for (int v = 0; v < V; ++v) {
          const Bytes centred = Simd::centre<Bits>(codes_of<Bits, kStep>(weights + 64 * v));
          const Float w0 = Simd::channel_floats<0>(centred), w1 = Simd::channel_floats<1>(centred);
          const Float w2 = Simd::channel_floats<2>(centred), w3 = Simd::channel_floats<3>(centred);
          for (int r = 0; r < R; ++r) {
            const float* x = inputs + r * rows.stride + 4 * kStep;
            acc[r][v] = Simd::fma(w0, Simd::set(x[0]), acc[r][v]);
            acc[r][v] = Simd::fma(w1, Simd::set(x[1]), acc[r][v]);
            acc[r][v] = Simd::fma(w2, Simd::set(x[2]), acc[r][v]);
            acc[r][v] = Simd::fma(w3, Simd::set(x[3]), acc[r][v]);
          }
        }
      });
      weights += vectors_per_chunk(Bits) * kStride;
      inputs += kChunk;
    }
    for (int v = 0; v < V; ++v) {
      const std::int64_t at = g * kBlock + kLanes * (first + v);
      const Float scale = Grouped ? scales_at(block, at) : Simd::load(static_cast<const float*>(block.scales) + at);
      for (int r = 0; r < R; ++r) {
        Float sum = acc[r][v];
        if (block.zeros) {
          const Int zero = Simd::int_sub(Simd::load_u8(block.zeros + at), Simd::int_set(block.middle));
          const Float shift = Simd::mul(Simd::to_float(zero), Simd::set(sums[r * rows.sums_per_row + g]));
          sum = Simd::sub(sum, shift);
        }
        total[r][v] = Simd::fma(sum, scale, total[r][v]);
      }
    }
    if constexpr (!Grouped) break;
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) out[r][v] = total[r][v];
  }
}

// Adds R rows of floats times V vectors of channels of a decoded panel [inputs][kBlock] to out.
template <int R, int V>
HFQ_INLINE void panel_tile(const float* panel, std::int64_t inputs, const float* x, std::int64_t stride,
                           Float (&out)[R][V]) {
  for (std::int64_t k = 0; k < inputs; ++k) {
    Float w[V];
    for (int v = 0; v < V; ++v) w[v] = Simd::load(panel + k * kBlock + kLanes * v);
    for (int r = 0; r < R; ++r) {
      const Float a = Simd::set(x[r * stride + k]);
      for (int v = 0; v < V; ++v) out[r][v] = Simd::fma(w[v], a, out[r][v]);
    }
  }
}

// Codes of a block as bytes, in the order that `codes_of<kExpanded>` reads.
template <int Bits>
void expand_block(const Block& block, std::uint8_t* out) {
  const std::int64_t chunks = block.groups * block.group_chunks;
  const std::uint8_t* codes = block.codes;
  for (std::int64_t c = 0; c < chunks; ++c) {
    for (std::int64_t v = 0; v < hf_quant::kVectors; ++v) {
      for_each_step([&](auto tag) HFQ_LAMBDA_INLINE {
        constexpr int kStep = decltype(tag)::value;
        Simd::bytes_store(out + kStep * kStride + 64 * v, codes_of<Bits, kStep>(codes + 64 * v));
      });
    }
    codes += vectors_per_chunk(Bits) * kStride;
    out += 8 * kStride;
  }
}

// Inputs [begin, end) (whole chunks) of a block as real numbers, [inputs][kBlock].
template <int Bits>
void decode_panel(const Block& block, std::int64_t begin, std::int64_t end, float* out) {
  for (std::int64_t c = begin / kChunk; c < end / kChunk; ++c) {
    const std::uint8_t* codes = block.codes + c * vectors_per_chunk(Bits) * kStride;
    const std::int64_t g = c / block.group_chunks;
    for (std::int64_t v = 0; v < hf_quant::kVectors; ++v) {
      const std::int64_t at = g * kBlock + kLanes * v;
      const Float scale = scales_at(block, at);
      Float zero = Simd::zero();
      if (block.zeros) {
        zero = Simd::to_float(Simd::int_sub(Simd::load_u8(block.zeros + at), Simd::int_set(block.middle)));
      }
      for_each_step([&](auto tag) HFQ_LAMBDA_INLINE {
        constexpr int kStep = decltype(tag)::value;
        const Bytes centred = Simd::centre<Bits>(codes_of<Bits, kStep>(codes + 64 * v));
        float* to = out + 4 * kStep * kBlock + kLanes * v;
        Simd::store(to, Simd::mul(Simd::sub(Simd::channel_floats<0>(centred), zero), scale));
        Simd::store(to + kBlock, Simd::mul(Simd::sub(Simd::channel_floats<1>(centred), zero), scale));
        Simd::store(to + 2 * kBlock, Simd::mul(Simd::sub(Simd::channel_floats<2>(centred), zero), scale));
        Simd::store(to + 3 * kBlock, Simd::mul(Simd::sub(Simd::channel_floats<3>(centred), zero), scale));
      });
    }
    out += kChunk * kBlock;
  }
}

}  // namespace
