// The C interface between this library and hf_quant/kernels/native. It checks nothing: the Python side, or the op that
// calls, validates every shape, dtype, stride and range before it passes a pointer.
//
// A program is an array of steps that run inside one parallel region. A step reads rows of floats (normalises, rotates
// and quantizes them as it says), multiplies them with one or more packed weights, and writes rows of floats. A step
// without an input of its own reads what the step before it wrote.

#pragma once

#include <cstdint>

#define HF_QUANT_API extern "C" __attribute__((visibility("default")))

namespace hf_quant {

struct Neutral;  // pack.h

constexpr std::int32_t kAbiVersion = 6;

enum Dtype : std::int32_t { kFloat32 = 0, kBfloat16 = 1, kFloat16 = 2 };
enum Norm : std::int32_t { kNoNorm = 0, kRmsNorm = 1, kLayerNorm = 2 };
enum Activation : std::int32_t { kNoActivation = 0, kGeluErf = 1, kGeluTanh = 2, kSilu = 3, kRelu = 4 };

// How rows of floats become what weights are multiplied with.
enum InputMode : std::int32_t {
  kFloatInput = 0,        // not at all: weight-only
  kTokenSymmetric = 1,    // 8 bits, one scale a row
  kTokenAsymmetric = 2,   // 8 bits, one scale and zero point a row
  kGroupSymmetric = 3,    // 8 bits, one scale a group of a row
  kStatic = 4,            // 8 bits, scale and zero point given
};

enum Isa : std::int32_t { kPortable = 0, kAvx2 = 1, kAvx2Vnni = 2, kAvx512Vnni = 3, kNeonDot = 4, kNeonI8mm = 5 };

// What a packed weight holds besides codes.
enum WeightFlags : std::int32_t {
  kHasZeros = 1,   // zero points of their own; otherwise the middle code is zero
  kHasSums = 2,    // sums of codes per channel and group, for inputs with a zero point
  kWideScales = 4, // scales of groups are float32 rather than bfloat16
};

struct Input {
  const void* data;  // null: what the step before wrote
  const void* norm_weight;
  const void* norm_bias;
  std::int64_t stride;  // elements from one row to the next
  std::int32_t dtype;
  std::int32_t norm_dtype;
  std::int32_t width;
  std::int32_t norm;
  std::int32_t rotation;  // block size of the Hadamard rotation, or 0
  std::int32_t mode;
  std::int32_t group;  // of kGroupSymmetric
  std::int32_t static_zero;
  float static_scale;
  float epsilon;
  std::int32_t static_lowest;  // lowest code of kStatic: -127 or -128
  std::int32_t reserved;
};

struct Weight {
  const std::uint8_t* blocks;
  const void* bias;
  void* output;  // null: kept for the next step
  std::int64_t output_stride;
  std::int32_t channels;
  std::int32_t bits;
  std::int32_t group;  // inputs that share a scale; 0: all of them
  std::int32_t flags;
  std::int32_t bias_dtype;
  std::int32_t reserved;
};

struct Step {
  Input input;
  const void* residual;  // added after the activation; rows of output_dtype
  const void* post_weight;  // of a norm of whole rows of the output, which comes last
  const void* post_bias;
  std::int64_t residual_stride;
  std::int64_t rows;
  std::int32_t output_dtype;
  std::int32_t activation;
  std::int32_t gated;  // weights[0] is the gate: activation(gate) * weights[1], written where weights[0] says
  std::int32_t weight_count;
  std::int32_t post_norm;  // Norm
  std::int32_t post_dtype;
  float post_epsilon;
  std::int32_t reserved;
  Weight weights[4];
};

struct Embedding {
  const void* indices;
  const std::uint32_t* words;  // neutral codes [rows, words_per_row], or null
  const void* scales;          // [rows, groups], float32, or bfloat16 when grouped and not kWideScales
  const std::int8_t* zeros;    // [rows, groups], or null
  const std::uint8_t* blocks;  // where there are no words: a packed weight, which holds scales and zeros too
  void* output;
  std::int64_t count;
  std::int64_t rows;
  std::int64_t words_per_row;
  std::int32_t index_bytes;  // 4 or 8
  std::int32_t width;
  std::int32_t bits;
  std::int32_t group;
  std::int32_t rotation;
  std::int32_t output_dtype;
  std::int32_t per_tensor;
  std::int32_t flags;  // WeightFlags of the blocks
};

// softmax(scale * query key^T) value, for heads that share keys and values in groups.
struct Attention {
  const void* query;           // [batch, heads, queries, width], rows contiguous
  const void* key;             // [batch, kv_heads, keys, width]
  const void* value;           // likewise
  const std::uint8_t* mask;    // [batch, heads, queries, keys]: what is 0 is not seen; or null
  void* output;                // [batch, queries, heads, width]
  std::int64_t query_stride[3];  // of batch, head, row, in numbers
  std::int64_t key_stride[3];
  std::int64_t value_stride[3];
  std::int64_t mask_stride[4];
  std::int64_t batch, heads, kv_heads, queries, keys, width;
  float scale;
  std::int32_t causal;  // query i sees keys 0 to i
  std::int32_t dtype;
  std::int32_t reserved;
};

// A convolution of up to three spatial dimensions: rows of patches times the weight of their group. Patches are cut from
// an image, channels innermost: the input where it lies, or a padded copy of a band of it, of codes where the grid is
// static. A band is a stretch of the output along one axis, or several whole items of the batch.
struct Convolution {
  Step step;            // of one group; weights[0] is that of the first, and neither input nor output are set
  const void* input;    // [batch, groups * width, in...], or channels last
  void* output;         // [batch, groups * channels, out...], likewise
  const float* factor;  // [groups * channels], or null: what comes out is factor * y + shift, then activated
  const float* shift;
  std::int64_t weight_bytes;          // from one group's weight to the next
  std::int64_t batch, groups, width;  // width: channels of the input in a group
  std::int64_t in[3], out[3], kernel[3], stride[3], dilation[3], before[3], padded[3];
  std::int64_t items, length;  // of a band, at most: items, and outputs along the axis, which are all where items are many
  std::int64_t extent[3];      // of the image of a band
  std::int64_t item_bytes, group_bytes, step_bytes[3];  // from one to the next in the image
  std::int32_t axis;           // the first with more than one place
  std::int32_t channels_last;
  std::int32_t staged;         // bands are copied
  std::int32_t codes;          // as codes
  std::int32_t rotation;       // of pixels of copies as floats
  std::int32_t activation;
};

// A convolution whose channels are in groups and whose inputs are of 8 bits: static, or on a grid for each item and group.
// Of a row of codes there is a window of four for each output and each four taps of a row of a filter, a word. Rows lie
// so that outputs of a band find theirs in one stretch: by the remainder of their place by the stride.
struct GroupedConvolution {
  Convolution shape;          // channels before pixels; neither blocks nor bands; a stride is 1 where there is one output
  const std::int8_t* taps;    // [groups * channels, words, 4]: of each channel of the group, row by row, zeros at its end
  const std::int32_t* sums;   // of the taps of each filter
  const float* scales;        // of each filter
  std::int64_t words, quads;  // of a filter, and of a row of it
  std::int64_t planes, pitch;  // copies of a channel's windows: for each quad, or one for all; windows of a row
  std::int64_t length;         // of a band: outputs along the second dimension
  std::int64_t slots[2], slot_rows[2];  // rows along the first two dimensions, and those of one remainder
  std::int64_t deep, high;  // rows of the input that a band is made from, along the first two dimensions
  std::int64_t row_bytes, window_bytes;
};

// Float weight to neutral codes.
struct Quantize {
  const void* data;
  std::uint32_t* words;
  void* scales;
  std::int8_t* zeros;  // null: symmetric
  std::int64_t rows;
  std::int64_t stride;
  std::int64_t words_per_row;
  std::int32_t dtype;
  std::int32_t width;
  std::int32_t bits;
  std::int32_t group;  // 0: one scale a row
  std::int32_t rotation;
  std::int32_t steps;  // 0: range between extremes; otherwise clipping that this many trials find best
  float narrowest;     // share of the range that the narrowest trial keeps
  std::int32_t reserved;
};

// What tensors do not say of a program, as the bytes of a tensor: how ops of torch are told.
struct WeightSpec {
  std::int32_t channels, bits, group, flags;
};

struct StepSpec {
  std::int32_t width, mode, group, rotation, static_zero, static_lowest;
  float static_scale;
  std::int32_t activation, gated, weight_count;
  WeightSpec weights[4];
};

constexpr std::uint32_t kSpecMagic = 0x51464831;  // "1HFQ"

struct ProgramSpec {
  std::uint32_t magic;
  std::int32_t count;
  StepSpec steps[2];
};

}  // namespace hf_quant

