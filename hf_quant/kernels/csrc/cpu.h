// What the processor at hand can do.

#pragma once

#include "abi.h"

namespace hf_quant {

// Whether kernels for `isa` were compiled in and this processor, with its operating system, runs them.
bool isa_runs(Isa isa);

}  // namespace hf_quant
