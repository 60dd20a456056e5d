// The selection alone: closes a step whose norms were launched layer by layer from the backward pass.
//
// Bytes moved, order of summation: see select_block.cuh. Launches: one, of one block. It must be ordered after every
// launch that wrote partial sums (by the stream or by events).
#include <cuda_runtime.h>

#include "select_block.cuh"
#include "step.h"

namespace layerselect::cuda {
extern __shared__ __align__(16) unsigned char select_memory[];
}

extern "C" __global__ void __launch_bounds__(layerselect::cuda::kThreads, 1)
    layerselect_select(const __grid_constant__ layerselect::cuda::SelectArgs args) {
  layerselect::cuda::select_block(args, layerselect::cuda::select_memory);
}

extern "C" int layerselect_cuda_select(const layerselect::cuda::SelectArgs* select, cudaStream_t stream) {
  using namespace layerselect::cuda;
  SelectArgs args = *select;
  void* values[] = {&args};
  return cudaLaunchKernel(reinterpret_cast<const void*>(&layerselect_select), dim3(1), dim3(kThreads), values,
                          select_bytes(args.num_layers), stream);
}
