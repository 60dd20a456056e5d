// A selection, made by one block: from partial sums to the mask and everything else in SelectArgs.
//
// Order of summation: 2 lanes take every second partial of a tensor in turn (8 lanes every 8th, if the tensors have
// more than 8 items on average), in float64, and are added as a tree; a layer's tensors are added in the order of its
// parameters. Scores are computed in float64 and rounded once. The rule is the mathematics of ../select.h, in which
// each thread owns a layer or a cut; minima do not depend on order. So the bits do not depend on the grid, and the mask
// is the CPU's.
//
// Memory moved, for P tensors of I items and L layers: 8 I + 24 P bytes of sums and indices, about 56 L of state, and
// with a budget up to 40 L of costs.
#pragma once

#include <math_constants.h>

#include <cstdint>

#include "../select.h"
#include "norm_item.cuh"
#include "select_budget.cuh"
#include "select_scratch.cuh"
#include "step.h"

namespace layerselect::cuda {

__device__ __forceinline__ bool has(const GroupBits& bits, int group) {
  return (bits.words[group / 32] >> (group % 32) & 1U) != 0;
}

// tensor_sums from partials, kLanes neighbouring lanes for each tensor.
template <int kLanes>
__device__ __forceinline__ void reduce_tensors_by(const SelectArgs& args) {
  const int lane = static_cast<int>(threadIdx.x % kLanes);
  const int in_warp = static_cast<int>(threadIdx.x % 32) / kLanes;
  // The bound is that of the warp's first tensor: all lanes of a warp meet in the shuffles.
  for (int start = static_cast<int>(threadIdx.x / 32) * (32 / kLanes); start < args.num_reduced;
       start += kThreads / kLanes) {
    const int tensor = start + in_warp;
    double sum = 0.0;
    if (tensor < args.num_reduced) {
      const int end = args.item_begin[tensor + 1];
#pragma unroll 4
      for (int item = args.item_begin[tensor] + lane; item < end; item += kLanes) {
        sum = __dadd_rn(sum, __ldcg(args.partials + item));
      }
    }
    sum = lanes_sum<kLanes>(sum);
    if (lane == 0 && tensor < args.num_reduced) {
      args.tensor_sums[tensor] = sum;
    }
  }
}

// Few items each (adapters): two lanes for a tensor, so that one round takes many tensors. Many items: eight.
__device__ __forceinline__ void reduce_tensors(const SelectArgs& args) {
  if (args.num_reduced == 0) {
    return;
  }
  if (args.item_begin[args.num_reduced] <= 8 * args.num_reduced) {
    reduce_tensors_by<2>(args);
  } else {
    reduce_tensors_by<8>(args);
  }
}

// Sums of the groups into scratch.wide and args.group_sums, raw scores of the layers into scratch.scores, and into
// scratch.status whether a layer has a gradient.
__device__ __forceinline__ void sum_groups(const SelectArgs& args, const Scratch& scratch) {
  for (int group = static_cast<int>(threadIdx.x); group <= args.num_layers; group += kThreads) {
    const bool late = has(args.late, group);
    const float* const inv_scale = late ? args.late_inv_scale : args.inv_scale;
    const double scale = inv_scale == nullptr ? 1.0 : static_cast<double>(*inv_scale);
    const double scale_squared = __dmul_rn(scale, scale);
    double sum = 0.0;
    double roots = 0.0;
    bool present = false;
    if (has(args.present, group)) {
      const int end = args.group_begin[group + 1];
      for (int i = args.group_begin[group]; i < end; ++i) {
        const double of_tensor = args.tensor_sums[args.group_tensors[i]];
        if (of_tensor < 0.0) {
          continue;
        }
        present = true;
        const double square = __dmul_rn(of_tensor, scale_squared);
        sum = __dadd_rn(sum, square);
        if (args.form == Form::kSqrtSum) {
          roots = __dadd_rn(roots, __dsqrt_rn(__dsqrt_rn(square)));
        }
      }
    }
    scratch.wide[group] = sum;
    args.group_sums[group] = sum;
    if (group < args.num_layers) {
      scratch.status[group] = present && !(late && sum == 0.0) ? 1 : 0;
      if (args.form == Form::kSqrtSum) {
        sum = roots;
      } else if (args.form == Form::kRms) {
        sum = __ddiv_rn(sum, args.numels[group]);
      }
      scratch.scores[group] = __double2float_rn(__dsqrt_rn(sum));
    }
  }
}

// Takes in the raw scores: status, held scores, counters of what is not finite. An active layer without a gradient
// keeps its score; where it has none it is excluded, since it cannot train in this step. Returns which of the thread's
// layers took gradients, a bit for each in turn.
__device__ __forceinline__ std::uint32_t update_scores(const SelectArgs& args, const Scratch& scratch) {
  std::uint32_t took_bits = 0;
  std::uint32_t turn = 1;
  for (int layer = static_cast<int>(threadIdx.x); layer < args.num_layers; layer += kThreads, turn <<= 1) {
    const bool active = has(args.active, layer);
    const bool took = active && scratch.status[layer] != 0;
    const float raw = scratch.scores[layer];
    float score = args.scores[layer];
    std::uint8_t status = kExcluded;
    if (took) {
      took_bits |= turn;
    }
    if (took && !isfinite(raw)) {
      args.nonfinite[layer] += 1;
    } else if (layer >= args.first_layer) {
      if (took) {
        score = raw;
        args.scores[layer] = raw;
      }
      status = isfinite(score) ? kMeasured : active ? kExcluded : kNeverMeasured;
    }
    args.status[layer] = status;
    scratch.scores[layer] = score;
    scratch.status[layer] = status;
  }
  return took_bits;
}

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

// The norm of all gradients, by the first warp: lanes take every 32nd group, then a tree. Known to all threads.
__device__ __forceinline__ double write_total_norm(const SelectArgs& args, const Scratch& scratch) {
  __shared__ double total;
  if (threadIdx.x < 32) {
    double sum = 0.0;
    for (int group = static_cast<int>(threadIdx.x); group <= args.num_layers; group += 32) {
      sum = __dadd_rn(sum, scratch.wide[group]);
    }
    sum = lanes_sum<32>(sum);
    if (threadIdx.x == 0) {
      total = __dsqrt_rn(sum);
      args.counters->total_norm = total;
    }
  }
  __syncthreads();
  return total;
}

// The same for all threads: a step is skipped as a whole.
__device__ __forceinline__ bool is_skipped(const SelectArgs& args, double total_norm) {
  return (args.skip_nonfinite != 0 && !isfinite(total_norm)) || (args.skip != nullptr && *args.skip != 0.0F);
}

// Called by all kThreads threads of one block, with select_bytes(L) bytes of dynamic shared memory.
__device__ __forceinline__ void select_block(const SelectArgs& args, unsigned char* memory) {
  const int num_layers = args.num_layers;
  const Scratch scratch(memory, num_layers);
  const std::int64_t step = args.counters->step;
  const float held_threshold = args.counters->threshold;

  reduce_tensors(args);
  if (args.form == Form::kNone) {
    return;
  }
  __syncthreads();
  sum_groups(args, scratch);
  __syncthreads();
  if (is_skipped(args, write_total_norm(args, scratch))) {
    return;
  }
  std::uint32_t took_bits = update_scores(args, scratch);

  // 32-bit remainders: 64-bit ones are calls. Nobody trains for four billion steps.
  const auto steps = static_cast<std::uint32_t>(step);
  const bool warming_up = steps < args.warmup;
  const bool decides = !warming_up && (steps - args.warmup) % args.interval == 0;
  Decision decision = {0, held_threshold};
  Budgeted budgeted = {0, -1, CUDART_NAN_F, CUDART_NAN_F};
  const bool has_budget = args.rule.costs != nullptr;
  if (decides) {
    decision = decide(args.rule, scratch, num_layers);
    if (has_budget) {
      budgeted = within_budget(args.rule, scratch, num_layers,
                               [&](int layer) { return chosen(args.rule, decision, scratch, layer); });
    }
  }
  const std::int64_t row = args.history_rows > 0 ? steps % static_cast<std::uint32_t>(args.history_rows) : 0;
  for (int layer = static_cast<int>(threadIdx.x); layer < num_layers; layer += kThreads, took_bits >>= 1) {
    const bool took = (took_bits & 1U) != 0;
    bool decided = warming_up;
    if (decides) {
      decided = has_budget ? fits_in(budgeted, scratch, layer) : chosen(args.rule, decision, scratch, layer);
    } else if (!warming_up) {
      decided = args.decided[layer] != 0;
    }
    const bool selected = decided && scratch.status[layer] != kExcluded;
    if (decides && selected) {
      args.frequency[layer] += 1;
      if (took) {
        args.frequency[num_layers + layer] += 1;
      }
    }
    args.decided[layer] = decided ? 1 : 0;
    args.mask[layer] = selected ? 1 : 0;
    const bool missing = has(args.active, layer) && !took;
    const bool open = decided || missing || scratch.status[layer] != kMeasured;
    args.wanted[layer] = layer >= args.first_layer && open ? 1 : 0;
    args.gate[layer] = selected ? 0.0F : 1.0F;
    if (args.history_rows > 0) {
      args.history_scores[row * num_layers + layer] = scratch.scores[layer];
      args.history_mask[row * num_layers + layer] = selected ? 1 : 0;
      args.history_trained[row * num_layers + layer] = took ? 1 : 0;
    }
  }
  if (threadIdx.x == 0) {  // barriers ago, every thread has read the counters
    args.gate[num_layers] = 0.0F;
    args.counters->threshold = decision.threshold;
    if (decides) {
      args.counters->kept_share = budgeted.kept_share;
      args.counters->step_cost = budgeted.cost;
    }
    args.counters->step = step + 1;
    if (args.history_rows > 0) {
      args.history_step[row] = step;
      args.history_threshold[row] = decision.threshold;
    }
  }
}

}  // namespace layerselect::cuda
