// What the machine can do at most, for benchmarks: bytes read and integer products. Per instruction set.

namespace {

struct ReadJob {
  const std::uint8_t* data;
  std::int64_t bytes;
  std::atomic<std::int64_t> total;
};

void read_team(const Team& team, void* data) {
  ReadJob& job = *static_cast<ReadJob*>(data);
  std::int64_t begin, end;
  team.share(job.bytes / 512, &begin, &end);
  Int sums[8];
  for (Int& sum : sums) sum = Simd::int_zero();
  const auto* at = reinterpret_cast<const std::int32_t*>(job.data + begin * 512);
  for (std::int64_t i = begin; i < end; ++i, at += 128) {
    for (int j = 0; j < 8; ++j) {
      Simd::prefetch(at + 16 * j + 1024);
      sums[j] = Simd::int_add(sums[j], Simd::int_load(at + 16 * j));
    }
  }
  std::int64_t total = 0;
  for (const Int& sum : sums) total += Simd::int_sum(sum);
  job.total += total;
}

// Reads `bytes` once; the sum is there so that nothing is left out.
std::int64_t run_read(const std::uint8_t* data, std::int64_t bytes, int threads) {
  ReadJob job{data, bytes, {0}};
  hf_quant::parallel(threads, read_team, &job);
  return job.total;
}

struct DotJob {
  std::int64_t rounds;
  std::atomic<std::int64_t> total;
};

constexpr int kDotSums = 16 * Simd::kTileVectors / 2;

void dot_team(const Team&, void* data) {
  DotJob& job = *static_cast<DotJob*>(data);
  alignas(64) std::uint8_t codes[64];
  alignas(64) Act inputs[64];
  std::memset(codes, 3, sizeof codes);
  std::memset(inputs, 1, sizeof inputs);
  const Simd::Weights w = Simd::weights<kExpanded>(Simd::bytes(codes));
  const Simd::Activations a = Simd::activations(inputs);
  Int sums[kDotSums];
  for (Int& sum : sums) sum = Simd::int_zero();
  for (std::int64_t i = 0; i < job.rounds; ++i) {
    for (Int& sum : sums) sum = Simd::dot(sum, w, a);
  }
  std::int64_t total = 0;
  for (const Int& sum : sums) total += Simd::int_sum(sum);
  job.total += total;
}

// Multiplies and adds in registers only; returns how many operations that were, over all threads.
std::int64_t run_dots(std::int64_t rounds, int threads) {
  DotJob job{rounds, {0}};
  hf_quant::parallel(threads, dot_team, &job);
  return rounds * kDotSums * 64 * 2 * threads + (job.total == 1 ? 1 : 0);
}

}  // namespace
