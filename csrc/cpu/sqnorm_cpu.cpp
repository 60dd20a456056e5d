#include "sqnorm_cpu.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "sqnorm_kernel.h"

namespace layerselect {
namespace {

// Below this many elements waking another thread costs more than it saves.
constexpr std::int64_t kElementsPerThread = 131072;

}  // namespace

void segment_sqnorm_cpu(const Plan& plan, const std::vector<TensorView>& tensors, double* out) {
  const auto& items = plan.items();
  const auto count = static_cast<std::int64_t>(items.size());
  std::vector<double> partials(items.size());
  const auto compute = [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const WorkItem& item = items[i];
      const TensorView& tensor = tensors[item.tensor];
      const auto* data = static_cast<const char*>(tensor.data) + item.offset * element_size(tensor.dtype);
      partials[i] = sqnorm_run(data, item.length, tensor.dtype);
    }
  };
  if (plan.total_elements() <= kElementsPerThread) {
    compute(0, count);
  } else {
    const std::int64_t grain = std::max<std::int64_t>(1, count * kElementsPerThread / plan.total_elements());
    at::parallel_for(0, count, grain, compute);
  }

  const auto& begin = plan.segment_begin();
  for (std::int64_t s = 0; s < plan.num_segments(); ++s) {
    double sum = 0.0;
    for (std::int64_t i = begin[s]; i < begin[s + 1]; ++i) {
      sum += partials[i];
    }
    out[s] = sum;
  }
}

}  // namespace layerselect
