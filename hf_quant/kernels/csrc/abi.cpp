// Version of the C interface between this library and hf_quant/kernels/native.py.
// The Python side refuses a library whose version is not its own, as after an upgrade that left an old file behind.

#include <cstdint>

#if defined(_WIN32)
#define HF_QUANT_API extern "C" __declspec(dllexport)
#else
#define HF_QUANT_API extern "C" __attribute__((visibility("default")))
#endif

HF_QUANT_API std::int32_t hf_quant_abi_version() { return 1; }
