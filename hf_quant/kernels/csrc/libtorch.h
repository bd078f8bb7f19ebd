// The stable C interface of libtorch (aoti_torch_*), whose functions are looked up at run time: no headers, one library
// for every torch version.

#pragma once

#include <cstdint>

namespace hf_quant {

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

extern Torch torch;

// Fill `torch` from the libtorch_cpu at `path`, which is loaded already; false where it lacks a function.
bool find_torch(const char* path);

// Throw what Python sees as a RuntimeError unless `holds`.
void require(bool holds, const char* what);

// Throw where libtorch returned an error.
void call(std::int32_t error);

}  // namespace hf_quant
