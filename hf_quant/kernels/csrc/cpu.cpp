#include "cpu.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace hf_quant {

#if defined(__x86_64__)
namespace {

struct X86 {
  bool avx2 = false, avx2_vnni = false, avx512_vnni = false;

  X86() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return;
    const bool fma = c & (1u << 12), f16c = c & (1u << 29), osxsave = c & (1u << 27);
    if (!osxsave) return;
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    const bool saves_ymm = (low & 0x6) == 0x6, saves_zmm = (low & 0xe6) == 0xe6;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    const unsigned b7 = b, c7 = c, leaves = a;
    avx2 = saves_ymm && fma && f16c && (b7 & (1u << 5));
    // F, DQ, BW, VL and, in ecx, VNNI.
    const unsigned wanted = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);
    avx512_vnni = avx2 && saves_zmm && (b7 & wanted) == wanted && (c7 & (1u << 11));
    if (leaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) avx2_vnni = avx2 && (a & (1u << 4));
  }
};

}  // namespace

bool isa_runs(Isa isa) {
  static const X86 cpu;
  switch (isa) {
    case kPortable: return true;
    case kAvx2: return cpu.avx2;
    case kAvx2Vnni: return cpu.avx2_vnni;
    case kAvx512Vnni: return cpu.avx512_vnni;
    default: return false;
  }
}

#elif defined(__aarch64__) && defined(__linux__)

bool isa_runs(Isa isa) {
  // Bits of AT_HWCAP and AT_HWCAP2, by the names that Linux gives them.
  constexpr unsigned long kAsimdDp = 1ul << 20, kI8mm = 1ul << 13;
  switch (isa) {
    case kPortable: return true;
    case kNeonDot: return (getauxval(AT_HWCAP) & kAsimdDp) != 0;
    case kNeonI8mm: return (getauxval(AT_HWCAP) & kAsimdDp) != 0 && (getauxval(AT_HWCAP2) & kI8mm) != 0;
    default: return false;
  }
}

#else

bool isa_runs(Isa isa) { return isa == kPortable; }

#endif

}  // namespace hf_quant
