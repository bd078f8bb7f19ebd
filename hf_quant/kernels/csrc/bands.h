// How a convolution is cut into bands, each of which a thread copies and multiplies while it is in its cache.

#pragma once

#include <cstdint>
#include <initializer_list>

#include "abi.h"

namespace hf_quant {

// The product of numbers that are not negative; throws where there is no memory for so many of anything.
std::int64_t product(std::initializer_list<std::int64_t> numbers);

// Fill in whether bands are copied, how large they are and how their image lies in memory, once all else is known.
void set_bands(Convolution* convolution);

// The same for the windows of a convolution in groups.
void set_windows(GroupedConvolution* convolution);

}  // namespace hf_quant
