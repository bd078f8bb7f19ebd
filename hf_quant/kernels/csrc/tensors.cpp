#include "tensors.h"

#include <cstdlib>
#include <mutex>

#include "abi.h"

namespace hf_quant {
namespace {

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

}  // namespace

Tensor::Tensor(Value value) {
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

Tensor::Tensor(const Tensor& whole, std::int64_t index) : dims(whole.dims), count(whole.count), dtype(whole.dtype) {
  data = whole.data;
  if (count == 0) return;
  require(dims == 2 && whole.contiguous() && index >= 0 && index < whole.size[0],
          "what all experts have is one row for each, contiguous");
  std::int64_t bytes = 1;
  if (dtype != torch.uint8()) bytes = float_dtype(dtype) == kFloat32 ? 4 : 2;
  dims = 1;
  count = size[0] = whole.size[1];
  stride[0] = 1;
  data = static_cast<std::uint8_t*>(data) + index * count * bytes;
}

bool Tensor::contiguous() const {
  if (count == 0) return true;
  std::int64_t expected = 1;
  for (std::int64_t i = dims - 1; i >= 0; --i) {
    if (size[i] != 1 && stride[i] != expected) return false;
    expected *= size[i];
  }
  return true;
}

std::int32_t float_dtype(std::int32_t dtype) {
  if (dtype == torch.float32()) return kFloat32;
  if (dtype == torch.bfloat16()) return kBfloat16;
  require(dtype == torch.float16(), "native ops take float32, bfloat16 and float16");
  return kFloat16;
}

Made make(const std::int64_t* sizes, std::int64_t dims, std::int32_t dtype, void** data, bool channels_last) {
  constexpr std::int64_t kLarge = 1 << 18;  // numbers
  std::int64_t strides[Tensor::kMostDims + 1], step = 1, count = 1;
  for (std::int64_t i = 0; i < dims; ++i) count *= sizes[i];
  if (count >= kLarge) keep_freed_blocks();
  if (channels_last) {
    strides[1] = step;
    step *= sizes[1] > 1 ? sizes[1] : 1;
  }
  for (std::int64_t i = dims - 1; i >= 0; --i) {
    if (channels_last && i == 1) continue;
    strides[i] = step;
    step *= sizes[i] > 1 ? sizes[i] : 1;
  }
  Handle made = nullptr;
  call(torch.empty(dims, sizes, strides, dtype, 0, -1, &made));
  Made owned(made);
  call(torch.data(made, data));
  return owned;
}

Made make(const Tensor& like, std::int64_t last, std::int32_t dtype, bool append, void** data) {
  std::int64_t sizes[Tensor::kMostDims + 1];
  const std::int64_t dims = like.dims + (append ? 1 : 0);
  for (std::int64_t i = 0; i < like.dims; ++i) sizes[i] = like.size[i];
  if (last >= 0) sizes[dims - 1] = last;
  return make(sizes, dims, dtype, data);
}

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

}  // namespace hf_quant
