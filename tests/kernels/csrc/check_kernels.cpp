// Compares every kernel of every instruction set that runs here with plain loops in double precision. A program of its
// own, so that it also runs under sanitizers and under emulation of another processor. Prints one line per instruction
// set; exits with 1 on the first difference.
//
//   check_kernels [rounds]

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "abi.h"
#include "bands.h"
#include "neutral.h"
#include "pack.h"

using namespace hf_quant;

namespace {

std::uint64_t seed = 1;
std::uint32_t draw() {
  seed = seed * 6364136223846793005ull + 1442695040888963407ull;
  return static_cast<std::uint32_t>(seed >> 33);
}
int between(int low, int high) { return low + static_cast<int>(draw() % static_cast<unsigned>(high - low + 1)); }
float uniform(float low, float high) { return low + (high - low) * static_cast<float>(draw() % 65536) / 65535.0f; }

float from_bf16(std::uint16_t v) {
  const std::uint32_t bits = static_cast<std::uint32_t>(v) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
std::uint16_t to_bf16(float f) {  // truncated
  std::uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return static_cast<std::uint16_t>(bits >> 16);
}

const char* where = "";
void fail(const char* what, double found, double wanted) {
  std::printf("FAILED %s: %s: %.9g, not %.9g\n", where, what, found, wanted);
  std::exit(1);
}
void near(const char* what, double found, double wanted, double scale, double tolerance = 2e-6) {
  if (!(std::fabs(found - wanted) <= tolerance * scale)) fail(what, found, wanted);
}

struct Aligned {
  std::vector<std::uint8_t> memory;
  explicit Aligned(std::int64_t bytes) : memory(static_cast<std::size_t>(bytes + 64)) {}
  std::uint8_t* get() {
    return memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64;
  }
};

// A random weight: neutral, packed and as real numbers.
struct TestWeight {
  int channels, width, bits, group, flags, words_per_row, groups;
  std::vector<std::uint32_t> words;
  std::vector<float> scales;
  std::vector<std::uint16_t> half_scales;
  std::vector<std::int8_t> zeros;
  std::vector<double> real;
  std::vector<float> bias;
  Aligned blocks{0};

  TestWeight(int channels_, int width_, int bits_, int group_, bool asymmetric, bool sums)
      : channels(channels_), width(width_), bits(bits_), group(group_) {
    flags = (asymmetric ? kHasZeros : 0) | (sums ? kHasSums : 0);
    groups = group ? width / group : 1;
    words_per_row = (width * bits + 31) / 32;
    words.resize(static_cast<std::size_t>(channels * words_per_row));
    real.resize(static_cast<std::size_t>(channels * width));
    const int low = -(1 << (bits - 1)), high = -low - 1;
    std::vector<std::int8_t> codes(static_cast<std::size_t>(width));
    for (int n = 0; n < channels; ++n) {
      for (auto& code : codes) code = static_cast<std::int8_t>(between(low, high));
      write_neutral(codes.data(), width, bits, words.data() + n * words_per_row);
      for (int g = 0; g < groups; ++g) {
        scales.push_back(from_bf16(to_bf16(uniform(0.001f, 0.01f))));
        half_scales.push_back(to_bf16(scales.back()));
        zeros.push_back(static_cast<std::int8_t>(asymmetric ? between(low, high) : 0));
      }
      for (int k = 0; k < width; ++k) {
        const int at = n * groups + (group ? k / group : 0);
        real[static_cast<std::size_t>(n * width + k)] = static_cast<double>(scales[at]) * (codes[k] - zeros[at]);
      }
      bias.push_back(uniform(-1.0f, 1.0f));
    }
    Neutral neutral{words.data(), group ? static_cast<const void*>(half_scales.data()) : scales.data(),
                    asymmetric ? zeros.data() : nullptr, channels, words_per_row, width, bits, group, flags, 0, 0};
    blocks = Aligned(hf_quant_packed_bytes(&neutral));
    hf_quant_pack(&neutral, blocks.get(), between(1, 2));
    std::vector<std::uint32_t> back(words.size(), 0xffffffffu);
    hf_quant_unpack(&neutral, blocks.get(), back.data(), between(1, 2));
    if (back != words) fail("unpacked words", 0, 1);
  }

  Weight descriptor(void* output, std::int64_t stride, bool with_bias) {
    return {blocks.get(), with_bias ? bias.data() : nullptr, output, stride, channels, bits, group, flags, kFloat32, 0};
  }
};

// One row as kernels quantize it: what the codes stand for.
std::vector<double> quantized(const std::vector<float>& x, int mode, int group, float scale, int zero) {
  const int width = static_cast<int>(x.size());
  std::vector<double> out(x.size());
  const int step = mode == kGroupSymmetric ? group : width;
  for (int begin = 0; begin < width; begin += step) {
    float low = 0.0f, high = 0.0f;
    for (int k = begin; k < begin + step; ++k) {
      low = std::fmin(low, x[k]);
      high = std::fmax(high, x[k]);
    }
    int z = 0, least = -127;
    float s = std::fmax(std::fmax(high, -low) / 127.0f, 1.17549435e-38f);
    if (mode == kTokenAsymmetric) {
      s = std::fmax(high / 255.0f - low / 255.0f, 1.17549435e-38f);
      z = static_cast<int>(std::fmin(std::fmax(std::nearbyint(-128.0f - low / s), -128.0f), 127.0f));
      least = -128;
    } else if (mode == kStatic) {
      s = scale;
      z = zero;
      least = -128;
    }
    const float inverse = 1.0f / s;
    for (int k = begin; k < begin + step; ++k) {
      const float code = std::fmin(std::fmax(std::nearbyint(x[k] * inverse) + static_cast<float>(z), static_cast<float>(least)), 127.0f);
      out[k] = mode == kFloatInput ? x[k] : (static_cast<double>(code) - z) * s;
    }
  }
  return out;
}

double activation(double x, int kind) {
  switch (kind) {
    case kGeluErf: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case kGeluTanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case kSilu: return x / (1 + std::exp(-x));
    case kRelu: return x > 0 ? x : 0;
    default: return x;
  }
}

// Rows of `x` through `weight`, with the sum of magnitudes that rounding errors are to be compared with.
void product(const std::vector<std::vector<double>>& x, const TestWeight& weight, bool bias, int kind,
             std::vector<std::vector<double>>* out, std::vector<std::vector<double>>* scale) {
  out->assign(x.size(), std::vector<double>(static_cast<std::size_t>(weight.channels)));
  *scale = *out;
  for (std::size_t r = 0; r < x.size(); ++r) {
    for (int n = 0; n < weight.channels; ++n) {
      double sum = 0, size = 1e-3;
      for (int k = 0; k < weight.width; ++k) {
        const double term = x[r][k] * weight.real[static_cast<std::size_t>(n * weight.width + k)];
        sum += term;
        size += std::fabs(term);
      }
      sum += bias ? weight.bias[n] : 0;
      (*out)[r][n] = activation(sum, kind);
      (*scale)[r][n] = size + std::fabs(sum);
    }
  }
}

void check_linear() {
  static const int kGroups[] = {0, 32, 64, 128};
  const int bits = between(2, 8), group = kGroups[between(0, 3)];
  const int width = group ? group * between(1, 3) : between(1, 300);
  const int rows = between(0, 3) ? between(1, 14) : between(15, 60), threads = between(1, 3);
  int mode = between(0, 4);
  if (mode == kGroupSymmetric && !group) mode = kTokenSymmetric;
  const bool gated = between(0, 3) == 0, chained = group == 0 && between(0, 3) == 0, with_bias = between(0, 1);
  const int kind = between(0, 4), channels = between(1, 80), count = gated ? 2 : between(1, 3);
  const bool asymmetric = between(0, 1), sums = mode == kTokenAsymmetric || mode == kStatic;
  const float static_scale = 0.05f;
  const int static_zero = between(-128, 127);
  std::vector<TestWeight> weights;
  for (int w = 0; w < count; ++w) weights.emplace_back(gated ? channels : between(1, 80), width, bits, group, asymmetric, sums);

  const int stride = width + between(0, 3);
  std::vector<float> input(static_cast<std::size_t>(rows * stride));
  for (auto& v : input) v = uniform(-4.0f, 4.0f);
  std::vector<std::vector<double>> x;
  for (int r = 0; r < rows; ++r) {
    const std::vector<float> row(input.begin() + r * stride, input.begin() + r * stride + width);
    x.push_back(quantized(row, mode, group, static_scale, static_zero));
  }

  Step steps[2] = {};
  Step& step = steps[0];
  step.input.data = input.data();
  step.input.stride = stride;
  step.input.width = width;
  step.input.mode = mode;
  step.input.group = group;
  step.input.static_scale = static_scale;
  step.input.static_zero = static_zero;
  step.input.static_lowest = -128;
  step.rows = rows;
  step.activation = kind;
  step.gated = gated;
  step.weight_count = count;

  std::vector<std::vector<float>> outputs;
  for (int w = 0; w < count; ++w) outputs.emplace_back(static_cast<std::size_t>(rows * (weights[w].channels + 1)), 7.0f);
  std::vector<float> residual(static_cast<std::size_t>(rows * 80));
  for (auto& v : residual) v = uniform(-1.0f, 1.0f);
  const bool has_residual = !gated && count == 1 && between(0, 1);
  const bool normed = !gated && count == 1 && between(0, 2) == 0;
  for (int w = 0; w < count; ++w) {
    step.weights[w] = weights[w].descriptor(outputs[w].data(), weights[w].channels + 1, with_bias);
  }
  if (has_residual) {
    step.residual = residual.data();
    step.residual_stride = 80;
  }

  std::vector<std::vector<double>> wanted, scale, up, up_scale;
  product(x, weights[0], with_bias, kind, &wanted, &scale);
  if (gated) {
    product(x, weights[1], with_bias, kNoActivation, &up, &up_scale);
    for (int r = 0; r < rows; ++r) {
      for (int n = 0; n < channels; ++n) {
        scale[r][n] = scale[r][n] * std::fabs(up[r][n]) + up_scale[r][n] * std::fabs(wanted[r][n]) + 1e-3;
        wanted[r][n] *= up[r][n];
      }
    }
  }

  if (chained && (gated || count == 1) && !has_residual) {
    TestWeight second(between(1, 80), weights[0].channels, between(2, 8), 0, false, sums);
    std::vector<float> last(static_cast<std::size_t>(rows * second.channels));
    step.weights[0].output = nullptr;
    steps[1].input.width = weights[0].channels;
    steps[1].input.mode = mode;
    steps[1].input.static_scale = static_scale;
    steps[1].input.static_zero = static_zero;
    steps[1].input.static_lowest = -128;
    steps[1].rows = rows;
    steps[1].weight_count = 1;
    steps[1].weights[0] = second.descriptor(last.data(), second.channels, true);
    if (hf_quant_run(steps, 2, threads) != 0) fail("status", 1, 0);
    std::vector<std::vector<double>> middle, final_wanted, final_scale;
    for (auto& row : wanted) {
      middle.push_back(quantized(std::vector<float>(row.begin(), row.end()), mode, 0, static_scale, static_zero));
    }
    product(middle, second, true, kNoActivation, &final_wanted, &final_scale);
    for (int r = 0; r < rows; ++r) {
      // A number between two codes may be rounded to either, so whole steps are allowed for.
      for (int n = 0; n < second.channels; ++n) {
        near("chained", last[static_cast<std::size_t>(r * second.channels + n)], final_wanted[r][n], final_scale[r][n] + 1, 2e-2);
      }
    }
    return;
  }

  if (normed) {
    step.post_norm = kLayerNorm;
    step.post_weight = weights[0].bias.data();
    step.post_epsilon = 1e-3f;
    for (int r = 0; r < rows; ++r) {
      double mean = 0, variance = 0, largest = 0;
      const int n_count = weights[0].channels;
      for (int n = 0; n < n_count; ++n) {
        wanted[r][n] += has_residual ? residual[static_cast<std::size_t>(r * 80 + n)] : 0;
        mean += wanted[r][n] / n_count;
        largest = std::fmax(largest, scale[r][n]);
      }
      for (int n = 0; n < n_count; ++n) variance += (wanted[r][n] - mean) * (wanted[r][n] - mean) / n_count;
      for (int n = 0; n < n_count; ++n) {
        wanted[r][n] = (wanted[r][n] - mean) / std::sqrt(variance + 1e-3) * weights[0].bias[n];
        scale[r][n] = 20 * largest / std::sqrt(variance + 1e-3) + 1;
      }
    }
  }
  if (hf_quant_run(steps, 1, threads) != 0) fail("status", 1, 0);
  for (int w = 0; w < (gated ? 1 : count); ++w) {
    if (w > 0) product(x, weights[w], with_bias, kind, &wanted, &scale);
    const int n_count = weights[w].channels;
    for (int r = 0; r < rows; ++r) {
      for (int n = 0; n < n_count; ++n) {
        const double add = has_residual && !normed ? residual[static_cast<std::size_t>(r * 80 + n)] : 0;
        near("linear", outputs[w][static_cast<std::size_t>(r * (n_count + 1) + n)], wanted[r][n] + add, scale[r][n]);
      }
      if (outputs[w][static_cast<std::size_t>(r * (n_count + 1) + n_count)] != 7.0f) fail("written past the end", 0, 7);
    }
  }

  // A row with NaN or infinity is NaN, and no other row changes.
  if (mode == kFloatInput || gated || normed) return;
  const int poisoned = between(0, rows - 1);
  input[static_cast<std::size_t>(poisoned * stride + between(0, width - 1))] =
      between(0, 1) ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  const std::vector<std::vector<float>> before = outputs;
  if (hf_quant_run(steps, 1, between(1, 3)) != 0) fail("status", 1, 0);
  for (int w = 0; w < count; ++w) {
    for (std::size_t i = 0; i < outputs[w].size(); ++i) {
      const int r = static_cast<int>(i) / (weights[w].channels + 1), n = static_cast<int>(i) % (weights[w].channels + 1);
      const bool is_nan = r == poisoned && n < weights[w].channels;
      if (is_nan ? outputs[w][i] == outputs[w][i] : outputs[w][i] != before[w][i]) {
        fail("poisoned row", outputs[w][i], before[w][i]);
      }
    }
  }
}

void check_quantize() {
  static const int kGroups[] = {0, 8, 32, 40};
  const int bits = between(2, 8), group = kGroups[between(0, 3)], rows = between(1, 40);
  const int width = group ? group * between(1, 4) : between(1, 200);
  const bool asymmetric = between(0, 1), search = between(0, 2) == 0;
  std::vector<float> real(static_cast<std::size_t>(rows * width));
  for (auto& v : real) v = uniform(-1.0f, 1.0f) * uniform(-1.0f, 1.0f);
  if (between(0, 3) == 0) std::fill(real.begin(), real.begin() + width, between(0, 1) ? 0.0f : 0.5f);
  const int groups = group ? width / group : 1, words_per_row = (width * bits + 31) / 32;
  std::vector<std::uint32_t> words(static_cast<std::size_t>(rows * words_per_row), 0xffffffffu);
  std::vector<float> scales(static_cast<std::size_t>(rows * groups));
  std::vector<std::uint16_t> half_scales(scales.size());
  std::vector<std::int8_t> zeros(scales.size());
  Quantize request = {};
  request.data = real.data();
  request.words = words.data();
  request.scales = group ? static_cast<void*>(half_scales.data()) : scales.data();
  request.zeros = asymmetric ? zeros.data() : nullptr;
  request.rows = rows;
  request.stride = width;
  request.words_per_row = words_per_row;
  request.width = width;
  request.bits = bits;
  request.group = group;
  request.steps = search ? 20 : 0;
  request.narrowest = 0.5f;
  if (hf_quant_quantize(&request, between(1, 3)) != 0) fail("status", 1, 0);
  std::vector<std::int8_t> codes(static_cast<std::size_t>(width));
  double errors = 0, bound = 0;
  for (int r = 0; r < rows; ++r) {
    read_neutral(words.data() + r * words_per_row, width, bits, codes.data());
    for (int k = 0; k < width; ++k) {
      const int at = r * groups + (group ? k / group : 0);
      const double scale = group ? from_bf16(half_scales[at]) : scales[at];
      const double back = (codes[k] - zeros[at]) * scale, x = real[static_cast<std::size_t>(r * width + k)];
      errors += (back - x) * (back - x);
      bound += scale * scale;
      // Below 8 bits the highest symmetric code may lie a step short of a number as large as the extreme, scales are
      // negative where the extreme is positive, and one that was rounded to bfloat16 may end a little short of it.
      if (!search) near("rounded weight", back, x, std::fabs(scale), group ? 1.6 : 1.01);
    }
  }
  if (search && errors > bound) fail("clipped weights", errors, bound);
  real[static_cast<std::size_t>(between(0, rows * width - 1))] = std::numeric_limits<float>::infinity();
  if (hf_quant_quantize(&request, 2) != 2) fail("infinite weight", 0, 2);
}

void check_rows() {
  const int bits = between(2, 8), width = 16 * between(1, 8), rows = between(1, 30), count = between(1, 20);
  TestWeight table(rows, width, bits, 0, between(0, 1), false);
  std::vector<std::int64_t> indices;
  for (int i = 0; i < count; ++i) indices.push_back(between(0, rows - 1));
  std::vector<float> out(static_cast<std::size_t>(count * width));
  Embedding request = {};
  request.indices = indices.data();
  if (between(0, 1)) {
    request.blocks = table.blocks.get();
    request.flags = table.flags;
  } else {
    request.words = table.words.data();
    request.scales = table.scales.data();
    request.zeros = table.zeros.data();
    request.words_per_row = table.words_per_row;
  }
  request.output = out.data();
  request.count = count;
  request.rows = rows;
  request.index_bytes = 8;
  request.width = width;
  request.bits = bits;
  if (hf_quant_embed(&request, between(1, 3)) != 0) fail("status", 1, 0);
  for (int i = 0; i < count; ++i) {
    for (int k = 0; k < width; ++k) {
      const double wanted = table.real[static_cast<std::size_t>(indices[i] * width + k)];
      near("embedding", out[static_cast<std::size_t>(i * width + k)], wanted, std::fabs(wanted) + 1e-6);
    }
  }
  indices[0] = between(0, 1) ? rows : -1;
  if (hf_quant_embed(&request, 1) != 3) fail("index out of range", 0, 3);

  const int n = between(1, 100);
  std::vector<float> x(static_cast<std::size_t>(n)), weight(x.size()), bias(x.size()), y(x.size());
  double mean = 0, variance = 0;
  const float offset = between(0, 1) ? 0.0f : 300.0f;
  for (int k = 0; k < n; ++k) {
    x[k] = uniform(-2.0f, 3.0f) + offset;
    weight[k] = uniform(0.5f, 1.5f);
    bias[k] = uniform(-1.0f, 1.0f);
    mean += x[k] / static_cast<double>(n);
  }
  Input input = {};
  input.data = x.data();
  input.norm_weight = weight.data();
  input.stride = n;
  input.width = n;
  input.norm = between(1, 2);
  input.epsilon = 1e-5f;
  if (input.norm == kRmsNorm) mean = 0;
  if (input.norm == kLayerNorm) input.norm_bias = bias.data();
  for (int k = 0; k < n; ++k) variance += (x[k] - mean) * (x[k] - mean) / n;
  if (hf_quant_normalize(&input, 1, y.data(), n, 1) != 0) fail("status", 1, 0);
  for (int k = 0; k < n; ++k) {
    const double wanted = (x[k] - mean) / std::sqrt(variance + 1e-5) * weight[k] + (input.norm_bias ? bias[k] : 0.0f);
    // A number's own last digit, spread as the norm spreads it.
    near("norm", y[k], wanted, 10.0 + static_cast<double>(offset) / std::sqrt(variance + 1e-5));
  }
}

void check_attention() {
  const int batch = between(1, 2), kv_heads = between(1, 3), shared = between(1, 3), heads = kv_heads * shared;
  const int queries = between(0, 1) ? between(1, 4) : between(5, 70), keys = between(1, 200), width = 16 * between(1, 5);
  const bool causal = between(0, 1) && queries <= keys, masked = !causal && between(0, 1);
  const auto fill = [](std::vector<float>& v) {
    for (auto& x : v) x = uniform(-2.0f, 2.0f);
  };
  // Rows of all heads lie side by side, as projections leave them.
  std::vector<float> q(static_cast<std::size_t>(batch * queries * heads * width)), out(q.size() + 1, 7.0f);
  std::vector<float> k(static_cast<std::size_t>(batch * keys * kv_heads * width)), v(k.size());
  fill(q);
  fill(k);
  fill(v);
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(batch * queries * keys));
  for (auto& m : mask) m = between(0, 2) > 0;
  Attention a = {};
  a.query = q.data();
  a.key = k.data();
  a.value = v.data();
  a.mask = masked ? mask.data() : nullptr;
  a.output = out.data();
  const std::int64_t row = heads * width, kv_row = kv_heads * width;
  const std::int64_t query_stride[] = {queries * row, width, row}, kv_stride[] = {keys * kv_row, width, kv_row};
  std::memcpy(a.query_stride, query_stride, sizeof query_stride);
  std::memcpy(a.key_stride, kv_stride, sizeof kv_stride);
  std::memcpy(a.value_stride, kv_stride, sizeof kv_stride);
  a.mask_stride[0] = queries * keys;
  a.mask_stride[2] = keys;
  a.mask_stride[3] = 1;
  a.batch = batch;
  a.heads = heads;
  a.kv_heads = kv_heads;
  a.queries = queries;
  a.keys = keys;
  a.width = width;
  a.scale = 0.3f;
  a.causal = causal;
  if (hf_quant_attend(&a, between(1, 3)) != 0) fail("status", 1, 0);
  if (out.back() != 7.0f) fail("written past the end", out.back(), 7);
  std::vector<double> score(static_cast<std::size_t>(keys));
  for (int b = 0; b < batch; ++b) {
    for (int h = 0; h < heads; ++h) {
      for (int i = 0; i < queries; ++i) {
        double most = -1e300, total = 0;
        for (int j = 0; j < keys; ++j) {
          score[j] = 0;
          for (int d = 0; d < width; ++d) {
            score[j] += static_cast<double>(q[((b * queries + i) * heads + h) * width + d]) *
                        k[((b * keys + j) * kv_heads + h / shared) * width + d];
          }
          score[j] *= 0.3f;
          if ((causal && j > i) || (masked && !mask[(b * queries + i) * keys + j])) score[j] = -1e300;
          most = std::fmax(most, score[j]);
        }
        for (int j = 0; j < keys; ++j) total += score[j] = most > -1e300 ? std::exp(score[j] - most) : 0;
        for (int d = 0; d < width; ++d) {
          double wanted = 0;
          for (int j = 0; j < keys; ++j) {
            wanted += total > 0 ? score[j] / total * v[((b * keys + j) * kv_heads + h / shared) * width + d] : 0;
          }
          near("attention", out[((b * queries + i) * heads + h) * width + d], wanted, 2.0, 5e-6);
        }
      }
    }
  }
}

void check_convolution() {
  Convolution c;
  std::memset(&c, 0, sizeof c);
  const int batch = between(1, 3), mode = between(kFloatInput, kStatic), zero = mode == kStatic ? between(-9, 9) : 0;
  const int axis = between(0, 1), group = mode == kGroupSymmetric ? 32 : 0;
  c.groups = between(1, 3);
  c.width = group ? 32 * between(1, 2) : between(1, 40);
  c.batch = batch;
  c.channels_last = between(0, 1);
  std::int64_t taps = 1, pixels = 1, pixels_in = 1;
  for (int i = 0; i < 3; ++i) {
    const bool used = i >= axis;
    c.kernel[i] = used ? between(1, 3) : 1;
    c.stride[i] = used ? between(1, 3) : 1;
    c.dilation[i] = used ? between(1, 2) : 1;
    c.before[i] = used ? between(0, 3) : 0;
    c.in[i] = used ? between(5, i == axis ? 40 : 9) : 1;
    c.padded[i] = c.in[i] + c.before[i] + (used ? between(0, 3) : 0);
    c.out[i] = (c.padded[i] - c.dilation[i] * (c.kernel[i] - 1) - 1) / c.stride[i] + 1;
    taps *= c.kernel[i];
    pixels *= c.out[i];
    pixels_in *= c.in[i];
  }
  const int width = static_cast<int>(taps * c.width), channels = between(1, 40);
  TestWeight weight(channels, width, between(2, 8), group, between(0, 1) == 1, mode == kTokenAsymmetric || mode == kStatic);
  const std::int64_t all = c.groups * channels, every = c.groups * c.width;
  std::vector<float> input(static_cast<std::size_t>(batch * every * pixels_in)), factor, shift, bias;
  for (auto& x : input) x = uniform(-2.0f, 2.0f);
  for (int n = 0; n < all; ++n) {
    factor.push_back(uniform(-2.0f, 2.0f));
    shift.push_back(uniform(-1.0f, 1.0f));
    bias.push_back(weight.bias[n % channels]);
  }
  std::vector<float> out(static_cast<std::size_t>(batch * all * pixels) + 1, 7.0f);
  c.step.input.mode = mode;
  c.step.input.group = group;
  c.step.input.width = width;
  c.step.input.static_scale = 0.02f;
  c.step.input.static_zero = zero;
  c.step.input.static_lowest = -128;
  c.step.weight_count = 1;
  c.step.weights[0] = weight.descriptor(nullptr, 0, true);
  c.step.weights[0].bias = bias.data();
  c.weight_bytes = 0;  // all groups have the same
  const bool folded = between(0, 1) == 1;
  c.factor = folded ? factor.data() : nullptr;
  c.shift = folded ? shift.data() : nullptr;
  c.activation = between(kNoActivation, kRelu);
  c.input = input.data();
  c.output = out.data();
  set_bands(&c);
  if (hf_quant_convolve(&c, between(1, 3)) != 0) fail("status", 1, 0);
  if (out.back() != 7.0f) fail("written past the end", out.back(), 7);
  for (std::int64_t row = 0; row < batch * pixels; ++row) {
    const std::int64_t pixel = row % pixels, b = row / pixels;
    const std::int64_t at[3] = {pixel / c.out[2] / c.out[1], pixel / c.out[2] % c.out[1], pixel % c.out[2]};
    for (std::int64_t g = 0; g < c.groups; ++g) {
      std::vector<float> patch;
      for (std::int64_t k = 0; k < taps; ++k) {
        const std::int64_t of[3] = {k / c.kernel[2] / c.kernel[1], k / c.kernel[2] % c.kernel[1], k % c.kernel[2]};
        std::int64_t from = 0;
        bool inside = true;
        for (int i = 0; i < 3; ++i) {
          const std::int64_t place = at[i] * c.stride[i] + of[i] * c.dilation[i] - c.before[i];
          inside = inside && place >= 0 && place < c.in[i];
          from = from * c.in[i] + place;
        }
        for (std::int64_t n = g * c.width; n < (g + 1) * c.width; ++n) {
          patch.push_back(!inside ? 0.0f : input[c.channels_last ? (b * pixels_in + from) * every + n : (b * every + n) * pixels_in + from]);
        }
      }
      std::vector<std::vector<double>> wanted, scale;
      product({quantized(patch, mode, group, 0.02f, zero)}, weight, true, kNoActivation, &wanted, &scale);
      for (std::int64_t n = 0; n < channels; ++n) {
        const std::int64_t all_n = g * channels + n;
        const double plain = wanted[0][n], by = folded ? factor[all_n] : 1.0, shifted = plain * by + (folded ? shift[all_n] : 0.0);
        const float found = out[c.channels_last ? (b * pixels + pixel) * all + all_n : (b * all + all_n) * pixels + pixel];
        near("convolution", found, activation(shifted, c.activation), 2 * scale[0][n] + 2, 2e-6);
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 300;
  static const char* const kNames[] = {"portable", "avx2", "avx2-vnni", "avx512-vnni", "neon-dotprod", "neon-i8mm"};
  for (int isa = 0; isa < 6; ++isa) {
    if (hf_quant_use_isa(isa) != 0) {
      std::printf("%s: does not run here\n", kNames[isa]);
      continue;
    }
    where = kNames[isa];
    seed = 1;
    for (int i = 0; i < rounds; ++i) {
      check_linear();
      check_quantize();
      check_rows();
      check_attention();
      check_convolution();
    }
    std::printf("%s: %d rounds agree\n", kNames[isa], rounds);
  }
  return 0;
}
