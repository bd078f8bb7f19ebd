// Scaled dot-product attention in float32, in one pass over keys and values (online softmax, arXiv:2205.14135). Per
// instruction set.
//
// Queries lie along the lanes: scores of a key are a product of its row with a panel of 32 transposed queries, maxima and
// sums over keys are vertical, and outputs collect transposed. Neither keys nor values are ever rearranged.

namespace {

using hf_quant::Attention;

constexpr std::int64_t kQueries = kBlock;  // in one tile
constexpr std::int64_t kKeys = 96;         // in one block
constexpr std::int64_t kFewQueries = 8;    // up to this many per key-value head are worked on one by one
constexpr float kMasked = -1e30f;          // finite, so that differences of masked scores are no NaN

// One query of a tile: where it comes from and which keys it may see.
struct Slot {
  std::int64_t head, query, keys;
  bool sees;  // any key at all
};

struct AttentionWork {
  float* panel;    // [width][kQueries]: transposed, scaled queries
  float* scores;   // [kKeys][kQueries], or [keys] for single queries
  float* output;   // [width][kQueries]
  float* rows;     // [kKeys][width]: keys or values that are not floats where they lie
  float* query;    // [width]
};

inline std::int64_t visible_keys(const Attention& a, std::int64_t query) {
  if (!a.causal) return a.keys;
  return query + 1 < a.keys ? query + 1 : a.keys;
}

inline bool sees(const Attention& a, std::int64_t batch, const Slot& slot, std::int64_t key) {
  if (key >= slot.keys) return false;
  if (!a.mask) return true;
  return a.mask[batch * a.mask_stride[0] + slot.head * a.mask_stride[1] + slot.query * a.mask_stride[2] +
                key * a.mask_stride[3]] != 0;
}

// The number of leading keys after which the mask hides the rest, such as the free end of a cache.
inline std::int64_t unmasked_keys(const Attention& a, std::int64_t batch, const Slot& slot) {
  std::int64_t keys = slot.keys;
  if (a.mask) {
    while (keys > 0 && !sees(a, batch, slot, keys - 1)) --keys;
  }
  return keys;
}

// `count` rows of `width` numbers as floats: where they lie, or in `buffer`.
inline const float* float_rows(const void* data, std::int64_t at, std::int64_t stride, std::int64_t count,
                               std::int64_t width, std::int32_t dtype, float* buffer, std::int64_t* row_stride) {
  if (dtype == hf_quant::kFloat32) {
    *row_stride = stride;
    return static_cast<const float*>(data) + at;
  }
  *row_stride = width;
  for (std::int64_t r = 0; r < count; ++r) {
    for (std::int64_t d = 0; d < width; d += 16) Simd::store(buffer + r * width + d, load_as(data, at + r * stride + d, dtype));
  }
  return buffer;
}

// Rows that will be read soon.
inline void fetch_rows(const void* data, std::int64_t at, std::int64_t stride, std::int64_t count, std::int64_t width,
                       std::int32_t dtype) {
  const std::int64_t size = dtype == hf_quant::kFloat32 ? 4 : 2;
  const char* row = static_cast<const char*>(data) + at * size;
  for (std::int64_t r = 0; r < count; ++r, row += stride * size) {
    for (std::int64_t i = 0; i < width * size; i += 64) Simd::prefetch(row + i);
  }
}

// out[r][32] = sum_i rows[r][i] * panel[i][32] for R rows: scores of R keys.
template <int R>
void score_rows(const float* panel, std::int64_t width, const float* rows, std::int64_t stride, float* out) {
  constexpr int kV = Simd::kTileVectors;
  for (int first = 0; first < hf_quant::kVectors; first += kV) {
    Float result[R][kV];
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kV; ++v) result[r][v] = Simd::zero();
    }
    panel_tile<R, kV>(panel + kLanes * first, width, rows, stride, result);
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kV; ++v) Simd::store(out + r * kQueries + kLanes * (first + v), result[r][v]);
    }
  }
}

// out[d][32] = factor[32] * out[d][32] + sum_k weights[k][32] * values[k][d] for R neighbouring d.
template <int R>
void add_values(const float* weights, std::int64_t keys, const float* values, std::int64_t stride, const float* factor,
                float* out) {
  constexpr int kV = Simd::kTileVectors;
  for (int first = 0; first < hf_quant::kVectors; first += kV) {
    Float result[R][kV];
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kV; ++v) {
        const std::int64_t lane = kLanes * (first + v);
        result[r][v] = Simd::mul(Simd::load(out + r * kQueries + lane), Simd::load(factor + lane));
      }
    }
    for (std::int64_t k = 0; k < keys; ++k) {
      Float w[kV];
      for (int v = 0; v < kV; ++v) w[v] = Simd::load(weights + k * kQueries + kLanes * (first + v));
      for (int r = 0; r < R; ++r) {
        const Float x = Simd::set(values[k * stride + r]);
        for (int v = 0; v < kV; ++v) result[r][v] = Simd::fma(w[v], x, result[r][v]);
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kV; ++v) Simd::store(out + r * kQueries + kLanes * (first + v), result[r][v]);
    }
  }
}

