// The second part of a selection, by one block: a rule is applied to the scores.
//
// The mathematics is that of ../select.h: each thread owns a layer or a cut, and minima do not depend on order. So the
// mask is the CPU's. Memory moved: none but the block's shared memory, and 1 byte for each layer of a fixed selection.
#pragma once

#include <math_constants.h>

#include <cstdint>

#include "../select.h"
#include "select_scratch.cuh"
#include "step.h"

namespace layerselect::cuda {

// What a rule says: the layers from a rank on, or each layer for itself.
struct Decision {
  int first_rank;
  float threshold;
};

__device__ __forceinline__ Decision variance_split(const Rule& rule, const Scratch& scratch, int measured) {
  __shared__ double least_costs[kWarps];
  __shared__ int lowest_cuts[kWarps];
  Decision decision = {0, CUDART_NAN_F};
  for (int split = 0; split < rule.splits && measured > 0; ++split) {
    const float* const sorted = scratch.sorted + decision.first_rank;
    const int count = measured - decision.first_rank;
    if (count == 1) {  // nothing to cut: this layer is selected
      decision.threshold = sorted[0];
      break;
    }
    const CutRange cuts = cut_window(count, rule.window_lo, rule.window_hi);
    const int mine = cuts.first + static_cast<int>(threadIdx.x);
    double least = CUDART_INF;
    for (int k = mine; k <= cuts.last; k += kThreads) {
      const double cost = cut_cost(sorted, count, k);
      scratch.wide[k] = cost;  // read again by this thread only
      least = min(least, cost);
    }
    least = block_min(least, least_costs);
    int lowest = count;
    for (int k = mine; k <= cuts.last && lowest == count; k += kThreads) {
      if (is_least(scratch.wide[k], least)) {
        lowest = k;
      }
    }
    lowest = block_min(lowest, lowest_cuts);
    decision.threshold = sorted[lowest - 1];
    decision.first_rank += rule.inclusive != 0 ? lowest - 1 : lowest;
  }
  return decision;
}

// Applies the rule to scratch.scores and scratch.status. With a rule that ranks, scratch.rank is filled.
__device__ __forceinline__ Decision decide(const Rule& rule, const Scratch& scratch, int num_layers) {
  __shared__ int ranked;
  __shared__ int measured;
  if (rule.kind == RuleKind::kThreshold) {
    return {0, rule.gamma};
  }
  if (rule.kind != RuleKind::kVariance && rule.kind != RuleKind::kTop) {
    return {0, CUDART_NAN_F};
  }
  if (threadIdx.x == 0) {
    ranked = 0;
    measured = 0;
  }
  __syncthreads();  // and every layer's score is in
  for (int layer = static_cast<int>(threadIdx.x); layer < num_layers; layer += kThreads) {
    const int rank = rank_of(scratch.scores, scratch.status, num_layers, layer);
    scratch.rank[layer] = rank;
    if (rank >= 0) {
      atomicAdd(&ranked, 1);
      if (scratch.status[layer] == kMeasured) {
        scratch.sorted[rank] = scratch.scores[layer];
        atomicAdd(&measured, 1);
      }
    }
  }
  __syncthreads();
  if (rule.kind == RuleKind::kVariance) {
    return variance_split(rule, scratch, measured);
  }
  const int first = ranked - min(rule.k, ranked);
  return {first, first < measured ? scratch.sorted[first] : CUDART_NAN_F};
}

__device__ __forceinline__ bool chosen(const Rule& rule, const Decision& decision, const Scratch& scratch, int layer) {
  const std::uint8_t status = scratch.status[layer];
  switch (rule.kind) {
    case RuleKind::kVariance:
    case RuleKind::kTop:
      return status != kExcluded && scratch.rank[layer] >= decision.first_rank;
    case RuleKind::kThreshold:
      return status == kNeverMeasured || (status == kMeasured && scratch.scores[layer] >= rule.gamma);
    // These choose without scores. What is not finite is left out step by step, also where a choice stands for several.
    case RuleKind::kFixed:
      return rule.fixed[layer] != 0;
    case RuleKind::kAll:
      break;
  }
  return true;
}

}  // namespace layerselect::cuda
