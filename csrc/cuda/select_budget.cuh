// A rule's selection cut down to what fits a budget, by one block: within_budget_cpu of ../cpu/select_cpu.cpp, bit for
// bit.
//
// Each thread owns the layers that it would be the lowest trained of. Order of summation: from the top layer down to
// the owned one, over shared memory, which all threads read at the same place at the same time. Memory moved: 16 L
// bytes of costs by depth and 8 L of each layer's own, and 16 L more where none of the rule's layers fits.
#pragma once

#include <math_constants.h>

#include "../select.h"
#include "select_scratch.cuh"
#include "step.h"

namespace layerselect::cuda {

// A selection after the budget: the rule's layers from `from` up, or one layer alone, or none.
struct Budgeted {
  int from;
  int alone;  // -1: none
  float kept_share;
  float cost;
};

__device__ __forceinline__ bool fits_in(const Budgeted& budgeted, const Scratch& scratch, int layer) {
  return layer == budgeted.alone || (scratch.rank[layer] != 0 && layer >= budgeted.from);
}

// Adds up what is selected from `depth` up.
__device__ __forceinline__ Kept kept_from(const Scratch& scratch, int num_layers, int depth) {
  Kept kept = {0.0, 0.0};
  for (int layer = num_layers - 1; layer >= depth; --layer) {
    kept = with_layer(kept, scratch.sorted[layer], scratch.wide[layer]);
  }
  return kept;
}

// From here on scratch.rank says whether the rule chose a layer, scratch.sorted what each chosen layer is worth and
// scratch.wide what its own gradients cost. `chosen` is asked for a layer once, by its owner.
template <class Chosen>
__device__ __forceinline__ Budgeted within_budget(const Rule& rule, const Scratch& scratch, int num_layers,
                                                  const Chosen& chosen) {
  __shared__ float worths[kWarps];
  __shared__ int layers[kWarps];
  __shared__ double values[kWarps];
  __shared__ double total;
  __shared__ Kept kept;
  const int mine = static_cast<int>(threadIdx.x);
  const double* const train_costs = rule.costs + num_layers + 1;
  float highest = CUDART_INF_F;  // negated: the least of the negatives
  for (int layer = mine; layer < num_layers; layer += kThreads) {
    if (scratch.status[layer] == kMeasured) {
      highest = min(highest, -scratch.scores[layer]);
    }
  }
  highest = block_min(highest, worths);  // a barrier: everybody has read what is overwritten now
  highest = highest == CUDART_INF_F ? 1.0F : -highest;
  for (int layer = mine; layer < num_layers; layer += kThreads) {
    const bool is_chosen = scratch.status[layer] != kExcluded && chosen(layer);
    scratch.rank[layer] = is_chosen ? 1 : 0;
    scratch.sorted[layer] = !is_chosen ? 0.0F : scratch.status[layer] == kMeasured ? scratch.scores[layer] : highest;
    scratch.wide[layer] = is_chosen ? train_costs[layer] : 0.0;
  }
  __syncthreads();
  double greatest = 1.0;  // negated; positive where nothing fits
  for (int depth = mine; depth < num_layers; depth += kThreads) {
    if (scratch.rank[depth] != 0 || depth == 0) {
      const Kept from = kept_from(scratch, num_layers, depth);
      const double cost = step_cost(rule.costs[depth], from.train_cost);
      if (depth == 0) {
        total = from.worth;
      }
      if (scratch.rank[depth] != 0 && fits(cost, rule.budget)) {
        greatest = min(greatest, -(from.worth / cost));
      }
    }
  }
  greatest = -block_min(greatest, values);
  int depth_found = 1;  // negated; positive where there is none
  if (greatest >= 0.0) {
    for (int depth = mine; depth < num_layers; depth += kThreads) {
      if (scratch.rank[depth] != 0) {
        const Kept from = kept_from(scratch, num_layers, depth);
        const double cost = step_cost(rule.costs[depth], from.train_cost);
        if (fits(cost, rule.budget) && is_greatest(from.worth / cost, greatest)) {
          depth_found = -depth;
        }
      }
    }
    depth_found = -block_min(depth_found, layers);
    if (depth_found % kThreads == mine) {
      kept = kept_from(scratch, num_layers, depth_found);
    }
    __syncthreads();
    return {depth_found, -1, kept_share(kept.worth, total),
            static_cast<float>(step_cost(rule.costs[depth_found], kept.train_cost))};
  }
  // None of them fits: the best one that fits alone, if the rule chose any.
  float best = 1.0F;  // negated
  int any = 1;
  for (int layer = mine; layer < num_layers; layer += kThreads) {
    any = scratch.rank[layer] != 0 ? 0 : any;
    if (scratch.status[layer] != kExcluded && fits(step_cost(rule.costs[layer], train_costs[layer]), rule.budget)) {
      best = min(best, scratch.status[layer] == kMeasured ? -scratch.scores[layer] : -highest);
    }
  }
  any = block_min(any, layers);
  best = any == 0 ? -block_min(best, worths) : -1.0F;
  int alone = 1;
  for (int layer = mine; layer < num_layers; layer += kThreads) {
    const float worth = scratch.status[layer] == kMeasured ? scratch.scores[layer] : highest;
    if (best >= 0.0F && worth == best && scratch.status[layer] != kExcluded &&
        fits(step_cost(rule.costs[layer], train_costs[layer]), rule.budget)) {
      alone = -layer;
    }
  }
  alone = -block_min(alone, layers);
  if (alone < 0) {
    return {num_layers, -1, kept_share(0.0, total), static_cast<float>(rule.costs[num_layers])};
  }
  return {num_layers, alone, kept_share(scratch.sorted[alone], total),
          static_cast<float>(step_cost(rule.costs[alone], train_costs[alone]))};
}

}  // namespace layerselect::cuda
