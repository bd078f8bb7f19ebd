// Programs: steps of quantize, multiply, finish, shared by the threads of one parallel region. Per instruction set.

namespace {

using hf_quant::Team;

constexpr std::int64_t kRowsAtOnce = 516;       // rows of inputs that are quantized before weights are read
constexpr std::int64_t kChainedRows = 264;      // the same where rows go from one step to the next, through the cache
constexpr std::int64_t kFewRows = 12;           // rows up to which each thread reads one stretch of the weights
constexpr std::int64_t kOwnQuantize = 1 << 15;  // numbers up to which each thread quantizes kAloneRows rows for itself

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
