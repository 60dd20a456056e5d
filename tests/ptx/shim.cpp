// What the tests need of the C++ side, in plain C: the plan, the CPU's rules, and the sizes of the structs that Python
// mirrors.
#include <cstdint>
#include <cstring>
#include <vector>

#include "cpu/select_cpu.h"
#include "cuda/plan_cuda.h"
#include "cuda/step.h"

namespace cuda = layerselect::cuda;

namespace {

template <class T>
std::int64_t copy_out(const std::vector<T>& from, void* to) {
  const std::size_t bytes = from.size() * sizeof(T);
  if (to != nullptr && bytes > 0) {
    std::memcpy(to, from.data(), bytes);
  }
  return static_cast<std::int64_t>(bytes);
}

}  // namespace

extern "C" {

std::int64_t shim_sizeof(int which) {
  switch (which) {
    case 0:
      return sizeof(cuda::SelectArgs);
    case 1:
      return sizeof(cuda::NormLaunch);
    case 2:
      return sizeof(cuda::CopyItem);
    case 3:
      return sizeof(cuda::Counters);
    case 4:
      return sizeof(cuda::Rule);
    default:
      return -1;
  }
}

std::int64_t shim_constant(int which) {
  const std::int64_t constants[] = {cuda::kThreads,       cuda::kSmallTable,   cuda::kLargeTable,
                                    cuda::kWarpElements,  cuda::kBlockElements, cuda::kMostItems};
  return constants[which];
}

cuda::DevicePlan* shim_plan(std::int64_t count, const std::int64_t* numels, const std::uint8_t* types,
                            const std::int64_t* groups, std::int64_t num_groups) {
  std::vector<layerselect::DType> kinds(count);
  for (std::int64_t i = 0; i < count; ++i) {
    kinds[i] = static_cast<layerselect::DType>(types[i]);
  }
  return new cuda::DevicePlan({numels, numels + count}, kinds, {groups, groups + count}, num_groups);
}

void shim_plan_free(cuda::DevicePlan* plan) { delete plan; }

// Bytes of one of the plan's arrays, copied to `to` if it is not null.
std::int64_t shim_plan_array(const cuda::DevicePlan* plan, int which, void* to) {
  switch (which) {
    case 0:
      return copy_out(plan->order, to);
    case 1:
      return copy_out(plan->items, to);
    case 2:
      return copy_out(plan->units, to);
    case 3:
      return copy_out(plan->item_begin, to);
    case 4:
      return copy_out(plan->group_begin, to);
    case 5:
      return copy_out(plan->group_tensors, to);
    case 6:
      return copy_out(plan->unit_begin, to);
    case 7:
      return copy_out(plan->unit_tensors, to);
    default:
      return -1;
  }
}

float shim_variance(const float* scores, const std::uint8_t* status, int n, double lo, double hi, int inclusive,
                    int splits, bool* mask) {
  return layerselect::variance_split_cpu({scores, status, n}, {lo, hi, inclusive != 0, splits}, mask);
}
float shim_top(const float* scores, const std::uint8_t* status, int n, std::int64_t k, bool* mask) {
  return layerselect::top_ranked_cpu({scores, status, n}, k, mask);
}
float shim_above(const float* scores, const std::uint8_t* status, int n, float gamma, bool* mask) {
  return layerselect::above_cpu({scores, status, n}, gamma, mask);
}

void shim_within_budget(const float* scores, const std::uint8_t* status, int n, const double* costs, double budget,
                        bool* mask, float* share_and_cost) {
  const auto kept = layerselect::within_budget_cpu({scores, status, n}, {costs, costs + n + 1, budget}, mask);
  share_and_cost[0] = kept.kept_share;
  share_and_cost[1] = kept.cost;
}

}  // extern "C"
