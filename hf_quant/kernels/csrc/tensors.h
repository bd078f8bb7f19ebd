// Tensors as ops take and return them. Nothing of one is trusted: dtype, shape, strides and sizes are checked before a
// kernel sees a pointer.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "libtorch.h"

namespace hf_quant {

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
  explicit Tensor(Value value);
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  static constexpr int kMostDims = 16;

  bool contiguous() const;

  // One of the entries along the first dimension; of an empty tensor itself.
  Tensor row(std::int64_t index) const { return {*this, index}; }

  std::int64_t dims = 0, count = 0;
  std::int64_t size[kMostDims], stride[kMostDims];
  std::int32_t dtype = 0;
  void* data = nullptr;

 private:
  Tensor(const Tensor& whole, std::int64_t index);
};

// The Dtype that kernels know it by.
std::int32_t float_dtype(std::int32_t dtype);

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

// A new tensor, contiguous, or with its second dimension innermost.
Made make(const std::int64_t* sizes, std::int64_t dims, std::int32_t dtype, void** data, bool channels_last = false);

// One of the sizes of `like` but for the last, which is `last` (left as it is when negative), or comes after.
Made make(const Tensor& like, std::int64_t last, std::int32_t dtype, bool append, void** data);

struct RowsOf {
  std::int64_t rows, stride;
};

// How a tensor lies in memory as rows of its last dimension.
RowsOf rows_of(const Tensor& tensor, std::int64_t width);

}  // namespace hf_quant