constexpr int kAttentionRows = Simd::kFloatRows < 8 ? Simd::kFloatRows : 8;

void scores_of(const float* panel, std::int64_t width, const float* rows, std::int64_t stride, std::int64_t count,
               float* out) {
  std::int64_t r = 0;
  for (; r + kAttentionRows <= count; r += kAttentionRows) {
    score_rows<kAttentionRows>(panel, width, rows + r * stride, stride, out + r * kQueries);
  }
  for (; r < count; ++r) score_rows<1>(panel, width, rows + r * stride, stride, out + r * kQueries);
}

// Exponentials of a block of scores in place; maxima and sums so far are brought up to date, and `factor` is what
// everything summed before has to be multiplied with.
void soften(float* scores, std::int64_t keys, float* most, float* total, float* factor) {
  for (int lane = 0; lane < kQueries; lane += kLanes) {
    Float largest = Simd::load(most + lane);
    const Float before = largest;
    for (std::int64_t k = 0; k < keys; ++k) largest = Simd::max(Simd::load(scores + k * kQueries + lane), largest);
    const Float shrink = exponential(Simd::sub(before, largest));
    Float sum = Simd::mul(Simd::load(total + lane), shrink);
    for (std::int64_t k = 0; k < keys; ++k) {
      float* at = scores + k * kQueries + lane;
      const Float e = exponential(Simd::sub(Simd::load(at), largest));
      sum = Simd::add(sum, e);
      Simd::store(at, e);
    }
    Simd::store(most + lane, largest);
    Simd::store(total + lane, sum);
    Simd::store(factor + lane, shrink);
  }
}

// Up to 32 queries of one key-value head.
void attend_tile(const Attention& a, std::int64_t batch, std::int64_t kv_head, std::int64_t first, std::int64_t count,
                 const AttentionWork& work) {
  const std::int64_t shared = a.heads / a.kv_heads, width = a.width;
  fetch_rows(a.key, batch * a.key_stride[0] + kv_head * a.key_stride[1], a.key_stride[2], a.keys < kKeys ? a.keys : kKeys,
             width, a.dtype);
  Slot slots[kQueries];
  std::int64_t last_key = 0, first_limit = a.keys;
  alignas(64) float limits[kQueries], most[kQueries], total[kQueries], factor[kQueries];
  for (std::int64_t s = 0; s < kQueries; ++s) {
    const std::int64_t index = first + (s < count ? s : count - 1);
    Slot& slot = slots[s];
    slot.head = kv_head * shared + index / a.queries;
    slot.query = index % a.queries;
    slot.keys = visible_keys(a, slot.query);
    slot.sees = slot.keys > 0 && !a.mask;
    last_key = slot.keys > last_key ? slot.keys : last_key;
    first_limit = slot.keys < first_limit ? slot.keys : first_limit;
    limits[s] = static_cast<float>(slot.keys) - 0.5f;
    most[s] = kMasked;
    total[s] = 0.0f;
    const std::int64_t at = batch * a.query_stride[0] + slot.head * a.query_stride[1] + slot.query * a.query_stride[2];
    for (std::int64_t d = 0; d < width; d += 16) {
      alignas(64) float sixteen[16];
      Simd::store(sixteen, Simd::mul(load_as(a.query, at + d, a.dtype), Simd::set(a.scale)));
      for (int i = 0; i < 16; ++i) work.panel[(d + i) * kQueries + s] = sixteen[i];
    }
  }
  std::memset(work.output, 0, static_cast<std::size_t>(width * kQueries) * sizeof(float));
  for (std::int64_t key = 0; key < last_key; key += kKeys) {
    const std::int64_t keys = last_key - key < kKeys ? last_key - key : kKeys;
    std::int64_t stride;
    const std::int64_t key_at = batch * a.key_stride[0] + kv_head * a.key_stride[1] + key * a.key_stride[2];
    const std::int64_t value_at = batch * a.value_stride[0] + kv_head * a.value_stride[1] + key * a.value_stride[2];
    fetch_rows(a.value, value_at, a.value_stride[2], keys, width, a.dtype);
    const float* rows = float_rows(a.key, key_at, a.key_stride[2], keys, width, a.dtype, work.rows, &stride);
    scores_of(work.panel, width, rows, stride, keys, work.scores);
    if (a.mask) {
      for (std::int64_t k = 0; k < keys; ++k) {
        for (std::int64_t s = 0; s < kQueries; ++s) {
          if (sees(a, batch, slots[s], key + k)) {
            slots[s].sees = true;
          } else {
            work.scores[k * kQueries + s] = kMasked;
          }
        }
      }
    } else if (key + keys > first_limit) {
      for (std::int64_t k = 0; k < keys; ++k) {
        for (int lane = 0; lane < kQueries; lane += kLanes) {
          float* at = work.scores + k * kQueries + lane;
          const Float left = Simd::sub(Simd::load(limits + lane), Simd::set(static_cast<float>(key + k)));
          Simd::store(at, Simd::select_negative(left, Simd::set(kMasked), Simd::load(at)));
        }
      }
    }
    const std::int64_t later = last_key - key - keys;
    fetch_rows(a.key, key_at + keys * a.key_stride[2], a.key_stride[2], later < kKeys ? later : kKeys, width, a.dtype);
    soften(work.scores, keys, most, total, factor);
    const float* values = float_rows(a.value, value_at, a.value_stride[2], keys, width, a.dtype, work.rows, &stride);
    for (std::int64_t d = 0; d < width; d += kAttentionRows) {
      float* out = work.output + d * kQueries;
      if (d + kAttentionRows <= width) {
        add_values<kAttentionRows>(work.scores, keys, values + d, stride, factor, out);
      } else {
        for (std::int64_t e = d; e < width; ++e) {
          add_values<1>(work.scores, keys, values + e, stride, factor, work.output + e * kQueries);
        }
      }
    }
  }
  for (std::int64_t s = 0; s < count; ++s) {
    const Slot& slot = slots[s];
    // A query that sees no key at all has no answer: zeros, as torch gives. What it sees may be infinitely far away.
    const float share = most[s] > kMasked / 2 ? 1.0f / total[s] : slot.sees ? kNaN : 0.0f;
    const std::int64_t at = ((batch * a.queries + slot.query) * a.heads + slot.head) * width;
    for (std::int64_t d = 0; d < width; d += 16) {
      alignas(64) float sixteen[16];
      for (int i = 0; i < 16; ++i) sixteen[i] = work.output[(d + i) * kQueries + s] * share;
      store_as(a.output, at + d, a.dtype, Simd::load(sixteen));
    }
  }
}

