// Ops on rows that are no product: looking up an embedding, normalising.

namespace {

using hf_quant::Embedding;

struct EmbedJob {
  const Embedding* request;
  std::atomic<int> status;  // 0, 1: no memory, 3: an index out of range
};

// Codes, scales and zero points of one row of a packed weight.
inline void read_packed(const Embedding& request, const hf_quant::Layout& layout, std::int64_t index, std::int8_t* codes) {
  const std::uint8_t* at = request.blocks + index / kBlock * layout.block_bytes + layout.codes_at +
                           index % kBlock / kLanes * 64 + index % kLanes * 4;
  const std::int32_t middle = 1 << (request.bits - 1);
  std::uint8_t chunk[kChunk];
  for (std::int64_t k = 0; k < layout.padded_width; k += kChunk, at += request.bits * kStride) {
    hf_quant::unpack_chunk(at, request.bits, chunk);
    for (int i = 0; i < kChunk && k + i < layout.width; ++i) codes[k + i] = static_cast<std::int8_t>(chunk[i] - middle);
  }
}

inline float scale_from(const void* scales, std::int64_t at, bool narrow) {
  if (!narrow) return static_cast<const float*>(scales)[at];
  const std::uint32_t bits = static_cast<std::uint32_t>(static_cast<const std::uint16_t*>(scales)[at]) << 16;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return scale;
}

inline void embed_row(const Embedding& request, std::int64_t index, std::int64_t at, float* buffer, std::int8_t* codes) {
  const hf_quant::Layout layout(request.rows, request.width, request.bits, request.group, request.flags);
  const std::int64_t width = request.width, groups = request.group ? width / request.group : 1;
  const std::int64_t group = request.group ? request.group : width;
  const std::int8_t* read = codes;
  if (request.blocks) {
    read_packed(request, layout, index, codes);
  } else if (request.bits == 8) {
    read = reinterpret_cast<const std::int8_t*>(request.words + index * request.words_per_row);
  } else {
    hf_quant::read_neutral(request.words + index * request.words_per_row, width, request.bits, codes);
  }
  for (std::int64_t g = 0; g < groups; ++g) {
    float scale, zero = 0.0f;
    if (request.blocks) {
      const std::uint8_t* block = request.blocks + index / kBlock * layout.block_bytes;
      const std::int64_t from = g * kBlock + index % kBlock;
      scale = scale_from(block, from, layout.narrow);
      if (request.flags & hf_quant::kHasZeros) {
        zero = static_cast<float>(block[layout.zeros_at + from]) - static_cast<float>(1 << (request.bits - 1));
      }
    } else {
      const std::int64_t from = request.per_tensor ? 0 : index * groups + g;
      scale = scale_from(request.scales, from, layout.narrow);
      if (request.zeros) zero = static_cast<float>(request.zeros[from]);
    }
    for (std::int64_t k = g * group; k < (g + 1) * group; ++k) buffer[k] = (static_cast<float>(read[k]) - zero) * scale;
  }
  if (request.rotation) rotate_row(buffer, width, request.rotation);
  const std::int64_t whole = width / 16 * 16, out = at * width;
  for (std::int64_t k = 0; k < whole; k += 16) store_as(request.output, out + k, request.output_dtype, Simd::load(buffer + k));
  if (whole < width) {
    store_some(request.output, out + whole, request.output_dtype, Simd::load(buffer + whole), static_cast<int>(width - whole));
  }
}

void embed_team(const Team& team, void* data) {
  EmbedJob& job = *static_cast<EmbedJob*>(data);
  const Embedding& request = *job.request;
  const std::int64_t padded = hf_quant::round_up(request.width, 64);
  std::uint8_t* memory = static_cast<std::uint8_t*>(hf_quant::scratch(padded * 5));
  if (!memory) {
    job.status = 1;
    return;
  }
  std::int64_t begin, end;
  team.share(request.count, &begin, &end);
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t index = request.index_bytes == 8 ? static_cast<const std::int64_t*>(request.indices)[i]
                                                        : static_cast<const std::int32_t*>(request.indices)[i];
    if (index < 0 || index >= request.rows) {
      job.status = 3;
      return;
    }
    embed_row(request, index, i, reinterpret_cast<float*>(memory), reinterpret_cast<std::int8_t*>(memory + padded * 4));
  }
}

int run_embed(const Embedding& request, int threads) {
  EmbedJob job{&request, {0}};
  hf_quant::parallel(threads, embed_team, &job);
  return job.status;
}

struct NormalizeJob {
  const hf_quant::Input* input;
  std::int64_t rows;
  void* output;
  std::int64_t stride;
  std::atomic<int> status;
};

void normalize_team(const Team& team, void* data) {
  NormalizeJob& job = *static_cast<NormalizeJob*>(data);
  const hf_quant::Input& in = *job.input;
  float* buffer = static_cast<float*>(hf_quant::scratch(hf_quant::round_up(in.width, 64) * 4));
  if (!buffer) {
    job.status = 1;
    return;
  }
  std::int64_t begin, end;
  team.share(job.rows, &begin, &end);
  const std::int64_t whole = in.width / 16 * 16;
  for (std::int64_t r = begin; r < end; ++r) {
    const float* x = load_row(in, in.data, r, buffer);
    const std::int64_t at = r * job.stride;
    for (std::int64_t k = 0; k < whole; k += 16) store_as(job.output, at + k, in.dtype, Simd::load(x + k));
    if (whole < in.width) {
      store_some(job.output, at + whole, in.dtype, Simd::load(x + whole), static_cast<int>(in.width - whole));
    }
  }
}

int run_normalize(const hf_quant::Input& input, std::int64_t rows, void* output, std::int64_t stride, int threads) {
  NormalizeJob job{&input, rows, output, stride, {0}};
  hf_quant::parallel(threads, normalize_team, &job);
  return job.status;
}

}  // namespace
