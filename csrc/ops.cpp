#include "ops.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/segment_reduce.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "checks.h"
#include "cpu/select_cpu.h"
#include "cpu/sqnorm_cpu.h"
#include "cuda/core.h"
#include "select.h"
#include "tensor_view.h"

namespace layerselect {
namespace {

void check_vector(const at::Tensor& tensor, const char* name, at::ScalarType dtype) {
  LS_CHECK(tensor.defined(), name, " is None; it must be a vector of ", dtype);
  LS_CHECK(tensor.device().is_cpu(), name, " is on device ", tensor.device(), "; it must be on the CPU");
  LS_CHECK(tensor.scalar_type() == dtype, name, " has dtype ", tensor.scalar_type(), "; it must be ", dtype);
  LS_CHECK(tensor.dim() == 1, name, " has shape ", tensor.sizes(), "; it must have one dimension");
}

// Scores and status as plain arrays, for as long as this object lives.
class CheckedScores {
 public:
  CheckedScores(const at::Tensor& scores, const at::Tensor& status) {
    check_vector(scores, "scores", at::kFloat);
    check_vector(status, "status", at::kByte);
    LS_CHECK(scores.numel() == status.numel(), "scores has ", scores.numel(), " entries and status ", status.numel(),
             "; there must be one status for each score");
    LS_CHECK(scores.numel() <= kMaxLayers, "scores has ", scores.numel(), " entries; at most ", kMaxLayers,
             " layers can be ranked");
    scores_ = scores.contiguous();
    status_ = status.contiguous();
    view_ = {scores_.const_data_ptr<float>(), status_.const_data_ptr<std::uint8_t>(),
             static_cast<int>(scores.numel())};
    for (int l = 0; l < view_.num_layers; ++l) {
      LS_CHECK(view_.status[l] <= kNeverMeasured, "status[", l, "] is ", static_cast<int>(view_.status[l]),
               "; it must be 0 (excluded), 1 (measured) or 2 (never measured)");
      LS_CHECK(view_.status[l] != kMeasured || std::isfinite(view_.scores[l]), "scores[", l, "] is ", view_.scores[l],
               "; a measured score must be finite");
    }
  }

  const LayerScores& view() const { return view_; }
  at::Tensor new_mask() const { return at::empty({view_.num_layers}, at::kBool); }

 private:
  at::Tensor scores_;
  at::Tensor status_;
  LayerScores view_{};
};

}  // namespace

namespace {

// The segment of each of so many tensors.
std::vector<std::int64_t> checked_segments(const at::Tensor& segments, std::size_t tensors, std::int64_t num_segments) {
  check_vector(segments, "segments", at::kLong);
  LS_CHECK(segments.numel() == static_cast<std::int64_t>(tensors), "segments has ", segments.numel(), " entries for ",
           tensors, " tensors; give one segment for each");
  LS_CHECK(num_segments >= 0, "num_segments is ", num_segments, "; it must not be negative");
  const at::Tensor contiguous = segments.contiguous();
  const auto* begin = contiguous.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> result(begin, begin + tensors);
  for (std::size_t i = 0; i < tensors; ++i) {
    LS_CHECK(result[i] >= 0 && result[i] < num_segments, "segments[", i, "] is ", result[i], "; it must be in 0..",
             num_segments - 1);
  }
  return result;
}

}  // namespace

at::Tensor segment_sqnorm(const std::vector<std::optional<at::Tensor>>& tensors, const at::Tensor& segments,
                          std::int64_t num_segments, std::optional<double> inv_scale) {
  const std::vector<std::int64_t> segment = checked_segments(segments, tensors.size(), num_segments);
  std::vector<TensorView> views(tensors.size());
  std::vector<at::Tensor> copies(tensors.size());
  std::vector<std::int64_t> numels(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].has_value()) {
      views[i] = view_of(*tensors[i], [i] { return c10::str("tensors[", i, "]"); }, copies[i]);
    }
    numels[i] = views[i].numel;
  }
  const Plan plan(std::move(numels), segment, num_segments);
  at::Tensor sums = at::empty({num_segments}, at::kDouble);
  auto* out = sums.mutable_data_ptr<double>();
  segment_sqnorm_cpu(plan, views, out);
  if (inv_scale.has_value()) {
    for (std::int64_t s = 0; s < num_segments; ++s) {
      out[s] *= *inv_scale * *inv_scale;
    }
  }
  return sums;
}

