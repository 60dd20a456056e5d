#include "plan.h"

#include <algorithm>
#include <utility>

namespace layerselect {

std::int64_t element_size(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kFloat64:
      return 8;
    case DType::kFloat32:
      break;
  }
  return 4;
}

Plan::Plan(std::vector<std::int64_t> numels, const std::vector<std::int64_t>& segments, std::int64_t num_segments)
    : numels_(std::move(numels)), segment_begin_(static_cast<std::size_t>(num_segments) + 1, 0) {
  const auto count = static_cast<std::int64_t>(numels_.size());
  const auto items_of = [](std::int64_t numel) { return (numel + kItemElements - 1) / kItemElements; };

  // Counting sort by segment: it is stable, so tensor order is kept inside a segment.
  for (std::int64_t i = 0; i < count; ++i) {
    segment_begin_[segments[i] + 1] += items_of(numels_[i]);
    total_elements_ += numels_[i];
  }
  for (std::int64_t s = 0; s < num_segments; ++s) {
    segment_begin_[s + 1] += segment_begin_[s];
  }
  items_.resize(segment_begin_.back());
  std::vector<std::int64_t> next(segment_begin_.begin(), segment_begin_.end() - 1);
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t offset = 0; offset < numels_[i]; offset += kItemElements) {
      items_[next[segments[i]]++] = {i, offset, std::min(kItemElements, numels_[i] - offset)};
    }
  }
}

bool Plan::fits(const std::vector<TensorView>& tensors) const {
  return std::equal(tensors.begin(), tensors.end(), numels_.begin(), numels_.end(),
                    [](const TensorView& view, std::int64_t numel) { return view.numel == numel; });
}

}  // namespace layerselect
