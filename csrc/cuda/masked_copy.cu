// Keep and restore: copies pieces of memory whose layer the gate leaves alone.
//
// For optimizers that know no found_inf: what they may change in unselected layers is copied aside before their
// step and copied back after it, on the device, without the host knowing which layers these are.
//
// Bytes moved: twice the bytes of the gated pieces, 32 for each item. Launches: one to keep, one to restore.
// Blocks take items in turn. A piece whose ends share their address modulo 16 moves 16 bytes at a time, others byte by
// byte.
#include <cuda_runtime.h>

#include <algorithm>

#include "step.h"

namespace layerselect::cuda {

__device__ __forceinline__ void copy_bytes(const unsigned char* from, unsigned char* to, std::int64_t bytes) {
  const auto past_from = reinterpret_cast<std::uintptr_t>(from) % 16;
  const auto past_to = reinterpret_cast<std::uintptr_t>(to) % 16;
  std::int64_t head = bytes;  // byte by byte
  if (past_from == past_to) {
    head = min(static_cast<std::int64_t>((16 - past_from) % 16), bytes);
  }
  const std::int64_t vectors = (bytes - head) / 16;
  for (std::int64_t i = threadIdx.x; i < head; i += kThreads) {
    to[i] = from[i];
  }
  const auto* const from_vectors = reinterpret_cast<const uint4*>(from + head);
  auto* const to_vectors = reinterpret_cast<uint4*>(to + head);
  constexpr int kVectors = 4;  // loaded before the first is stored, which the compiler may not do by itself
  for (std::int64_t start = threadIdx.x; start < vectors; start += kVectors * kThreads) {
    uint4 moved[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t at = start + v * kThreads;
      moved[v] = at < vectors ? __ldg(from_vectors + at) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t at = start + v * kThreads;
      if (at < vectors) {
        to_vectors[at] = moved[v];
      }
    }
  }
  for (std::int64_t i = head + vectors * 16 + threadIdx.x; i < bytes; i += kThreads) {
    to[i] = from[i];
  }
}

}  // namespace layerselect::cuda

extern "C" __global__ void __launch_bounds__(layerselect::cuda::kThreads)
    layerselect_masked_copy(const layerselect::cuda::CopyItem* items, std::int64_t count, const float* gate, int back) {
  for (std::int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const layerselect::cuda::CopyItem item = items[i];
    if (gate[item.group] != 0.0F) {
      const void* const from = back != 0 ? item.to : item.from;
      void* const to = back != 0 ? const_cast<void*>(item.from) : item.to;
      layerselect::cuda::copy_bytes(static_cast<const unsigned char*>(from), static_cast<unsigned char*>(to),
                                    item.bytes);
    }
  }
}

extern "C" int layerselect_cuda_masked_copy(const layerselect::cuda::CopyItem* items, std::int64_t count,
                                            const float* gate, std::int32_t back, std::int32_t max_blocks,
                                            cudaStream_t stream) {
  if (count == 0) {
    return cudaSuccess;
  }
  const dim3 grid(static_cast<unsigned>(std::clamp<std::int64_t>(count, 1, std::max(max_blocks, 1))));
  void* values[] = {&items, &count, &gate, &back};
  return cudaLaunchKernel(reinterpret_cast<const void*>(&layerselect_masked_copy), grid,
                          dim3(layerselect::cuda::kThreads), values, 0, stream);
}
