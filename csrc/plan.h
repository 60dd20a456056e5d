// The plan of a norm pass: which piece of which tensor is summed, and in which order.
//
// A work item is a run of at most kItemElements elements of one tensor. Items stand sorted by segment
// (tensor order inside a segment), and a CSR index says which items belong to which segment, so that
// whoever computes the items, in whatever order, the partial sums are added up in one fixed order.
// The plan depends on sizes alone: it is built once, and only data pointers change between steps.
// Torch-free, 64-bit sizes throughout.
#pragma once

#include <cstdint>
#include <vector>

namespace layerselect {

enum class DType : std::uint8_t { kFloat32, kFloat16, kBFloat16, kFloat64 };

// What a kernel needs to know of a dense tensor. `data` may be null where `numel` is 0.
struct TensorView {
  const void* data = nullptr;
  std::int64_t numel = 0;
  DType dtype = DType::kFloat32;
};

std::int64_t element_size(DType dtype);

struct WorkItem {
  std::int64_t tensor;
  std::int64_t offset;  // in elements
  std::int64_t length;  // in elements, 1..kItemElements
};

class Plan {
 public:
  // 256 KiB of float32: long enough that starting an item costs nothing, short enough to balance threads.
  static constexpr std::int64_t kItemElements = 65536;

  Plan() = default;
  // numels[i] elements of tensor i go to segments[i], which must lie in [0, num_segments).
  Plan(std::vector<std::int64_t> numels, const std::vector<std::int64_t>& segments, std::int64_t num_segments);

  // True if the plan was built for tensors of exactly these sizes.
  bool fits(const std::vector<TensorView>& tensors) const;

  const std::vector<WorkItem>& items() const { return items_; }
  // Items of segment s are segment_begin()[s] .. segment_begin()[s + 1] - 1.
  const std::vector<std::int64_t>& segment_begin() const { return segment_begin_; }
  std::int64_t num_segments() const { return static_cast<std::int64_t>(segment_begin_.size()) - 1; }
  std::int64_t total_elements() const { return total_elements_; }

 private:
  std::vector<std::int64_t> numels_;
  std::vector<WorkItem> items_;
  std::vector<std::int64_t> segment_begin_{0};
  std::int64_t total_elements_ = 0;
};

}  // namespace layerselect
