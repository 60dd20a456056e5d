// The kernels of norms.cu. Names without mangling, so that profilers and the tests find them.
#pragma once

#include <cstdint>

#include "norm_item.cuh"
#include "select_block.cuh"
#include "step.h"

namespace layerselect::cuda {

// All units of this block, one partial for each item.
template <int kTable>
__device__ __forceinline__ void sum_units(const NormArgs& args, const DataPointers<kTable>& pointers) {
  __shared__ double warp_sums[2][kWarps];
  const std::uint32_t lane = threadIdx.x % 32;
  const std::uint32_t warp = threadIdx.x / 32;
  std::uint32_t turn = 0;
  for (std::uint32_t u = args.first_unit + blockIdx.x; u < args.last_unit; u += gridDim.x) {
    const Unit unit = args.units[u];
    const bool by_block = unit.count == 0;
    const std::uint32_t index = by_block ? unit.item : unit.item + warp;
    const bool works = by_block || warp < unit.count;
    double sum = 0.0;
    if (works) {
      const Item item = args.items[index];
      const void* const tensor = pointers.data[(item.tensor_and_type & kTensorMask) - args.first_tensor];
      sum = item_sum(item, tensor, by_block ? threadIdx.x : lane, by_block ? kThreads : 32);
    }
    sum = lanes_sum<32>(sum);
    if (by_block) {
      // Two sets of slots, in turn: while the first thread adds one, the next item's warps may fill the other.
      double(&slots)[kWarps] = warp_sums[turn % 2];
      ++turn;
      if (lane == 0) {
        slots[warp] = sum;
      }
      __syncthreads();
      if (threadIdx.x == 0) {
        sum = slots[0];
#pragma unroll
        for (int w = 1; w < kWarps; ++w) {
          sum = __dadd_rn(sum, slots[w]);
        }
        args.partials[index] = sum;
      }
    } else if (works && lane == 0) {
      args.partials[index] = sum;
    }
  }
}

// True in all threads of the block that finishes last. Its ticket resets itself, so the next launch starts at 0.
__device__ __forceinline__ bool is_last_block(std::uint32_t* tickets) {
  __shared__ bool last;
  __threadfence();  // this thread's partials are visible before its block's ticket is
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicInc(tickets, gridDim.x - 1) == gridDim.x - 1;
    __threadfence();  // and the other blocks' partials before this block reads them
  }
  __syncthreads();
  return last;
}

extern __shared__ __align__(16) unsigned char select_memory[];

}  // namespace layerselect::cuda

#define LS_NORM_KERNELS(name, table)                                                                                   \
  extern "C" __global__ void __launch_bounds__(layerselect::cuda::kThreads, layerselect::cuda::kBlocksPerProcessor)    \
      layerselect_norms_##name(const __grid_constant__ layerselect::cuda::NormArgs args,                               \
                               const __grid_constant__ layerselect::cuda::DataPointers<table> pointers) {              \
    layerselect::cuda::sum_units(args, pointers);                                                                      \
  }                                                                                                                    \
  extern "C" __global__ void __launch_bounds__(layerselect::cuda::kThreads, layerselect::cuda::kBlocksPerProcessor)    \
      layerselect_norms_select_##name(const __grid_constant__ layerselect::cuda::NormArgs args,                        \
                                      const __grid_constant__ layerselect::cuda::DataPointers<table> pointers,         \
                                      const __grid_constant__ layerselect::cuda::SelectArgs select) {                  \
    layerselect::cuda::sum_units(args, pointers);                                                                      \
    if (layerselect::cuda::is_last_block(&select.counters->tickets)) {                                                 \
      layerselect::cuda::select_block(select, layerselect::cuda::select_memory);                                       \
    }                                                                                                                  \
  }                                                                                                                    \
  static_assert(sizeof(layerselect::cuda::NormArgs) + sizeof(layerselect::cuda::DataPointers<table>) +                 \
                        sizeof(layerselect::cuda::SelectArgs) <=                                                       \
                    ((table) == layerselect::cuda::kSmallTable ? 4096 : 32764),                                        \
                "the arguments of a launch have outgrown their limit: make the table shorter");                        \
  namespace layerselect::cuda {                                                                                        \
  template <>                                                                                                          \
  inline const void* norms_kernel<table>() {                                                                           \
    return reinterpret_cast<const void*>(&layerselect_norms_##name);                                                   \
  }                                                                                                                    \
  template <>                                                                                                          \
  inline const void* norms_and_select_kernel<table>() {                                                                \
    return reinterpret_cast<const void*>(&layerselect_norms_select_##name);                                            \
  }                                                                                                                    \
  }

namespace layerselect::cuda {
template <int kTable>
const void* norms_kernel();
template <int kTable>
const void* norms_and_select_kernel();
}  // namespace layerselect::cuda

LS_NORM_KERNELS(small, layerselect::cuda::kSmallTable)
#if CUDART_VERSION >= 13000
LS_NORM_KERNELS(large, layerselect::cuda::kLargeTable)
#endif
