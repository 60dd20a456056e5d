// segment_sqnorm and variance_split as operators of torch (namespace `layerselect`), so that they compose with
// torch.compile, fake tensors and whatever else goes through the dispatcher. What they are over fake and meta tensors
// stands in layerselect/reference/operators.py, which also declares them where this core is not built: the two must
// agree on the schemas.
//
// Neither is differentiable: their results never require gradients, whatever their inputs do.
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/library.h>

#include <algorithm>

#include "ops.h"

namespace layerselect {
namespace {

using Tensors = c10::List<std::optional<at::Tensor>>;

std::vector<std::optional<at::Tensor>> as_vector(const Tensors& tensors) {
  std::vector<std::optional<at::Tensor>> result;
  result.reserve(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    result.push_back(tensors.get(i));
  }
  return result;
}

// For every device: where there are no kernels, the checks say so.
at::Tensor sqnorm(const Tensors& tensors, const at::Tensor& segments, std::int64_t num_segments,
                  std::optional<double> inv_scale) {
  const auto all = as_vector(tensors);
  const bool elsewhere =
      std::any_of(all.begin(), all.end(), [](const auto& one) { return one.has_value() && one->is_cuda(); });
  return elsewhere ? segment_sqnorm_on_device(all, segments, num_segments, inv_scale)
                   : segment_sqnorm(all, segments, num_segments, inv_scale);
}

// The rule runs on the host: the scores are some kilobytes, and whoever must not wait has FastSelector, whose kernel
// decides.
MaskAndThreshold split(const at::Tensor& scores, const at::Tensor& status, double window_lo, double window_hi,
                                 bool inclusive, std::int64_t splits) {
  const auto [mask, threshold] = variance_split(scores.cpu(), status.cpu(), window_lo, window_hi, inclusive, splits);
  return {mask.to(scores.device()), threshold.to(scores.device())};
}

at::Tensor sqnorm_below_autograd(const Tensors& tensors, const at::Tensor& segments, std::int64_t num_segments,
                                 std::optional<double> inv_scale) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("layerselect::segment_sqnorm", "")
                             .typed<decltype(sqnorm)>();
  const at::AutoDispatchBelowADInplaceOrView below;
  return op.call(tensors, segments, num_segments, inv_scale);
}

MaskAndThreshold split_below_autograd(const at::Tensor& scores, const at::Tensor& status, double window_lo,
                                      double window_hi, bool inclusive, std::int64_t splits) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("layerselect::variance_split", "")
                             .typed<decltype(split)>();
  const at::AutoDispatchBelowADInplaceOrView below;
  return op.call(scores, status, window_lo, window_hi, inclusive, splits);
}

}  // namespace
}  // namespace layerselect

TORCH_LIBRARY(layerselect, library) {
  library.set_python_module("layerselect.reference.operators");
  library.def(
      "segment_sqnorm(Tensor?[] tensors, Tensor segments, int num_segments, float? inv_scale=None) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "variance_split(Tensor scores, Tensor status, float window_lo, float window_hi, bool inclusive, int splits) -> "
      "(Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

// Of every backend, sparse ones too, so that they meet our checks and not the dispatcher's list of keys.
TORCH_LIBRARY_IMPL(layerselect, CompositeExplicitAutograd, library) {
  library.impl("segment_sqnorm", &layerselect::sqnorm);
  library.impl("variance_split", &layerselect::split);
}

TORCH_LIBRARY_IMPL(layerselect, Autograd, library) {
  library.impl("segment_sqnorm", &layerselect::sqnorm_below_autograd);
  library.impl("variance_split", &layerselect::split_below_autograd);
}
