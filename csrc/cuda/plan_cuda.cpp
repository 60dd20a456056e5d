#include "plan_cuda.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

namespace layerselect::cuda {
namespace {

constexpr std::int64_t kAlignment = 256;  // items begin at multiples of so many elements of their tensor

std::int64_t divide_up(std::int64_t value, std::int64_t by) { return (value + by - 1) / by; }

std::int64_t item_elements(const std::vector<std::int64_t>& numels) {
  const std::int64_t total = std::accumulate(numels.begin(), numels.end(), std::int64_t{0});
  std::int64_t length = kBlockElements;
  while (total / length > kMostItems) {
    length *= 2;
  }
  if (length > std::numeric_limits<std::int32_t>::max()) {
    throw std::invalid_argument("the tensors have " + std::to_string(total) + " elements; no norm pass is that long");
  }
  return length;
}

}  // namespace

DevicePlan::DevicePlan(const std::vector<std::int64_t>& numels, const std::vector<DType>& types,
                       const std::vector<std::int64_t>& groups, std::int64_t num_groups)
    : order(numels.size()),
      item_begin(numels.size() + 1, 0),
      group_begin(static_cast<std::size_t>(num_groups) + 1, 0),
      group_tensors(numels.size()),
      unit_begin(static_cast<std::size_t>(num_groups) + 1, 0) {
  const auto count = static_cast<std::int64_t>(numels.size());
  if (count > static_cast<std::int64_t>(kTensorMask)) {
    throw std::invalid_argument(std::to_string(count) + " tensors are more than one plan can hold");
  }
  const std::int64_t longest = item_elements(numels);
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    const bool small_a = numels[a] <= kWarpElements;
    const bool small_b = numels[b] <= kWarpElements;
    return groups[a] != groups[b] ? groups[a] < groups[b] : small_a < small_b;
  });

  std::int64_t last_group = -1;  // of the last unit
  for (std::int64_t t = 0; t < count; ++t) {
    const std::int64_t p = order[t];
    const std::int64_t group = groups[p];
    const auto tensor = static_cast<std::uint32_t>(t);
    const std::uint32_t tag = tensor | static_cast<std::uint32_t>(types[p]) << kTypeShift;
    const auto first_item = static_cast<std::uint32_t>(items.size());
    ++group_begin[group + 1];
    if (numels[p] > kWarpElements) {
      // Pieces of nearly equal length: no block gets a sliver.
      const std::int64_t pieces = divide_up(numels[p], longest);
      const std::int64_t length = divide_up(divide_up(numels[p], pieces), kAlignment) * kAlignment;
      for (std::int64_t offset = 0; offset < numels[p]; offset += length) {
        units.push_back({static_cast<std::uint32_t>(items.size()), 0});
        unit_tensors.insert(unit_tensors.end(), {tensor, tensor});
        items.push_back({offset, static_cast<std::uint32_t>(std::min(length, numels[p] - offset)), tag});
      }
    } else if (numels[p] > 0) {
      // The last unit is this group's, of small items, and has a warp left.
      const bool joins = last_group == group && units.back().count > 0 &&
                         units.back().count < static_cast<std::uint32_t>(kWarps);
      if (joins) {
        ++units.back().count;
        unit_tensors.back() = tensor;
      } else {
        units.push_back({first_item, 1});
        unit_tensors.insert(unit_tensors.end(), {tensor, tensor});
      }
      items.push_back({0, static_cast<std::uint32_t>(numels[p]), tag});
    }
    last_group = numels[p] > 0 ? group : last_group;
    item_begin[t + 1] = static_cast<std::int32_t>(items.size());
    unit_begin[group + 1] = static_cast<std::uint32_t>(units.size());
  }
  for (std::int64_t g = 0; g < num_groups; ++g) {
    group_begin[g + 1] += group_begin[g];
    unit_begin[g + 1] = std::max(unit_begin[g + 1], unit_begin[g]);  // a group without units
  }
  // Back to the order of the parameters inside each group.
  std::iota(group_tensors.begin(), group_tensors.end(), 0);
  std::sort(group_tensors.begin(), group_tensors.end(), [&](std::int32_t a, std::int32_t b) {
    return groups[order[a]] != groups[order[b]] ? groups[order[a]] < groups[order[b]] : order[a] < order[b];
  });
}

}  // namespace layerselect::cuda
