// Sums of squares of gradients, item by item, and the selection behind them.
//
// Bytes moved: every element of the range once (numel x element size), 16 for each item, 8 for each unit, 8 for each
// partial.
// Launches: one for each kSmallTable tensors (kLargeTable with CUDA 13); the selection, if one is asked for, is made by
// the last block of the last launch and costs no launch of its own.
// Order of summation: inside an item that of norm_item.cuh, then a tree over the lanes of a warp, then the warps of the
// block in order; one float64 for each item, and from there on that of select_block.cuh. No floating-point atomics.
//
// The grid is persistent: as many blocks as the device holds at once (fewer for little work), and block b takes the
// units b, b + grid, b + 2 grid, ... Whoever takes an item, its partial is the same.
#include "norms.cuh"

#include <cuda_runtime.h>

#include <algorithm>

namespace layerselect::cuda {
namespace {

// A launch of a range of units that reads the tensors [first_tensor, first_tensor + tensors).
struct Batch {
  std::uint32_t first_unit;
  std::uint32_t last_unit;
  std::uint32_t first_tensor;
  std::uint32_t tensors;
};

// The longest batch from first_unit on that fits a table. A block of small items reads at most kWarps tensors, so
// there is always room for one unit.
Batch next_batch(const NormLaunch& norms, std::uint32_t first_unit, std::uint32_t table) {
  Batch batch = {first_unit, first_unit, first_unit < norms.last_unit ? norms.unit_tensors[2 * first_unit] : 0, 0};
  while (batch.last_unit < norms.last_unit) {
    const std::uint32_t tensors = norms.unit_tensors[2 * batch.last_unit + 1] + 1 - batch.first_tensor;
    if (tensors > table) {
      break;
    }
    batch.tensors = tensors;
    ++batch.last_unit;
  }
  return batch;
}

template <int kTable>
cudaError_t launch_batch(const NormLaunch& norms, const Batch& batch, const SelectArgs* select, cudaStream_t stream) {
  NormArgs args = {norms.items, norms.units, norms.partials, batch.first_unit, batch.last_unit, batch.first_tensor};
  DataPointers<kTable> pointers;
  std::copy_n(norms.data + batch.first_tensor, batch.tensors, pointers.data);
  std::fill(pointers.data + batch.tensors, pointers.data + kTable, nullptr);
  const std::uint32_t units = batch.last_unit - batch.first_unit;
  const dim3 grid(std::max(1U, std::min(units, static_cast<std::uint32_t>(std::max(norms.max_blocks, 1)))));
  if (select != nullptr) {
    SelectArgs select_args = *select;
    void* values[] = {&args, &pointers, &select_args};
    return cudaLaunchKernel(norms_and_select_kernel<kTable>(), grid, dim3(kThreads), values,
                            select_bytes(select->num_layers), stream);
  }
  void* values[] = {&args, &pointers};
  return cudaLaunchKernel(norms_kernel<kTable>(), grid, dim3(kThreads), values, 0, stream);
}

cudaError_t launch(const NormLaunch& norms, const Batch& batch, const SelectArgs* select, cudaStream_t stream) {
#if CUDART_VERSION >= 13000
  if (batch.tensors > static_cast<std::uint32_t>(kSmallTable)) {
    return launch_batch<kLargeTable>(norms, batch, select, stream);
  }
#endif
  return launch_batch<kSmallTable>(norms, batch, select, stream);
}

}  // namespace
}  // namespace layerselect::cuda

extern "C" int layerselect_cuda_norms(const layerselect::cuda::NormLaunch* norms,
                                      const layerselect::cuda::SelectArgs* select, cudaStream_t stream,
                                      std::int32_t* launches) {
  using namespace layerselect::cuda;
  const std::uint32_t table =
      norms->allow_large_table != 0 && CUDART_VERSION >= 13000 ? kLargeTable : kSmallTable;
  std::int32_t count = 0;
  std::uint32_t next = norms->first_unit;
  cudaError_t error = cudaSuccess;
  do {
    const Batch batch = next_batch(*norms, next, table);
    next = batch.last_unit;
    const bool last = next >= norms->last_unit;
    if (batch.last_unit > batch.first_unit || (last && select != nullptr)) {
      error = launch(*norms, batch, last ? select : nullptr, stream);
      ++count;
    }
    if (last) {
      break;
    }
  } while (error == cudaSuccess);
  if (launches != nullptr) {
    *launches = count;
  }
  return error;
}

extern "C" int layerselect_cuda_max_blocks(std::int32_t num_layers, std::int32_t* blocks) {
  using namespace layerselect::cuda;
  int device = 0;
  int processors = 0;
  int per_processor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, norms_and_select_kernel<kSmallTable>(),
                                                          kThreads, select_bytes(num_layers));
  }
  *blocks = std::max(1, processors * per_processor);
  return error;
}

extern "C" const char* layerselect_cuda_error(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
