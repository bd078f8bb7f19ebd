#include "abi.h"

#include <atomic>

#include "cpu.h"
#include "isa.h"
#include "pack.h"
#include "parallel.h"

namespace hf_quant {

namespace {

const Kernels* kernels_of(Isa isa) {
  if (!isa_runs(isa)) return nullptr;
  switch (isa) {
#if defined(HF_QUANT_X86)
    case kAvx2: return &kAvx2Kernels;
    case kAvx2Vnni: return &kAvx2VnniKernels;
    case kAvx512Vnni: return &kAvx512VnniKernels;
#elif defined(HF_QUANT_ARM)
    case kNeonDot: return &kNeonDotKernels;
    case kNeonI8mm: return &kNeonI8mmKernels;
#endif
    case kPortable: return &kPortableKernels;
    default: return nullptr;
  }
}

std::atomic<const Kernels*> chosen{nullptr};

const Kernels& kernels() { return *chosen.load(std::memory_order_relaxed); }

}  // namespace
}  // namespace hf_quant

using namespace hf_quant;

std::int32_t hf_quant_abi_version() { return kAbiVersion; }

std::int32_t hf_quant_isa_runs(std::int32_t isa) { return kernels_of(static_cast<Isa>(isa)) != nullptr; }

std::int32_t hf_quant_use_isa(std::int32_t isa) {
  const Kernels* found = kernels_of(static_cast<Isa>(isa));
  if (!found) return 1;
  chosen.store(found, std::memory_order_relaxed);
  return 0;
}

std::int32_t hf_quant_has_threads() { return has_threads(); }

std::int64_t hf_quant_packed_bytes(const Neutral* weight) { return packed_bytes(*weight); }

void hf_quant_pack(const Neutral* weight, std::uint8_t* blocks, std::int32_t threads) { pack(*weight, blocks, threads); }

void hf_quant_unpack(const Neutral* weight, const std::uint8_t* blocks, std::uint32_t* words, std::int32_t threads) {
  unpack(*weight, blocks, words, threads);
}

std::int32_t hf_quant_run(const Step* steps, std::int32_t count, std::int32_t threads) {
  return kernels().run(steps, count, threads);
}

std::int32_t hf_quant_quantize(const Quantize* request, std::int32_t threads) {
  return kernels().quantize(*request, threads);
}

std::int32_t hf_quant_embed(const Embedding* request, std::int32_t threads) {
  return kernels().embed(*request, threads);
}

std::int32_t hf_quant_normalize(const Input* input, std::int64_t rows, void* output, std::int64_t stride,
                                std::int32_t threads) {
  return kernels().normalize(*input, rows, output, stride, threads);
}

std::int32_t hf_quant_attend(const Attention* request, std::int32_t threads) {
  return kernels().attend(*request, threads);
}

std::int32_t hf_quant_convolve(const Convolution* request, std::int32_t threads) {
  return kernels().convolve(*request, threads);
}

std::int32_t hf_quant_convolve_groups(const GroupedConvolution* request, std::int32_t threads) {
  return kernels().convolve_groups(*request, threads);
}

std::int64_t hf_quant_read(const std::uint8_t* data, std::int64_t bytes, std::int32_t threads) {
  return kernels().read(data, bytes, threads);
}

std::int64_t hf_quant_dots(std::int64_t rounds, std::int32_t threads) {
  return kernels().dots(rounds, threads);
}
