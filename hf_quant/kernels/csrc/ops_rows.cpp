// Ops on rows that are no product: looking up an embedding, normalising.

#include <cstring>

#include "abi.h"
#include "specs.h"
#include "tensors.h"
#include "torch_ops.h"

namespace hf_quant {

// (indices, blocks, spec, like, channels) -> rows of a packed weight, in the dtype of `like`
void embedding(Value* stack, std::uint64_t, std::uint64_t) {
  const Owned<4> owned(stack);
  const Tensor indices(stack[0]), blocks(stack[1]), spec_tensor(stack[2]), like(stack[3]);
  const ProgramSpec spec = spec_of(spec_tensor);
  const StepSpec& part = spec.steps[0];
  const WeightSpec& weight = part.weights[0];
  require(static_cast<std::int64_t>(stack[4]) == part.width, "the spec has another width");
  require_blocks(part, weight, blocks);
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

}  // namespace hf_quant
