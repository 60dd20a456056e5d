// The sum of squares of one item by `threads` threads (a warp's or a block's), of which the caller is number `thread`.
//
// Memory moved: each element is read once, 16 bytes at a time; up to 7 elements before the first address that is a
// multiple of 16 and up to 7 after the last are read one by one.
//
// Order of summation: a thread takes every `threads`-th vector, four vectors (a chunk) at a time, adds their squares in
// four float32 lanes (at most 8 addends each), folds the lanes and adds the chunk to a float64. Threads are added by
// the caller, as a tree. So the bits depend on the length, the type, and the address modulo 16 (torch's allocator gives
// multiples of 512), not on the grid or on who runs first. Every operation is written as an intrinsic: nothing is left
// to contraction.
//
// Range: a chunk whose float32 sum may have lost digits or overflowed is read again (from the cache) and added in
// float64, as on the CPU. What the denormal range takes from a chunk is below 2^-144, so a sum of
// 2^-118 is good to 2^-26. Chunks of zeros are told by their bits and cost nothing. float16 cannot leave the range.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "../plan.h"
#include "step.h"

namespace layerselect::cuda {

constexpr std::uint32_t kVectors = 4;        // of 16 bytes, loaded by a thread before it uses the first
constexpr float kSmallestChunk = 3.009e-36F;  // 2^-118
constexpr float kLargestChunk = 3.0e38F;

// How the 32-bit words of a vector become elements.
template <DType kType>
struct Elements;

template <>
struct Elements<DType::kFloat32> {
  using Storage = float;
  static constexpr std::uint32_t kPerWord = 1;
  static constexpr std::uint32_t kMagnitude = 0x7fffffffU;
  static constexpr bool kMayLeaveRange = true;
  static __device__ __forceinline__ float get(std::uint32_t word, std::uint32_t) { return __uint_as_float(word); }
  static __device__ __forceinline__ float widen(float x) { return x; }
};

template <>
struct Elements<DType::kBFloat16> {
  using Storage = std::uint16_t;
  static constexpr std::uint32_t kPerWord = 2;
  static constexpr std::uint32_t kMagnitude = 0x7fff7fffU;
  static constexpr bool kMayLeaveRange = true;
  static __device__ __forceinline__ float get(std::uint32_t word, std::uint32_t i) {
    return __uint_as_float(i == 0 ? word << 16 : word & 0xffff0000U);
  }
  static __device__ __forceinline__ float widen(std::uint16_t x) {
    return __uint_as_float(static_cast<std::uint32_t>(x) << 16);
  }
};

template <>
struct Elements<DType::kFloat16> {
  using Storage = std::uint16_t;
  static constexpr std::uint32_t kPerWord = 2;
  static constexpr std::uint32_t kMagnitude = 0x7fff7fffU;
  static constexpr bool kMayLeaveRange = false;
  static __device__ __forceinline__ float get(std::uint32_t word, std::uint32_t i) {
    return widen(static_cast<std::uint16_t>(i == 0 ? word & 0xffffU : word >> 16));
  }
  static __device__ __forceinline__ float widen(std::uint16_t x) { return __half2float(__ushort_as_half(x)); }
};

__device__ __forceinline__ double square(float x) {
  const double wide = x;
  return __dmul_rn(wide, wide);
}

// The rare way: the squares of one vector in float64.
template <class E>
__device__ __forceinline__ double add_wide(double sum, uint4 vector) {
#pragma unroll 1
  for (int w = 0; w < 4; ++w) {
#pragma unroll
    for (std::uint32_t i = 0; i < E::kPerWord; ++i) {
      sum = __dadd_rn(sum, square(E::get(vector.x, i)));
    }
    vector = make_uint4(vector.y, vector.z, vector.w, 0);
  }
  return sum;
}

// A thread's share of `vectors` 16-byte vectors: every `threads`-th from `thread` on.
template <class E>
__device__ __forceinline__ double sum_of_vectors(const uint4* body, std::uint32_t vectors, std::uint32_t thread,
                                                 std::uint32_t threads, double sum) {
  for (std::uint32_t start = thread; start < vectors; start += kVectors * threads) {
    std::uint32_t words[4 * kVectors];
#pragma unroll
    for (std::uint32_t v = 0; v < kVectors; ++v) {
      const std::uint32_t at = start + v * threads;
      const uint4 vector = at < vectors ? __ldg(body + at) : make_uint4(0, 0, 0, 0);
      words[4 * v] = vector.x;
      words[4 * v + 1] = vector.y;
      words[4 * v + 2] = vector.z;
      words[4 * v + 3] = vector.w;
    }
    float lanes[4] = {};
    std::uint32_t any = 0;
#pragma unroll
    for (std::uint32_t w = 0; w < 4 * kVectors; ++w) {
      any |= words[w];
#pragma unroll
      for (std::uint32_t i = 0; i < E::kPerWord; ++i) {
        const float x = E::get(words[w], i);
        lanes[w % 4] = __fmaf_rn(x, x, lanes[w % 4]);
      }
    }
    const float chunk = __fadd_rn(__fadd_rn(lanes[0], lanes[2]), __fadd_rn(lanes[1], lanes[3]));
    if (!E::kMayLeaveRange || (chunk >= kSmallestChunk && chunk <= kLargestChunk)) {
      sum = __dadd_rn(sum, static_cast<double>(chunk));
    } else if ((any & E::kMagnitude) != 0) {
      for (std::uint32_t at = start; at < min(vectors, start + kVectors * threads); at += threads) {
        sum = add_wide<E>(sum, __ldg(body + at));
      }
    }
  }
  return sum;
}

template <DType kType>
__device__ __forceinline__ double sum_of(const void* data, std::uint32_t length, std::uint32_t thread,
                                         std::uint32_t threads) {
  using E = Elements<kType>;
  using Storage = typename E::Storage;
  constexpr std::uint32_t kPerVector = 16 / sizeof(Storage);
  const auto* const first = static_cast<const Storage*>(data);

  const std::uint32_t past = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(data) % 16 / sizeof(Storage));
  const std::uint32_t head = min(past == 0 ? 0 : kPerVector - past, length);
  const std::uint32_t vectors = (length - head) / kPerVector;
  const std::uint32_t tail = head + vectors * kPerVector;