// scores[k] = row k of keys times the query, sixteen rows at a time.
template <std::int32_t Dtype>
void dot_rows(const Attention& a, std::int64_t key_at, std::int64_t keys, const float* query, float* scores) {
  for (std::int64_t k = 0; k < keys; k += 16) {
    Float parts[16];
    for (int i = 0; i < 16; ++i) {
      parts[i] = Simd::zero();
      if (k + i >= keys) continue;
      const std::int64_t at = key_at + (k + i) * a.key_stride[2];
      for (std::int64_t d = 0; d < a.width; d += 16) {
        parts[i] = Simd::fma(load_as(a.key, at + d, Dtype), Simd::load(query + d), parts[i]);
      }
    }
    Simd::store(scores + k, Simd::sums(parts));
  }
}

// 64 (or fewer) numbers of the output: values weighted by `scores`.
template <std::int32_t Dtype, int Vectors>
void weigh_rows(const Attention& a, std::int64_t value_at, std::int64_t keys, const float* scores, Float share,
                std::int64_t out) {
  Float sum[Vectors];
  for (Float& s : sum) s = Simd::zero();
  for (std::int64_t k = 0; k < keys; ++k) {
    const Float weight = Simd::set(scores[k]);
    for (int v = 0; v < Vectors; ++v) {
      sum[v] = Simd::fma(load_as(a.value, value_at + k * a.value_stride[2] + 16 * v, Dtype), weight, sum[v]);
    }
  }
  for (int v = 0; v < Vectors; ++v) store_as(a.output, out + 16 * v, Dtype, Simd::mul(sum[v], share));
}

