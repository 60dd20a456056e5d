// A few numbers of each of some parameters on the CPU, compared with what they were: whether anybody moved weights
// meanwhile.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <vector>

namespace layerselect {

// Reads kElements elements from the middle of each parameter's memory, so two calls in a step cost a cache line for
// each.
class WeightMarks {
 public:
  static constexpr std::int64_t kElements = 4;

  // Contiguous parameters on the CPU, of float32, float16, bfloat16 or float64.
  explicit WeightMarks(std::vector<at::Tensor> parameters);

  // Remembers the parameters begin .. end - 1 as they are.
  void note(std::int64_t begin, std::int64_t end);
  // The first of them whose numbers differ from those noted, by value: a NaN that stays one has not moved, nor has -0
  // that became 0. -1 if there is none. A parameter that is of another kind or on another device by now does not count.
  std::int64_t moved(std::int64_t begin, std::int64_t end) const;

 private:
  struct Mark {
    std::array<double, kElements> values{};
    std::int64_t count = -1;  // -1: nothing that can be compared was noted
    at::ScalarType type = at::kFloat;
  };

  static Mark mark_of(const at::Tensor& parameter);
  void check(std::int64_t begin, std::int64_t end) const;

  std::vector<at::Tensor> parameters_;
  std::vector<Mark> marks_;
};

}  // namespace layerselect
