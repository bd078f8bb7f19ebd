// Ops for torch's dispatcher, by the stable C interface of libtorch (aoti_torch_*), whose functions are looked up at run
// time: no headers, one library for every torch version. A call from Python, or from a compiled graph, so costs about a
// microsecond. The ops' schemas are defined in hf_quant/kernels/native/ops.py.
//
// Nothing of a tensor is trusted: dtype, shape, strides and sizes are checked before a kernel sees a pointer. Errors are
// C++ exceptions, as the stable interface means them to be.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include <dlfcn.h>

#include "abi.h"
#include "layout.h"

HF_QUANT_API std::int32_t hf_quant_run(const hf_quant::Step*, std::int32_t, std::int32_t);
HF_QUANT_API std::int32_t hf_quant_embed(const hf_quant::Embedding*, std::int32_t);
HF_QUANT_API std::int32_t hf_quant_attend(const hf_quant::Attention*, std::int32_t);
HF_QUANT_API std::int32_t hf_quant_normalize(const hf_quant::Input*, std::int64_t, void*, std::int64_t, std::int32_t);

namespace hf_quant {
namespace {

using Handle = void*;
using Value = std::uint64_t;  // a tensor's handle, or the bits of a number

struct Torch {
  std::int32_t (*init_impl)(const char*, const char*, const char*, std::uint32_t, Handle*);
  std::int32_t (*impl)(Handle, const char*, void (*)(Value*, std::uint64_t, std::uint64_t));
  std::int32_t (*empty)(std::int64_t, const std::int64_t*, const std::int64_t*, std::int32_t, std::int32_t, std::int32_t,
                        Handle*);
  std::int32_t (*data)(Handle, void**);
  std::int32_t (*dim)(Handle, std::int64_t*);
  std::int32_t (*sizes)(Handle, std::int64_t**);
  std::int32_t (*strides)(Handle, std::int64_t**);
  std::int32_t (*dtype)(Handle, std::int32_t*);
  std::int32_t (*device)(Handle, std::int32_t*);
  std::int32_t (*storage)(Handle, std::int64_t*);
  std::int32_t (*release)(Handle);
  std::int32_t (*float32)();
  std::int32_t (*bfloat16)();
  std::int32_t (*float16)();
  std::int32_t (*boolean)();
  std::int32_t (*uint8)();
  std::int32_t (*int8)();
  std::int32_t (*int32)();
  std::int32_t (*int64)();
  int (*threads)();
};

Torch torch;

void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(std::string("hf_quant: ") + what);
}

void call(std::int32_t error) { require(error == 0, "libtorch refused a call"); }

// The tensors among an op's arguments, which come first. Ops own what they are given: released when all is done, or when
// something was refused.
template <int Count>
class Owned {
 public:
  explicit Owned(const Value* stack) { std::memcpy(handles_, stack, sizeof handles_); }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    for (const Handle handle : handles_) torch.release(handle);
  }

 private:
  Handle handles_[Count];
};

