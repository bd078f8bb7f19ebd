// Attention.

#include <cstring>

#include "abi.h"
#include "specs.h"
#include "tensors.h"
#include "torch_ops.h"

namespace hf_quant {
namespace {

// Strides of the first three of four dimensions, the last of which has to be contiguous.
void set_strides(const Tensor& tensor, std::int64_t* strides) {
  require(tensor.stride[3] == 1 || tensor.size[3] == 1, "the last dimension of an input of attention is not contiguous");
  for (int i = 0; i < 3; ++i) strides[i] = tensor.stride[i];
}

}  // namespace

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

}  // namespace hf_quant
