#include "weight_marks.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "checks.h"

namespace layerselect {
namespace {

template <class T>
void read(const at::Tensor& parameter, std::int64_t begin, std::int64_t count, double* values) {
  const T* data = static_cast<const T*>(parameter.const_data_ptr()) + begin;
  std::copy_n(data, count, values);
}

}  // namespace

WeightMarks::WeightMarks(std::vector<at::Tensor> parameters)
    : parameters_(std::move(parameters)), marks_(parameters_.size()) {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    LS_CHECK(parameters_[i].defined(), "parameters[", i, "] is None");
  }
}

WeightMarks::Mark WeightMarks::mark_of(const at::Tensor& parameter) {
  Mark mark;
  mark.type = parameter.scalar_type();
  if (!parameter.device().is_cpu() || !parameter.is_contiguous() || parameter.numel() == 0) {
    return mark;
  }
  const std::int64_t begin = (parameter.numel() - 1) / 2;
  const std::int64_t count = std::min(kElements, parameter.numel() - begin);
  switch (mark.type) {
    case at::kFloat:
      read<float>(parameter, begin, count, mark.values.data());
      break;
    case at::kDouble:
      read<double>(parameter, begin, count, mark.values.data());
      break;
    case at::kHalf:
      read<c10::Half>(parameter, begin, count, mark.values.data());
      break;
    case at::kBFloat16:
      read<c10::BFloat16>(parameter, begin, count, mark.values.data());
      break;
    default:
      return mark;
  }
  mark.count = count;
  return mark;
}

void WeightMarks::check(std::int64_t begin, std::int64_t end) const {
  const auto count = static_cast<std::int64_t>(parameters_.size());
  LS_CHECK(0 <= begin && begin <= end && end <= count, "parameters ", begin, " to ", end, " are not among ", count);
}

void WeightMarks::note(std::int64_t begin, std::int64_t end) {
  check(begin, end);
  for (std::int64_t i = begin; i < end; ++i) {
    marks_[i] = mark_of(parameters_[i]);
  }
}

std::int64_t WeightMarks::moved(std::int64_t begin, std::int64_t end) const {
  check(begin, end);
  for (std::int64_t i = begin; i < end; ++i) {
    const Mark& before = marks_[i];
    const Mark now = mark_of(parameters_[i]);
    if (before.count < 0 || before.count != now.count || before.type != now.type) {
      continue;
    }
    for (std::int64_t j = 0; j < now.count; ++j) {
      const double was = before.values[j];
      const double is = now.values[j];
      if (was != is && !(std::isnan(was) && std::isnan(is))) {
        return i;
      }
    }
  }
  return -1;
}

}  // namespace layerselect
