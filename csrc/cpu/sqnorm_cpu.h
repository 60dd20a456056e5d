// Sums of squares per segment on the CPU.
#pragma once

#include <vector>

#include "../plan.h"

namespace layerselect {

// out[s] = sum of squares of segment s of the plan, for plan.num_segments() segments; a segment without elements
// gets 0. Work items run on torch's intra-op threads and leave one float64 each, which are then added in item
// order: the same bits with any number of threads.
void segment_sqnorm_cpu(const Plan& plan, const std::vector<TensorView>& tensors, double* out);

}  // namespace layerselect
