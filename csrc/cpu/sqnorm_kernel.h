// Sum of squares of one contiguous run of elements, on one thread. Torch-free.
#pragma once

#include "../plan.h"

namespace layerselect {

// Sum of x*x over `length` elements at `data` (any alignment). Non-finite exactly if an element is not
// finite (float64 squares may overflow). The order of summation depends on `length` alone, so the bits do
// not depend on threads, addresses or the instruction set that the processor offers.
double sqnorm_run(const void* data, std::int64_t length, DType dtype);

// "avx2" or "baseline": which code path sqnorm_run takes on this processor.
const char* sqnorm_instruction_set();

}  // namespace layerselect