// One argument; owned by another.
class Tensor {
 public:
  explicit Tensor(Value value) {
    const Handle handle = reinterpret_cast<Handle>(value);
    std::int64_t* sizes = nullptr;
    std::int64_t* strides = nullptr;
    std::int64_t stored = 0;
    std::int32_t device = 0;
    call(torch.dim(handle, &dims));
    call(torch.sizes(handle, &sizes));
    call(torch.strides(handle, &strides));
    call(torch.dtype(handle, &dtype));
    call(torch.device(handle, &device));
    call(torch.data(handle, &data));
    call(torch.storage(handle, &stored));
    require(device == 0, "native ops take tensors on the CPU");
    require(dims <= kMostDims, "a tensor has too many dimensions");
    count = 1;
    for (std::int64_t i = 0; i < dims; ++i) {
      size[i] = sizes[i];
      stride[i] = strides[i];
      count *= size[i];
    }
    require(count == 0 || stored > 0, "a tensor's memory has been given up");
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  static constexpr int kMostDims = 16;

  bool contiguous() const {
    if (count == 0) return true;
    std::int64_t expected = 1;
    for (std::int64_t i = dims - 1; i >= 0; --i) {
      if (size[i] != 1 && stride[i] != expected) return false;
      expected *= size[i];
    }
    return true;
  }

  std::int64_t dims = 0, count = 0;
  std::int64_t size[kMostDims], stride[kMostDims];
  std::int32_t dtype = 0;
  void* data = nullptr;
};

std::int32_t float_dtype(std::int32_t dtype) {
  if (dtype == torch.float32()) return kFloat32;
  if (dtype == torch.bfloat16()) return kBfloat16;
  require(dtype == torch.float16(), "native ops take float32, bfloat16 and float16");
  return kFloat16;
}

// The C library gives large blocks back to the system as soon as they are freed, and each page of the next one costs a
// fault. It learns the size of blocks that a program needs again and again from those it frees: one as large as it
// learns from, never written to, teaches it at once what outputs of many rows would teach it one by one.
void keep_freed_blocks() {
  constexpr std::size_t kLargest = (std::size_t{32} << 20) - (std::size_t{64} << 10);
  static std::once_flag once;
  std::call_once(once, [] {
    void* volatile block = std::malloc(kLargest);
    std::free(block);
  });
}

// A tensor that was made, until it is handed on.
class Made {
 public:
  explicit Made(Handle handle = nullptr) : handle_(handle) {}
  Made(Made&& other) noexcept : handle_(other.handle_) { other.handle_ = nullptr; }
  Made& operator=(Made&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Made() {
    if (handle_) torch.release(handle_);
  }
  Value hand_on() {
    const Value value = reinterpret_cast<Value>(handle_);
    handle_ = nullptr;
    return value;
  }

 private:
  Handle handle_;
};

// A new contiguous tensor.
Made make(const std::int64_t* sizes, std::int64_t dims, std::int32_t dtype, void** data) {
  constexpr std::int64_t kLarge = 1 << 18;  // numbers
  std::int64_t strides[Tensor::kMostDims + 1], step = 1, count = 1;
  for (std::int64_t i = 0; i < dims; ++i) count *= sizes[i];
  if (count >= kLarge) keep_freed_blocks();
  for (std::int64_t i = dims - 1; i >= 0; --i) {
    strides[i] = step;
    step *= sizes[i] > 1 ? sizes[i] : 1;
  }
  Handle made = nullptr;
  call(torch.empty(dims, sizes, strides, dtype, 0, -1, &made));
  Made owned(made);
  call(torch.data(made, data));
  return owned;
}

// One of the sizes of `like` but for the last, which is `last` (left as it is when negative), or comes after.
Made make(const Tensor& like, std::int64_t last, std::int32_t dtype, bool append, void** data) {
  std::int64_t sizes[Tensor::kMostDims + 1];
  const std::int64_t dims = like.dims + (append ? 1 : 0);
  for (std::int64_t i = 0; i < like.dims; ++i) sizes[i] = like.size[i];
  if (last >= 0) sizes[dims - 1] = last;
  return make(sizes, dims, dtype, data);
}

struct RowsOf {
  std::int64_t rows, stride;
};

// How a tensor lies in memory as rows of its last dimension.
RowsOf rows_of(const Tensor& tensor, std::int64_t width) {
  require(tensor.dims >= 1 && tensor.size[tensor.dims - 1] == width, "the input's last dimension has another size");
  if (tensor.count == 0) return {0, width};
  const std::int64_t last = tensor.dims - 1;
  require(width == 1 || tensor.stride[last] == 1, "the input's last dimension is not contiguous");
  std::int64_t rows = 1, stride = width;
  bool first = true;
  for (std::int64_t i = last - 1; i >= 0; --i) {
    if (tensor.size[i] == 1) continue;
    if (first) {
      stride = tensor.stride[i];
      first = false;
    } else {
      require(tensor.stride[i] == stride * rows, "the input's rows do not lie evenly: call contiguous() on it");
    }
    rows *= tensor.size[i];
  }
  return {rows, stride};
}

constexpr std::int32_t kMostWeights = 3;

bool fits(const StepSpec& step, const WeightSpec& weight) {
  const bool grouped = weight.group != 0;
  const bool sums = (step.mode == kTokenAsymmetric || (step.mode == kStatic && step.static_zero != 0));
  return weight.channels >= 1 && weight.channels <= (1 << 28) && weight.bits >= 2 && weight.bits <= 8 &&
         (weight.flags & ~(kHasZeros | kHasSums)) == 0 && (!sums || (weight.flags & kHasSums)) &&
         (!grouped || (weight.group > 0 && weight.group % kChunk == 0 && step.width % weight.group == 0)) &&
         weight.group == step.weights[0].group;
}

// Whether kernels can do what the step says, whatever tensors come with it.
bool fits(const StepSpec& step) {
  const std::int32_t rotation = step.rotation;
  const bool rotates = rotation == 16 || rotation == 32 || rotation == 64 || rotation == 128 || rotation == 256;
  if (step.width < 1 || step.width > (step.mode == kFloatInput ? 1 << 24 : 1 << 16)) return false;
  if (rotation != 0 && (!rotates || step.width % rotation != 0)) return false;
  if (step.mode < kFloatInput || step.mode > kStatic) return false;
  if (step.mode == kGroupSymmetric && (step.group <= 0 || step.group != step.weights[0].group)) return false;
  if (step.mode == kStatic) {
    if (!(step.static_scale > 0.0f) || step.static_scale > 3e38f) return false;
    if (step.static_zero < -128 || step.static_zero > 127) return false;
    if (step.static_lowest != -128 && step.static_lowest != -127) return false;
  }
  if (step.activation < kNoActivation || step.activation > kRelu || step.gated < 0 || step.gated > 1) return false;
  if (step.weight_count < 1 || step.weight_count > kMostWeights) return false;
  for (int w = 0; w < step.weight_count; ++w) {
    if (!fits(step, step.weights[w])) return false;
  }
  return true;
}

ProgramSpec spec_of(const Tensor& tensor) {
  require(tensor.dtype == torch.uint8() && tensor.contiguous() && tensor.count == sizeof(ProgramSpec),
          "not a program's spec");
  ProgramSpec spec;
  std::memcpy(&spec, tensor.data, sizeof spec);
  require(spec.magic == kSpecMagic && spec.count >= 1 && spec.count <= 2, "not a program's spec");
  for (int s = 0; s < spec.count; ++s) require(fits(spec.steps[s]), "a program's spec says what no kernel can do");
  return spec;
}

void set_input(const StepSpec& spec, Input* input) {
  std::memset(input, 0, sizeof *input);
  input->width = spec.width;
  input->mode = spec.mode;
  input->group = spec.group;
  input->rotation = spec.rotation;
  input->static_scale = spec.static_scale;
  input->static_zero = spec.static_zero;
  input->static_lowest = spec.static_lowest;
}

void set_weight(const StepSpec& step, const WeightSpec& spec, const Tensor& blocks, const Tensor& bias, Weight* weight) {
  const Layout layout(spec.channels, step.width, spec.bits, spec.group, spec.flags);
  require(blocks.dtype == torch.uint8() && blocks.contiguous() && blocks.count == layout.total_bytes(),
          "a packed weight has another size than its spec says");
  std::memset(weight, 0, sizeof *weight);
  weight->blocks = static_cast<const std::uint8_t*>(blocks.data);
  weight->channels = spec.channels;
  weight->bits = spec.bits;
  weight->group = spec.group;
  weight->flags = spec.flags;
  if (bias.count > 0) {
    require(bias.contiguous() && bias.count == spec.channels, "a bias has another size than its weight");
    weight->bias = bias.data;
    weight->bias_dtype = float_dtype(bias.dtype);
  }
}

// What fake implementations were told has to be what happens.
void require_channels(Value told, const WeightSpec& spec) {
  require(static_cast<std::int64_t>(told) == spec.channels, "the spec has another number of channels");
}

void check(std::int32_t status) {
  require(status != 1, "out of memory");
  if (status == 3) throw std::out_of_range("index out of range: an embedding has fewer rows");
  require(status == 0, "a native kernel failed");
}

// The arguments of all products: input, blocks and biases of up to three weights, spec.
struct Arguments {
  Tensor input, blocks_a, blocks_b, blocks_c, spec, bias_a, bias_b, bias_c;
  explicit Arguments(const Value* stack)
      : input(stack[0]), blocks_a(stack[1]), blocks_b(stack[2]), blocks_c(stack[3]), spec(stack[4]), bias_a(stack[5]),
        bias_b(stack[6]), bias_c(stack[7]) {}
  const Tensor& blocks(int i) const { return i == 0 ? blocks_a : i == 1 ? blocks_b : blocks_c; }
  const Tensor& bias(int i) const { return i == 0 ? bias_a : i == 1 ? bias_b : bias_c; }
};

void run(const ProgramSpec& spec, Step* steps) {
  if (steps[0].rows > 0) check(hf_quant_run(steps, spec.count, torch.threads()));
}

// (input, blocks, spec, bias, channels) -> output
void linear(Value* stack, std::uint64_t, std::uint64_t) {
  const Owned<4> owned(stack);
  const Tensor input(stack[0]), blocks(stack[1]), spec_tensor(stack[2]), bias(stack[3]);
  const ProgramSpec spec = spec_of(spec_tensor);
  const StepSpec& part = spec.steps[0];
  require(spec.count == 1 && part.weight_count == 1 && !part.gated, "not the spec of one weight");
  require_channels(stack[4], part.weights[0]);
  const RowsOf rows = rows_of(input, part.width);
  Step step;
  std::memset(&step, 0, sizeof step);
  set_input(part, &step.input);
  step.input.data = input.data;
  step.input.stride = rows.stride;
  step.input.dtype = step.output_dtype = float_dtype(input.dtype);
  step.rows = rows.rows;
  step.activation = part.activation;
  step.weight_count = 1;
  set_weight(part, part.weights[0], blocks, bias, &step.weights[0]);
  Made output = make(input, part.weights[0].channels, input.dtype, false, &step.weights[0].output);
  step.weights[0].output_stride = part.weights[0].channels;
  run(spec, &step);
  stack[0] = output.hand_on();
}

// (input, three blocks, spec, three biases, three times channels) -> three outputs, the last one empty where there are two weights
void linears(Value* stack, std::uint64_t, std::uint64_t) {
  const Owned<8> owned(stack);
  const Arguments given(stack);
  const ProgramSpec spec = spec_of(given.spec);
  const StepSpec& part = spec.steps[0];
  require(spec.count == 1 && part.weight_count >= 2 && part.weight_count <= kMostWeights && !part.gated,
          "not the spec of weights side by side");
  const RowsOf rows = rows_of(given.input, part.width);
  Step step;
  std::memset(&step, 0, sizeof step);
  set_input(part, &step.input);
  step.input.data = given.input.data;
  step.input.stride = rows.stride;
  step.input.dtype = step.output_dtype = float_dtype(given.input.dtype);
  step.rows = rows.rows;
  step.weight_count = part.weight_count;
  Made outputs[kMostWeights];
  for (int w = 0; w < kMostWeights; ++w) {
    const bool used = w < part.weight_count;
    const std::int64_t channels = used ? part.weights[w].channels : 0;
    void* data = nullptr;
    if (used) {
      require_channels(stack[8 + w], part.weights[w]);
      set_weight(part, part.weights[w], given.blocks(w), given.bias(w), &step.weights[w]);
    }
    outputs[w] = make(given.input, channels, given.input.dtype, false, &data);
    if (used) {
      step.weights[w].output = data;
      step.weights[w].output_stride = channels;
    }
  }
  run(spec, &step);
  for (int w = 0; w < kMostWeights; ++w) stack[w] = outputs[w].hand_on();
}

// (input, three blocks, spec, three biases, residual, weight and bias of a norm, its kind and epsilon, channels) -> output:
// one product, or two with an activation between them, plus residual, normalised
void block(Value* stack, std::uint64_t, std::uint64_t) {
  const Owned<11> owned(stack);
  const Arguments given(stack);
  const Tensor residual(stack[8]), norm_weight(stack[9]), norm_bias(stack[10]);
  const std::int64_t norm = static_cast<std::int64_t>(stack[11]);
  double epsilon;
  std::memcpy(&epsilon, &stack[12], sizeof epsilon);
  const ProgramSpec spec = spec_of(given.spec);
  const StepSpec& first = spec.steps[0];
  const StepSpec& last = spec.steps[spec.count - 1];
  const WeightSpec& made = last.weights[0];
  const int inner = first.gated ? 2 : 1;
  require(first.weight_count == inner && (spec.count == 1 || last.weight_count == 1), "not the spec of a block");
  require_channels(stack[13], made);
  require(inner == 1 || first.weights[1].channels == first.weights[0].channels, "gate and up have different sizes");
  if (spec.count == 2) {
    require(last.width == first.weights[0].channels && !last.gated, "two steps do not fit together");
    require((first.mode == kFloatInput) == (last.mode == kFloatInput), "two steps have inputs of different kinds");
  }
  const RowsOf rows = rows_of(given.input, first.width);
  Step steps[2];
  std::memset(steps, 0, sizeof steps);
  for (int s = 0; s < spec.count; ++s) {
    set_input(spec.steps[s], &steps[s].input);
    steps[s].rows = rows.rows;
    steps[s].output_dtype = float_dtype(given.input.dtype);
    steps[s].activation = spec.steps[s].activation;
    steps[s].gated = spec.steps[s].gated;
    steps[s].weight_count = spec.steps[s].weight_count;
  }
  steps[0].input.data = given.input.data;
  steps[0].input.stride = rows.stride;
  steps[0].input.dtype = steps[0].output_dtype;
  for (int w = 0; w < inner; ++w) set_weight(first, first.weights[w], given.blocks(w), given.bias(w), &steps[0].weights[w]);
  Step& final_step = steps[spec.count - 1];
  if (spec.count == 2) set_weight(last, made, given.blocks(inner), given.bias(inner), &final_step.weights[0]);
  if (residual.count > 0) {
    const RowsOf added = rows_of(residual, made.channels);
    require(added.rows == rows.rows && residual.dtype == given.input.dtype, "the residual does not fit the output");
    final_step.residual = residual.data;
    final_step.residual_stride = added.stride;
  }
  if (norm != kNoNorm) {
    require(norm == kRmsNorm || norm == kLayerNorm, "no such norm");
    require(norm_weight.contiguous() && norm_weight.count == made.channels, "a norm's weight does not fit the output");
    final_step.post_norm = static_cast<std::int32_t>(norm);
    final_step.post_weight = norm_weight.data;
    final_step.post_dtype = float_dtype(norm_weight.dtype);
    final_step.post_epsilon = static_cast<float>(epsilon);
    if (norm_bias.count > 0) {
      require(norm_bias.contiguous() && norm_bias.count == made.channels && norm_bias.dtype == norm_weight.dtype,
              "a norm's bias does not fit");
      final_step.post_bias = norm_bias.data;
    }
  }
  Weight& out = final_step.weights[0];
  Made output = make(given.input, made.channels, given.input.dtype, false, &out.output);
  out.output_stride = made.channels;
  run(spec, steps);
  stack[0] = output.hand_on();
}

// (indices, blocks, spec, like, channels) -> rows of a packed weight, in the dtype of `like`
void embedding(Value* stack, std::uint64_t, std::uint64_t) {
  const Owned<4> owned(stack);
  const Tensor indices(stack[0]), blocks(stack[1]), spec_tensor(stack[2]), like(stack[3]);
  const ProgramSpec spec = spec_of(spec_tensor);
  const StepSpec& part = spec.steps[0];
  const WeightSpec& weight = part.weights[0];
  require(static_cast<std::int64_t>(stack[4]) == part.width, "the spec has another width");
  const Layout layout(weight.channels, part.width, weight.bits, weight.group, weight.flags);
  require(blocks.dtype == torch.uint8() && blocks.contiguous() && blocks.count == layout.total_bytes(),
          "a packed weight has another size than its spec says");
  require(indices.contiguous(), "indices are not contiguous");
  require(indices.dtype == torch.int64() || indices.dtype == torch.int32(), "indices are int64 or int32");
  Embedding request;
  std::memset(&request, 0, sizeof request);
  request.indices = indices.data;
  request.blocks = static_cast<const std::uint8_t*>(blocks.data);
  request.count = indices.count;
  request.rows = weight.channels;
  request.index_bytes = indices.dtype == torch.int64() ? 8 : 4;
  request.width = part.width;
  request.bits = weight.bits;
  request.group = weight.group;
  request.flags = weight.flags;
  request.rotation = part.rotation;
  request.output_dtype = float_dtype(like.dtype);
  Made made = make(indices, part.width, like.dtype, true, &request.output);
  // A few rows are looked up faster than threads start.
  const int threads = request.count * request.width < 65536 ? 1 : torch.threads();
  check(hf_quant_embed(&request, threads));
  stack[0] = made.hand_on();
}

// (input, weight, bias, kind, epsilon) -> normalised input
void norm(Value* stack, std::uint64_t, std::uint64_t) {
  const Owned<3> owned(stack);
  const Tensor input(stack[0]), weight(stack[1]), bias(stack[2]);
  const std::int64_t kind = static_cast<std::int64_t>(stack[3]);
  double epsilon;
  std::memcpy(&epsilon, &stack[4], sizeof epsilon);
  require(kind == kRmsNorm || kind == kLayerNorm, "no such norm");
  require(input.dims >= 1, "the input has no dimension to normalise");
  const std::int64_t width = input.size[input.dims - 1];
  require(width > 0 && width < (1ll << 31), "the input has no width");
  const RowsOf rows = rows_of(input, width);
  Input request;
  std::memset(&request, 0, sizeof request);
  request.data = input.data;
  request.stride = rows.stride;
  request.dtype = float_dtype(input.dtype);
  request.width = static_cast<std::int32_t>(width);
  request.norm = static_cast<std::int32_t>(kind);
  request.epsilon = static_cast<float>(epsilon);
  if (weight.count > 0) {
    require(weight.contiguous() && weight.count == width, "a norm's weight has another size than its input");
    request.norm_weight = weight.data;
    request.norm_dtype = float_dtype(weight.dtype);
  }
  if (bias.count > 0) {
    require(bias.contiguous() && bias.count == width && bias.dtype == weight.dtype, "a norm's bias does not fit");
    request.norm_bias = bias.data;
    request.norm_dtype = float_dtype(bias.dtype);
  }
  void* data = nullptr;
  Made made = make(input, -1, input.dtype, false, &data);
  const int threads = input.count < 65536 ? 1 : torch.threads();
  if (rows.rows > 0) check(hf_quant_normalize(&request, rows.rows, data, width, threads));
  stack[0] = made.hand_on();
}

// Strides of the first three of four dimensions, the last of which has to be contiguous.
void set_strides(const Tensor& tensor, std::int64_t* strides) {
  require(tensor.stride[3] == 1 || tensor.size[3] == 1, "the last dimension of an input of attention is not contiguous");
  for (int i = 0; i < 3; ++i) strides[i] = tensor.stride[i];
}

// (query, key, value, mask, scale, causal) -> output [batch, queries, heads, width]
void attention(Value* stack, std::uint64_t, std::uint64_t) {
  const Owned<4> owned(stack);
  const Tensor query(stack[0]), key(stack[1]), value(stack[2]), mask(stack[3]);
  double scale;
  std::memcpy(&scale, &stack[4], sizeof scale);
  require(query.dims == 4 && key.dims == 4 && value.dims == 4, "attention takes tensors of four dimensions");
  require(query.dtype == key.dtype && query.dtype == value.dtype, "attention takes tensors of one dtype");
  Attention request;
  std::memset(&request, 0, sizeof request);
  request.batch = query.size[0];
  request.heads = query.size[1];
  request.queries = query.size[2];
  request.width = query.size[3];
  request.kv_heads = key.size[1];
  request.keys = key.size[2];
  require(request.width % 16 == 0, "attention takes heads of a multiple of 16 channels");
  require(key.size[0] == request.batch && key.size[3] == request.width, "keys do not fit queries");
  for (int i = 0; i < 4; ++i) require(value.size[i] == key.size[i], "values do not fit keys");
  require(request.kv_heads > 0 && request.heads % request.kv_heads == 0, "heads do not share keys and values evenly");
  set_strides(query, request.query_stride);
  set_strides(key, request.key_stride);
  set_strides(value, request.value_stride);
  if (mask.dims > 0) {
    const std::int64_t wanted[4] = {request.batch, request.heads, request.queries, request.keys};
    require(mask.dtype == torch.boolean() && mask.dims == 4, "the mask is not of booleans in four dimensions");
    for (int i = 0; i < 4; ++i) {
      require(mask.size[i] == wanted[i] || mask.size[i] == 1, "the mask does not fit queries and keys");
      request.mask_stride[i] = mask.size[i] == 1 ? 0 : mask.stride[i];
    }
    request.mask = static_cast<const std::uint8_t*>(mask.data);
  }
  request.query = query.data;
  request.key = key.data;
  request.value = value.data;
  request.scale = static_cast<float>(scale);
  request.causal = stack[5] != 0;
  request.dtype = float_dtype(query.dtype);
  const std::int64_t sizes[4] = {request.batch, request.queries, request.heads, request.width};
  Made made = make(sizes, 4, query.dtype, &request.output);
  // Multiplications that are worth the start of threads.
  const std::int64_t work = query.count * request.keys;
  if (query.count > 0) check(hf_quant_attend(&request, work < 1 << 16 ? 1 : torch.threads()));
  stack[0] = made.hand_on();
}

template <class Function>
bool find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

int one_thread() { return 1; }

bool find_torch(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
  if (!library) return false;
  // at::get_num_threads, which also lets threads that torch has not seen yet use as many as it was told to. The number
  // itself is kept in the OpenMP runtime.
  if (!find(library, "_ZN2at15get_num_threadsEv", &torch.threads) &&
      !find(RTLD_DEFAULT, "omp_get_max_threads", &torch.threads)) {
    torch.threads = one_thread;
  }
  return find(library, "aoti_torch_library_init_impl", &torch.init_impl) &&
         find(library, "aoti_torch_library_impl", &torch.impl) &&
         find(library, "aoti_torch_empty_strided", &torch.empty) && find(library, "aoti_torch_get_data_ptr", &torch.data) &&
         find(library, "aoti_torch_get_dim", &torch.dim) && find(library, "aoti_torch_get_sizes", &torch.sizes) &&
         find(library, "aoti_torch_get_strides", &torch.strides) && find(library, "aoti_torch_get_dtype", &torch.dtype) &&
         find(library, "aoti_torch_get_device_type", &torch.device) &&
         find(library, "aoti_torch_get_storage_size", &torch.storage) &&
         find(library, "aoti_torch_delete_tensor_object", &torch.release) &&
         find(library, "aoti_torch_dtype_float32", &torch.float32) &&
         find(library, "aoti_torch_dtype_bfloat16", &torch.bfloat16) &&
         find(library, "aoti_torch_dtype_float16", &torch.float16) &&
         find(library, "aoti_torch_dtype_bool", &torch.boolean) &&
         find(library, "aoti_torch_dtype_uint8", &torch.uint8) && find(library, "aoti_torch_dtype_int8", &torch.int8) &&
         find(library, "aoti_torch_dtype_int32", &torch.int32) && find(library, "aoti_torch_dtype_int64", &torch.int64);
}

}  // namespace
}  // namespace hf_quant

// Give the ops of the namespace hf_quant, defined before, their implementations. `path` is that of libtorch_cpu, which is
// loaded already. 0, or 1 where this torch lacks a function that is needed.
HF_QUANT_API std::int32_t hf_quant_register_ops(const char* path) {
  using namespace hf_quant;
  if (!find_torch(path)) return 1;
  Handle library = nullptr;
  if (torch.init_impl("hf_quant", "CPU", __FILE__, __LINE__, &library) != 0) return 1;
  const struct {
    const char* name;
    void (*function)(Value*, std::uint64_t, std::uint64_t);
  } kOps[] = {{"native_linear", linear}, {"native_linears", linears}, {"native_block", block}, {"native_embedding", embedding},
              {"native_norm", norm}, {"native_attention", attention}};
  for (const auto& op : kOps) {
    if (torch.impl(library, op.name, op.function) != 0) return 1;
  }
  return 0;  // the library object lives as long as the process
}
