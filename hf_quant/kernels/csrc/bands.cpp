#include "bands.h"

#include <numeric>

#include "libtorch.h"

namespace hf_quant {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 46;  // of anything
constexpr std::int64_t kBandBytes = 256 << 10;         // of the image of a band, about
constexpr std::int64_t kBandRows = 504;                // of patches of a band, about
constexpr std::int64_t kWindowBytes = 128 << 10;       // of the windows of a band, about
constexpr std::int64_t kBeyond = 1024;                 // bytes that kernels may read past what they need

// Pixels along a dimension that `outputs` are made from.
std::int64_t reach(const Convolution& c, int i, std::int64_t outputs) {
  return (outputs - 1) * c.stride[i] + (c.kernel[i] - 1) * c.dilation[i] + 1;
}

}  // namespace

std::int64_t product(std::initializer_list<std::int64_t> numbers) {
  std::int64_t result = 1;
  for (const std::int64_t number : numbers) {
    require(number == 0 || result <= kMost / number, "a convolution is too large");
    result *= number;
  }
  return result;
}

void set_bands(Convolution* c) {
  Input& in = c->step.input;
  c->codes = in.mode == kStatic && in.rotation == 0;
  if (in.rotation != 0 && c->width % in.rotation == 0) {
    c->rotation = in.rotation;
    in.rotation = 0;
  }
  bool padded = false;
  for (int i = 0; i < 3; ++i) padded = padded || c->padded[i] != c->in[i];
  c->staged = c->codes || c->rotation || padded || in.dtype != kFloat32 || !c->channels_last;
  const int axis = c->axis = c->padded[0] == 1 ? 1 : 0;
  for (int i = 0; i < 3; ++i) c->extent[i] = c->padded[i];
  c->extent[axis] = 1;
  const std::int64_t size = c->codes ? 1 : 4, channels = product({size, c->width, c->groups});
  const std::int64_t bytes = product({channels, c->extent[0], c->extent[1], c->extent[2]});  // of one place on the axis
  const std::int64_t whole = product({bytes, c->padded[axis]});
  const std::int64_t rows = product({c->out[0], c->out[1], c->out[2]}), each = rows / c->out[axis];
  // As much as fits, but so much that little is copied twice; as even as can be.
  const std::int64_t overlap = reach(*c, axis, 1) - c->stride[axis], stride = c->stride[axis];
  const std::int64_t least = overlap > 0 ? (2 * overlap + stride - 1) / stride : 1;
  const std::int64_t fitting = (kBandBytes / bytes - overlap) / stride, wanted = (kBandRows + each - 1) / each;
  std::int64_t most = fitting < wanted ? fitting : wanted;
  most = most > least ? most : least;
  const std::int64_t bands = (c->out[axis] + most - 1) / most;
  c->length = (c->out[axis] + bands - 1) / bands;
  c->items = 1;
  if (bands == 1) {
    while (c->items < c->batch && (c->items + 1) * rows <= kBandRows && (c->items + 1) * whole <= kBandBytes) ++c->items;
  }
  c->extent[axis] = c->staged ? reach(*c, axis, c->length) : c->in[axis];
  c->step_bytes[2] = size * c->width * (c->staged ? 1 : c->groups);
  c->step_bytes[1] = c->step_bytes[2] * c->extent[2];
  c->step_bytes[0] = c->step_bytes[1] * c->extent[1];
  c->group_bytes = c->staged ? product({c->step_bytes[0], c->extent[0]}) : size * c->width;
  c->item_bytes = product({bytes, c->extent[axis]});
}

void set_windows(GroupedConvolution* g) {
  Convolution& c = g->shape;
  g->quads = (c.kernel[2] + 3) / 4;
  g->words = product({c.width, c.kernel[0], c.kernel[1], g->quads});
  // Where outputs lie in one row, windows of the next quad are those four places on.
  const bool shared = c.out[1] == 1 && c.stride[2] == 1 && c.dilation[2] == 1;
  g->planes = shared ? 1 : g->quads;
  g->pitch = c.out[2] + (shared ? 4 * (g->quads - 1) : 0);
  std::int64_t kinds[2];
  for (int i = 0; i < 2; ++i) {
    if (c.out[i] == 1) c.stride[i] = 1;
    kinds[i] = c.stride[i] / std::gcd(c.stride[i], c.dilation[i]);
    kinds[i] = kinds[i] < c.kernel[i] ? kinds[i] : c.kernel[i];
  }
  const auto beyond = [&](int i) { return (c.kernel[i] - 1) * c.dilation[i] / c.stride[i]; };
  g->slot_rows[0] = c.out[0] + beyond(0);
  g->slots[0] = product({g->slot_rows[0], kinds[0]});
  const std::int64_t each = product({c.width, g->planes, g->slots[0], kinds[1], g->pitch, 4});  // bytes of a row
  const std::int64_t fitting = kWindowBytes / each - beyond(1), least = 2 * beyond(1) + 1;
  g->length = fitting > least ? fitting : least;
  g->length = g->length < c.out[1] ? g->length : c.out[1];
  g->slot_rows[1] = g->length + beyond(1);
  g->slots[1] = product({g->slot_rows[1], kinds[1]});
  g->window_bytes = product({each, g->slot_rows[1]}) + kBeyond;
  const std::int64_t last = (4 * g->quads - 1) * c.dilation[2] + (g->pitch + 15) * c.stride[2];
  g->row_bytes = (c.padded[2] > last ? c.padded[2] : last) + 64;
  g->deep = reach(c, 0, c.out[0]);
  g->high = reach(c, 1, g->length);
  product({g->deep, g->high, g->row_bytes});
}

}  // namespace hf_quant
