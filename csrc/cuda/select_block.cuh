// A selection, made by one block: from partial sums to the mask and everything else in SelectArgs.
//
// select_sums.cuh makes scores of the partial sums, select_rule.cuh applies the rule, select_budget.cuh cuts its
// selection down to a budget. Here scores and status are taken in, and the decision is written down.
//
// Memory moved, for L layers: what these files say, and about 56 L bytes of state.
#pragma once

#include <math_constants.h>

#include <cstdint>

#include "select_budget.cuh"
#include "select_rule.cuh"
#include "select_scratch.cuh"
#include "select_sums.cuh"
#include "step.h"

namespace layerselect::cuda {

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
  // Every thread has read the counters at the beginning, and there were barriers since.
  if (threadIdx.x == 0) {
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
