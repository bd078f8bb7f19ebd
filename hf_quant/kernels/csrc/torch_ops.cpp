// Registration of the ops with torch's dispatcher. A call from Python, or from a compiled graph, so costs about a
// microsecond.

#include "torch_ops.h"

#include <stdexcept>

#include "abi.h"

namespace hf_quant {

void check(std::int32_t status) {
  require(status != 1, "out of memory");
  if (status == 3) throw std::out_of_range("index out of range: an embedding has fewer rows");
  require(status == 0, "a native kernel failed");
}

}  // namespace hf_quant

std::int32_t hf_quant_register_ops(const char* path) {
  using namespace hf_quant;
  if (!find_torch(path)) return 1;
  Handle library = nullptr;
  if (torch.init_impl("hf_quant", "CPU", __FILE__, __LINE__, &library) != 0) return 1;
  const struct {
    const char* name;
    Op* function;
  } kOps[] = {{"native_linear", linear},       {"native_linears", linears}, {"native_block", block},
              {"native_embedding", embedding}, {"native_norm", norm},       {"native_attention", attention},
              {"native_experts", experts},     {"native_recurrent", recurrent},
              {"native_convolution", convolution},
              {"native_grouped_convolution", grouped_convolution}};
  for (const auto& op : kOps) {
    if (torch.impl(library, op.name, op.function) != 0) return 1;
  }
  return 0;  // the library object lives as long as the process
}
