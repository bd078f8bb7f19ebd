// A program and its memory: what all threads share, and what each has to itself. Per instruction set.

namespace {

constexpr int kMostSteps = 8;
constexpr std::int64_t kAloneRows = 4;  // rows that each thread quantizes for itself rather than wait

// What differs from step to step but not from chunk to chunk.
struct Plan {
  const Step* step;
  bool integer;
  std::int64_t units;       // blocks of the first weight, or of all of them
  std::int64_t kept_stride; // of what is kept for the next step, 0: nothing is
};

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

}  // namespace
