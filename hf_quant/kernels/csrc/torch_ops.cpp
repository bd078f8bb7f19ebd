// Ops for torch's dispatcher, by the stable C interface of libtorch (aoti_torch_*), whose functions are looked up at run
// time: no headers, one library for every torch version. A call from Python, or from a compiled graph, so costs about a
// microsecond. The ops' schemas are defined in hf_quant/kernels/native/ops.py.
//
// Nothing of a tensor is trusted: dtype, shape, strides and sizes are checked before a kernel sees a pointer. Errors are
// C++ exceptions, as the stable interface means them to be.

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#include <dlfcn.h>

#include "abi.h"
#include "layout.h"

HF_QUANT_API std::int32_t hf_quant_run(const hf_quant::Step*, std::int32_t, std::int32_t);
HF_QUANT_API std::int32_t hf_quant_embed(const hf_quant::Embedding*, std::int32_t);
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
  std::int32_t (*release)(Handle);
  std::int32_t (*float32)();
  std::int32_t (*bfloat16)();
  std::int32_t (*float16)();
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

// One argument. Kernels own the tensors they are given, so it is released at the end.
class Tensor {
 public:
  explicit Tensor(Value value) : handle_(reinterpret_cast<Handle>(value)) {
    std::int64_t* sizes = nullptr;
    std::int64_t* strides = nullptr;
    std::int32_t device = 0;
    call(torch.dim(handle_, &dims));
    call(torch.sizes(handle_, &sizes));
    call(torch.strides(handle_, &strides));
    call(torch.dtype(handle_, &dtype));
    call(torch.device(handle_, &device));
    call(torch.data(handle_, &data));
    require(device == 0, "native ops take tensors on the CPU");
    require(dims <= kMostDims, "a tensor has too many dimensions");
    count = 1;
    for (std::int64_t i = 0; i < dims; ++i) {
      size[i] = sizes[i];
      stride[i] = strides[i];
      count *= size[i];
    }
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  ~Tensor() { torch.release(handle_); }

  static constexpr int kMostDims = 16;

  bool contiguous() const {
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

 private:
  Handle handle_;
};

std::int32_t float_dtype(std::int32_t dtype) {
  if (dtype == torch.float32()) return kFloat32;
  if (dtype == torch.bfloat16()) return kBfloat16;
  require(dtype == torch.float16(), "native ops take float32, bfloat16 and float16");
  return kFloat16;
}

// A new tensor of the sizes of `like` but for the last, which is `last` (left as it is when negative).
Value make(const Tensor& like, std::int64_t last, std::int32_t dtype, bool append, void** data) {
  std::int64_t sizes[Tensor::kMostDims + 1], strides[Tensor::kMostDims + 1];
  std::int64_t dims = like.dims;
  for (std::int64_t i = 0; i < dims; ++i) sizes[i] = like.size[i];
  if (append) ++dims;
  if (last >= 0) sizes[dims - 1] = last;
  std::int64_t step = 1;
  for (std::int64_t i = dims - 1; i >= 0; --i) {
    strides[i] = step;
    step *= sizes[i] > 1 ? sizes[i] : 1;
  }
  Handle made = nullptr;
  call(torch.empty(dims, sizes, strides, dtype, 0, -1, &made));
  call(torch.data(made, data));
  return reinterpret_cast<Value>(made);
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

const ProgramSpec& spec_of(const Tensor& tensor) {
  require(tensor.dtype == torch.uint8() && tensor.contiguous() && tensor.count == sizeof(ProgramSpec),
          "not a program's spec");
  const ProgramSpec& spec = *static_cast<const ProgramSpec*>(tensor.data);
  require(spec.magic == kSpecMagic && spec.count >= 1 && spec.count <= 2, "not a program's spec");
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

constexpr int kMostWeights = 3;

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
  const Tensor input(stack[0]), blocks(stack[1]), spec_tensor(stack[2]), bias(stack[3]);
  const ProgramSpec& spec = spec_of(spec_tensor);
  const StepSpec& part = spec.steps[0];
  require(spec.count == 1 && part.weight_count == 1, "not the spec of one weight");
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
  stack[0] = make(input, part.weights[0].channels, input.dtype, false, &step.weights[0].output);
  step.weights[0].output_stride = part.weights[0].channels;
  run(spec, &step);
}

// (input, three blocks, spec, three biases, three times channels) -> three outputs, the last one empty where there are two weights
void linears(Value* stack, std::uint64_t, std::uint64_t) {
  const Arguments given(stack);
  const ProgramSpec& spec = spec_of(given.spec);
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
  Value outputs[kMostWeights];
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
  for (int w = 0; w < kMostWeights; ++w) stack[w] = outputs[w];
}

// (input, three blocks, spec, three biases, channels) -> output: activation(gate) * up, then down; or up, activation, down
void mlp(Value* stack, std::uint64_t, std::uint64_t) {
  const Arguments given(stack);
  const ProgramSpec& spec = spec_of(given.spec);
  require(spec.count == 2, "not the spec of two steps");
  const StepSpec& first = spec.steps[0];
  const StepSpec& second = spec.steps[1];
  const int inner = first.gated ? 2 : 1;
  require(first.weight_count == inner && second.weight_count == 1, "not the spec of two steps");
  require_channels(stack[8], second.weights[0]);
  require(second.width == first.weights[0].channels, "two steps do not fit together");
  require(inner == 1 || first.weights[1].channels == first.weights[0].channels, "gate and up have different sizes");
  require((first.mode == kFloatInput) == (second.mode == kFloatInput), "two steps have inputs of different kinds");
  const RowsOf rows = rows_of(given.input, first.width);
  Step steps[2];
  std::memset(steps, 0, sizeof steps);
  set_input(first, &steps[0].input);
  set_input(second, &steps[1].input);
  steps[0].input.data = given.input.data;
  steps[0].input.stride = rows.stride;
  steps[0].input.dtype = steps[0].output_dtype = steps[1].output_dtype = float_dtype(given.input.dtype);
  steps[0].rows = steps[1].rows = rows.rows;
  steps[0].activation = first.activation;
  steps[0].gated = first.gated;
  steps[0].weight_count = inner;
  steps[1].weight_count = 1;
  for (int w = 0; w < inner; ++w) set_weight(first, first.weights[w], given.blocks(w), given.bias(w), &steps[0].weights[w]);
  set_weight(second, second.weights[0], given.blocks(inner), given.bias(inner), &steps[1].weights[0]);
  Weight& last = steps[1].weights[0];
  const Value made = make(given.input, second.weights[0].channels, given.input.dtype, false, &last.output);
  last.output_stride = second.weights[0].channels;
  run(spec, steps);
  stack[0] = made;
}

// (indices, blocks, spec, like, channels) -> rows of a packed weight, in the dtype of `like`
void embedding(Value* stack, std::uint64_t, std::uint64_t) {
  const Tensor indices(stack[0]), blocks(stack[1]), spec_tensor(stack[2]), like(stack[3]);
  const ProgramSpec& spec = spec_of(spec_tensor);
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
  const Value made = make(indices, part.width, like.dtype, true, &request.output);
  // A few rows are looked up faster than threads start.
  const int threads = request.count * request.width < 65536 ? 1 : torch.threads();
  check(hf_quant_embed(&request, threads));
  stack[0] = made;
}

// (input, weight, bias, kind, epsilon) -> normalised input
void norm(Value* stack, std::uint64_t, std::uint64_t) {
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
  }
  void* data = nullptr;
  const Value made = make(input, -1, input.dtype, false, &data);
  const int threads = input.count < 65536 ? 1 : torch.threads();
  if (rows.rows > 0) check(hf_quant_normalize(&request, rows.rows, data, width, threads));
  stack[0] = made;
}

template <class Function>
bool find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

bool find_torch(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
  return library && find(library, "aoti_torch_library_init_impl", &torch.init_impl) &&
         find(library, "aoti_torch_library_impl", &torch.impl) &&
         find(library, "aoti_torch_empty_strided", &torch.empty) && find(library, "aoti_torch_get_data_ptr", &torch.data) &&
         find(library, "aoti_torch_get_dim", &torch.dim) && find(library, "aoti_torch_get_sizes", &torch.sizes) &&
         find(library, "aoti_torch_get_strides", &torch.strides) && find(library, "aoti_torch_get_dtype", &torch.dtype) &&
         find(library, "aoti_torch_get_device_type", &torch.device) &&
         find(library, "aoti_torch_delete_tensor_object", &torch.release) &&
         find(library, "aoti_torch_dtype_float32", &torch.float32) &&
         find(library, "aoti_torch_dtype_bfloat16", &torch.bfloat16) &&
         find(library, "aoti_torch_dtype_float16", &torch.float16) &&
         find(library, "aoti_torch_dtype_uint8", &torch.uint8) && find(library, "aoti_torch_dtype_int8", &torch.int8) &&
         find(library, "aoti_torch_dtype_int32", &torch.int32) && find(library, "aoti_torch_dtype_int64", &torch.int64);
}

int one_thread() { return 1; }

}  // namespace
}  // namespace hf_quant

// Give the ops of the namespace hf_quant, defined before, their implementations. `path` is that of libtorch_cpu, which is
// loaded already. 0, or 1 where this torch lacks a function that is needed.
HF_QUANT_API std::int32_t hf_quant_register_ops(const char* path) {
  using namespace hf_quant;
  if (!find_torch(path)) return 1;
  // The same number that torch computes with: it is kept in the OpenMP runtime.
  torch.threads = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
  if (!torch.threads) torch.threads = one_thread;
  Handle library = nullptr;
  if (torch.init_impl("hf_quant", "CPU", __FILE__, __LINE__, &library) != 0) return 1;
  const struct {
    const char* name;
    void (*function)(Value*, std::uint64_t, std::uint64_t);
  } kOps[] = {{"native_linear", linear}, {"native_linears", linears}, {"native_mlp", mlp}, {"native_embedding", embedding},
              {"native_norm", norm}};
  for (const auto& op : kOps) {
    if (torch.impl(library, op.name, op.function) != 0) return 1;
  }
  return 0;  // the library object lives as long as the process
}