// One query: scores along the keys, then a weighted sum of values.
template <std::int32_t Dtype>
void attend_one(const Attention& a, std::int64_t batch, std::int64_t kv_head, std::int64_t index, const AttentionWork& work) {
  const std::int64_t shared = a.heads / a.kv_heads, width = a.width;
  const std::int64_t head = kv_head * shared + index / a.queries, query = index % a.queries;
  Slot slot{head, query, visible_keys(a, query), false};
  slot.sees = slot.keys > 0 && !a.mask;
  slot.keys = unmasked_keys(a, batch, slot);
  const std::int64_t query_at = batch * a.query_stride[0] + head * a.query_stride[1] + query * a.query_stride[2];
  for (std::int64_t d = 0; d < width; d += 16) {
    Simd::store(work.query + d, Simd::mul(load_as(a.query, query_at + d, Dtype), Simd::set(a.scale)));
  }
  dot_rows<Dtype>(a, batch * a.key_stride[0] + kv_head * a.key_stride[1], slot.keys, work.query, work.scores);
  if (a.mask) {
    for (std::int64_t k = 0; k < slot.keys; ++k) {
      if (sees(a, batch, slot, k)) {
        slot.sees = true;
      } else {
        work.scores[k] = kMasked;
      }
    }
  }
  const std::int64_t padded = hf_quant::round_up(slot.keys, 16);
  for (std::int64_t k = slot.keys; k < padded; ++k) work.scores[k] = kMasked;
  Float largest = Simd::set(kMasked), poison = Simd::zero();
  for (std::int64_t k = 0; k < padded; k += 16) {
    largest = Simd::max(Simd::load(work.scores + k), largest);
    poison = Simd::fma(Simd::load(work.scores + k), Simd::zero(), poison);
  }
  const float most = Simd::most(largest);
  Float total = Simd::zero();
  for (std::int64_t k = 0; k < padded; k += 16) {
    const Float e = exponential(Simd::sub(Simd::load(work.scores + k), Simd::set(most)));
    Simd::store(work.scores + k, e);
    total = Simd::add(total, e);
  }
  // NaN among the scores makes everything NaN; a query that sees no key at all has no answer: zeros, as torch gives.
  const float share = (most > kMasked / 2 ? 1.0f / Simd::sum(total) : slot.sees ? kNaN : 0.0f) + Simd::sum(poison);
  const std::int64_t value_at = batch * a.value_stride[0] + kv_head * a.value_stride[1];
  const std::int64_t out = ((batch * a.queries + query) * a.heads + head) * width;
  std::int64_t d = 0;
  for (; d + 64 <= width; d += 64) weigh_rows<Dtype, 4>(a, value_at + d, slot.keys, work.scores, Simd::set(share), out + d);
  for (; d < width; d += 16) weigh_rows<Dtype, 1>(a, value_at + d, slot.keys, work.scores, Simd::set(share), out + d);
}

void attend_one(const Attention& a, std::int64_t batch, std::int64_t kv_head, std::int64_t index, const AttentionWork& work) {
  switch (a.dtype) {
    case hf_quant::kFloat32: return attend_one<hf_quant::kFloat32>(a, batch, kv_head, index, work);
    case hf_quant::kBfloat16: return attend_one<hf_quant::kBfloat16>(a, batch, kv_head, index, work);
    default: return attend_one<hf_quant::kFloat16>(a, batch, kv_head, index, work);
  }
}

struct AttentionJob {
  const Attention* request;
  std::atomic<std::int64_t> next;
  std::atomic<int> status;
};

void attend_team(const Team& team, void* data) {
  AttentionJob& job = *static_cast<AttentionJob*>(data);
  const Attention& a = *job.request;
  const std::int64_t slots = a.heads / a.kv_heads * a.queries, panel = a.width * kQueries;
  const std::int64_t scores = a.keys + 16 > kKeys * kQueries ? a.keys + 16 : kKeys * kQueries;
  float* memory = static_cast<float*>(hf_quant::scratch((2 * panel + scores + kKeys * a.width + a.width) * 4));
  if (!memory) {
    job.status = 1;
    return;
  }
  AttentionWork work;
  work.panel = memory;
  work.output = work.panel + panel;
  work.scores = work.output + panel;
  work.rows = work.scores + hf_quant::round_up(scores, 16);
  work.query = work.rows + kKeys * a.width;
  // By the number of tokens, not of slots alone: a short text gets the very same numbers alone and padded among others.
  const std::int64_t size = a.queries == 1 && slots <= kFewQueries ? 1 : kQueries;
  const std::int64_t tiles = (slots + size - 1) / size, units = a.batch * a.kv_heads * tiles;
  std::int64_t begin, end;
  team.share(units, &begin, &end);
  // Causal tiles differ in length: from the longest on, whoever is free takes the next.
  for (std::int64_t turn = size == 1 ? begin : job.next.fetch_add(1); turn < (size == 1 ? end : units);
       turn = size == 1 ? turn + 1 : job.next.fetch_add(1)) {
    const std::int64_t unit = a.causal ? units - 1 - turn : turn;
    const std::int64_t pair = unit / tiles, first = unit % tiles * size;
    if (size == 1) {
      attend_one(a, pair / a.kv_heads, pair % a.kv_heads, first, work);
    } else {
      const std::int64_t count = slots - first < size ? slots - first : size;
      attend_tile(a, pair / a.kv_heads, pair % a.kv_heads, first, count, work);
    }
  }
}

int run_attend(const Attention& request, int threads) {
  AttentionJob job{&request, {0}, {0}};
  hf_quant::parallel(threads, attend_team, &job);
  return job.status;
}

}  // namespace