at::Tensor segment_sqnorm_on_device(const std::vector<std::optional<at::Tensor>>& tensors, const at::Tensor& segments,
                                    std::int64_t num_segments, std::optional<double> inv_scale) {
  const std::vector<std::int64_t> segment = checked_segments(segments, tensors.size(), num_segments);
  std::vector<at::Tensor> present;
  std::vector<std::int64_t> segment_of;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!tensors[i].has_value() || !tensors[i]->defined()) {
      continue;
    }
    const c10::Device device = present.empty() ? tensors[i]->device() : present.front().device();
    check_dense(*tensors[i], [i] { return c10::str("tensors[", i, "]"); }, device);
    present.push_back(*tensors[i]);
    segment_of.push_back(segment[i]);
  }
  const auto options = at::TensorOptions(present.empty() ? c10::Device(c10::kCPU) : present.front().device());
  if (present.empty() || num_segments == 0) {
    return at::zeros({num_segments}, options.dtype(at::kDouble));
  }
  cuda::DeviceCore core(present, std::vector<std::int64_t>(present.size(), 0), 1, "l2", 0);
  core.hold_all({present.begin(), present.end()});
  core.sum_held();

  // Tensor order inside a segment, whatever the order of the plan; one thread adds up a segment, so its order is fixed
  // too.
  std::vector<std::int64_t> by_segment(present.size());
  std::iota(by_segment.begin(), by_segment.end(), 0);
  std::stable_sort(by_segment.begin(), by_segment.end(),
                   [&](std::int64_t a, std::int64_t b) { return segment_of[a] < segment_of[b]; });
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(num_segments), 0);
  for (const std::int64_t s : segment_of) {
    ++lengths[s];
  }
  const auto uploaded = [&](const std::vector<std::int64_t>& values) {
    return at::tensor(values, at::kLong).to(options.device());
  };
  const at::Tensor& planned = core.state().at("sqnorms");
  at::Tensor each = at::empty_like(planned);
  each.index_copy_(0, core.state().at("order"), planned);
  at::Tensor sums = at::segment_reduce(each.index_select(0, uploaded(by_segment)), "sum", uploaded(lengths),
                                       /*indices=*/std::nullopt, /*offsets=*/std::nullopt, /*axis=*/0, /*unsafe=*/true,
                                       /*initial=*/0);
  return inv_scale.has_value() ? sums.mul_(*inv_scale * *inv_scale) : sums;
}

MaskAndThreshold variance_split(const at::Tensor& scores, const at::Tensor& status, double window_lo, double window_hi,
                                bool inclusive, std::int64_t splits) {
  const CheckedScores layers(scores, status);
  LS_CHECK(0.0 <= window_lo && window_lo <= window_hi && window_hi <= 1.0, "window is (", window_lo, ", ", window_hi,
           "); it must hold 0 <= low <= high <= 1");
  LS_CHECK(splits >= 1 && splits <= kMaxLayers, "splits is ", splits, "; it must be at least 1 and at most ",
           kMaxLayers);
  at::Tensor mask = layers.new_mask();
  const VarianceOptions options{window_lo, window_hi, inclusive, static_cast<int>(splits)};
  const float threshold = variance_split_cpu(layers.view(), options, mask.mutable_data_ptr<bool>());
  return {mask, at::scalar_tensor(threshold, at::kFloat)};
}

MaskAndThreshold top_ranked(const at::Tensor& scores, const at::Tensor& status, std::int64_t k) {
  const CheckedScores layers(scores, status);
  LS_CHECK(k >= 0, "k is ", k, "; it must not be negative");
  at::Tensor mask = layers.new_mask();
  const float threshold = top_ranked_cpu(layers.view(), k, mask.mutable_data_ptr<bool>());
  return {mask, at::scalar_tensor(threshold, at::kFloat)};
}

MaskAndThreshold above(const at::Tensor& scores, const at::Tensor& status, double gamma) {
  const CheckedScores layers(scores, status);
  LS_CHECK(!std::isnan(gamma), "gamma is NaN; it must be a number");
  at::Tensor mask = layers.new_mask();
  const float threshold = above_cpu(layers.view(), static_cast<float>(gamma), mask.mutable_data_ptr<bool>());
  return {mask, at::scalar_tensor(threshold, at::kFloat)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> within_budget(const at::Tensor& scores, const at::Tensor& status,
                                                             const at::Tensor& base, const at::Tensor& costs,
                                                             double budget) {
  const CheckedScores layers(scores, status);
  const int n = layers.view().num_layers;
  check_vector(base, "base", at::kBool);
  check_vector(costs, "costs", at::kDouble);
  LS_CHECK(base.numel() == n, "base has ", base.numel(), " entries for ", n, " layers");
  LS_CHECK(costs.numel() == 2 * n + 1, "costs has ", costs.numel(), " entries; it must have ", 2 * n + 1, " for ", n,
           " layers");
  LS_CHECK(0.0 < budget && std::isfinite(budget), "budget is ", budget, "; it must be a positive number");
  for (int l = 0; l < n; ++l) {
    LS_CHECK(layers.view().status[l] != kMeasured || layers.view().scores[l] >= 0.0F, "a measured score is ",
             layers.view().scores[l], "; within a budget scores must not be negative");
  }
  at::Tensor mask = layers.new_mask();
  mask.copy_(base);
  const at::Tensor contiguous = costs.contiguous();
  const auto* table = contiguous.const_data_ptr<double>();
  const Budgeted kept = within_budget_cpu(layers.view(), {table, table + n + 1, budget}, mask.mutable_data_ptr<bool>());
  return {mask, at::scalar_tensor(kept.kept_share, at::kFloat), at::scalar_tensor(kept.cost, at::kFloat)};
}

}  // namespace layerselect
