// Squares of numbers turned about their diagonal, in registers of 16 bytes. Per instruction set.

namespace {

using Floats4 = float __attribute__((vector_size(16)));
using Bytes16 = std::uint8_t __attribute__((vector_size(16)));

#if defined(__clang__)
#define HFQ_SHUFFLE(type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define HFQ_SHUFFLE(type, a, b, ...) __builtin_shuffle(a, b, (type{__VA_ARGS__}))
#endif

using Order4 = std::int32_t __attribute__((vector_size(16)));

HFQ_INLINE Floats4 zip_low(Floats4 a, Floats4 b) { return HFQ_SHUFFLE(Order4, a, b, 0, 4, 1, 5); }
HFQ_INLINE Floats4 zip_high(Floats4 a, Floats4 b) { return HFQ_SHUFFLE(Order4, a, b, 2, 6, 3, 7); }
HFQ_INLINE Bytes16 zip_low(Bytes16 a, Bytes16 b) {
  return HFQ_SHUFFLE(Bytes16, a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
HFQ_INLINE Bytes16 zip_high(Bytes16 a, Bytes16 b) {
  return HFQ_SHUFFLE(Bytes16, a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// out(i)[j] = in[j][i], 16 by at least `rows`: straight to where row i goes, as what was just written in parts is slow to
// read whole.
template <class Out>
HFQ_INLINE void transpose(const float* in, int rows, Out out) {
  for (int j = 0; j < rows; j += 4) {
    for (int i = 0; i < 16; i += 4) {
      Floats4 r[4];
      for (int k = 0; k < 4; ++k) std::memcpy(&r[k], in + (j + k) * 16 + i, sizeof r[k]);
      const Floats4 a = zip_low(r[0], r[2]), b = zip_low(r[1], r[3]), c = zip_high(r[0], r[2]), d = zip_high(r[1], r[3]);
      const Floats4 turned[4] = {zip_low(a, b), zip_high(a, b), zip_low(c, d), zip_high(c, d)};
      for (int k = 0; k < 4; ++k) std::memcpy(out(i + k) + j, &turned[k], sizeof turned[k]);
    }
  }
}

template <class Out>
HFQ_INLINE void transpose(const std::int8_t* in, int, Out out) {
  Bytes16 r[16], turned[16];
  std::memcpy(r, in, sizeof r);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      turned[2 * i] = zip_low(r[i], r[i + 8]);
      turned[2 * i + 1] = zip_high(r[i], r[i + 8]);
    }
    std::memcpy(r, turned, sizeof r);
  }
  for (int i = 0; i < 16; ++i) std::memcpy(out(i), &r[i], sizeof r[i]);
}

}  // namespace
