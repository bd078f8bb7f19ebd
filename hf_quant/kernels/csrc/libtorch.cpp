#include "libtorch.h"

#include <stdexcept>
#include <string>

#include <dlfcn.h>

namespace hf_quant {
namespace {

template <class Function>
bool find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

int one_thread() { return 1; }

}  // namespace

Torch torch;

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

void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(std::string("hf_quant: ") + what);
}

void call(std::int32_t error) { require(error == 0, "libtorch refused a call"); }

}  // namespace hf_quant
