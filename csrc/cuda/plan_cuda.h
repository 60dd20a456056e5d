// The plan of a norm pass on a device: work items for warps and blocks, built once from sizes alone. Torch-free,
// CUDA-free.
//
// Tensors are numbered anew: by group, inside a group the large ones before the small ones, else in the order of the
// parameters. So the items of a tensor, the units of a group and the tensors of a range of units are contiguous, and
// small items of a group share blocks.
#pragma once

#include <cstdint>
#include <vector>

#include "../plan.h"
#include "step.h"

namespace layerselect::cuda {

// Tensors of at most this many elements are one item for one warp; longer ones are cut into items for blocks.
constexpr std::int64_t kWarpElements = 4096;
// The shortest item that a tensor is cut into, and how many items there should be at most: items grow (by powers of
// two) with the model, so that the last block never has more than a few microseconds of partials to add.
constexpr std::int64_t kBlockElements = 16384;
constexpr std::int64_t kMostItems = 16384;

struct DevicePlan {
  // numels[i] elements of type types[i] belong to groups[i], in [0, num_groups).
  // Throws std::invalid_argument for sizes that 32-bit item numbers cannot count.
  DevicePlan(const std::vector<std::int64_t>& numels, const std::vector<DType>& types,
             const std::vector<std::int64_t>& groups, std::int64_t num_groups);

  std::vector<std::int64_t> order;    // order[t]: the parameter that is tensor t here
  std::vector<Item> items;            // by tensor, by offset
  std::vector<Unit> units;            // by group
  std::vector<std::int32_t> item_begin;      // [tensors + 1]
  std::vector<std::int32_t> group_begin;     // [groups + 1], into group_tensors
  std::vector<std::int32_t> group_tensors;   // tensors of a group in the order of the parameters
  std::vector<std::uint32_t> unit_begin;     // [groups + 1]: units of a group
  std::vector<std::uint32_t> unit_tensors;   // [units, 2]: first and last tensor of a unit
};

}  // namespace layerselect::cuda