HF_QUANT_API std::int32_t hf_quant_abi_version();
HF_QUANT_API std::int32_t hf_quant_isa_runs(std::int32_t isa);

// Use the kernels of `isa` from now on; 0, or 1 where it does not run. To be called before anything below.
HF_QUANT_API std::int32_t hf_quant_use_isa(std::int32_t isa);

// Give the ops of the namespace hf_quant, defined before, their implementations. `path` is that of libtorch_cpu, which
// is loaded already. 0, or 1 where this torch lacks a function that is needed.
HF_QUANT_API std::int32_t hf_quant_register_ops(const char* path);

// Whether a runtime with threads was found.
HF_QUANT_API std::int32_t hf_quant_has_threads();

HF_QUANT_API std::int64_t hf_quant_packed_bytes(const hf_quant::Neutral* weight);
HF_QUANT_API void hf_quant_pack(const hf_quant::Neutral* weight, std::uint8_t* blocks, std::int32_t threads);
HF_QUANT_API void hf_quant_unpack(const hf_quant::Neutral* weight, const std::uint8_t* blocks, std::uint32_t* words,
                                  std::int32_t threads);

// 0, or 1 when memory ran out; so for all that follow.
HF_QUANT_API std::int32_t hf_quant_run(const hf_quant::Step* steps, std::int32_t count, std::int32_t threads);
HF_QUANT_API std::int32_t hf_quant_quantize(const hf_quant::Quantize* request, std::int32_t threads);
HF_QUANT_API std::int32_t hf_quant_embed(const hf_quant::Embedding* request, std::int32_t threads);
HF_QUANT_API std::int32_t hf_quant_normalize(const hf_quant::Input* input, std::int64_t rows, void* output,
                                             std::int64_t stride, std::int32_t threads);
HF_QUANT_API std::int32_t hf_quant_attend(const hf_quant::Attention* request, std::int32_t threads);
HF_QUANT_API std::int32_t hf_quant_convolve(const hf_quant::Convolution* request, std::int32_t threads);
HF_QUANT_API std::int32_t hf_quant_convolve_groups(const hf_quant::GroupedConvolution* request, std::int32_t threads);

// For benchmarks: reads memory once, and returns a sum of it; multiplies in registers, and returns the operations done.
HF_QUANT_API std::int64_t hf_quant_read(const std::uint8_t* data, std::int64_t bytes, std::int32_t threads);
HF_QUANT_API std::int64_t hf_quant_dots(std::int64_t rounds, std::int32_t threads);