  double sum = 0.0;
  if (thread < head) {
    sum = square(E::widen(first[thread]));
  }
  if (thread >= kPerVector && thread - kPerVector < length - tail) {
    sum = __dadd_rn(sum, square(E::widen(first[tail + thread - kPerVector])));
  }
  const auto* const body = reinterpret_cast<const uint4*>(first + head);
  return sum_of_vectors<E>(body, vectors, thread, threads, sum);
}

__device__ __forceinline__ double sum_of_doubles(const double* data, std::uint32_t length, std::uint32_t thread,
                                                 std::uint32_t threads) {
  double sum = 0.0;
  for (std::uint32_t i = thread; i < length; i += threads) {
    const double x = __ldg(data + i);
    sum = __dadd_rn(sum, __dmul_rn(x, x));
  }
  return sum;
}

// This thread's part of the item's sum.
__device__ __forceinline__ double item_sum(const Item& item, const void* tensor, std::uint32_t thread,
                                           std::uint32_t threads) {
  if (tensor == nullptr) {
    return 0.0;
  }
  const auto type = static_cast<DType>(item.tensor_and_type >> kTypeShift);
  const std::int64_t size = type == DType::kFloat64 ? 8 : type == DType::kFloat32 ? 4 : 2;
  const void* const data = static_cast<const char*>(tensor) + item.offset * size;
  switch (type) {
    case DType::kFloat32:
      return sum_of<DType::kFloat32>(data, item.length, thread, threads);
    case DType::kFloat16:
      return sum_of<DType::kFloat16>(data, item.length, thread, threads);
    case DType::kBFloat16:
      return sum_of<DType::kBFloat16>(data, item.length, thread, threads);
    case DType::kFloat64:
      break;
  }
  return sum_of_doubles(static_cast<const double*>(data), item.length, thread, threads);
}

// Sum over `kLanes` neighbouring lanes, in the first of them. All 32 lanes take part.
template <int kLanes>
__device__ __forceinline__ double lanes_sum(double sum) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    sum = __dadd_rn(sum, __shfl_down_sync(0xffffffffU, sum, distance, kLanes));
  }
  return sum;
}

}  // namespace layerselect::cuda
