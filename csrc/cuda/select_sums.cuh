// The first part of a selection, by one block: from partial sums to the sums of the groups, the layers' raw scores and
// the norm of all gradients.
//
// Order of summation: 2 lanes take every second partial of a tensor in turn (8 lanes every 8th, if the tensors have
// more than 8 items on average), in float64, and are added as a tree; a layer's tensors are added in the order of its
// parameters. Scores are computed in float64 and rounded once. So the bits do not depend on the grid.
//
// Memory moved, for P tensors of I items: 8 I + 24 P bytes of sums and indices.
#pragma once

#include <cstdint>

#include "norm_item.cuh"
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

}  // namespace layerselect::cuda
