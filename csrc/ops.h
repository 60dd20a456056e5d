// The operations as Python sees them: tensors in, tensors out, every argument checked.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace layerselect {

// Sums of squares per segment, float64[num_segments]. tensors[i] belongs to segments[i] (int64, on the CPU); an absent
// tensor counts 0. With inv_scale each element is multiplied by it, so the sums by its square.
at::Tensor segment_sqnorm(const std::vector<std::optional<at::Tensor>>& tensors, const at::Tensor& segments,
                          std::int64_t num_segments, std::optional<double> inv_scale);

// The same of tensors on one device, by the kernels of the norm pass (on the CPU: by their twins); the sums stay there.
// It builds its plan anew in each call, which copies some tables to the device: DeviceCore is for those who measure in
// each step.
at::Tensor segment_sqnorm_on_device(const std::vector<std::optional<at::Tensor>>& tensors, const at::Tensor& segments,
                                    std::int64_t num_segments, std::optional<double> inv_scale);

// (mask bool[L], threshold float32[]) from scores float32[L] and status uint8[L] (see LayerStatus).
using MaskAndThreshold = std::tuple<at::Tensor, at::Tensor>;
MaskAndThreshold variance_split(const at::Tensor& scores, const at::Tensor& status, double window_lo, double window_hi,
                                bool inclusive, std::int64_t splits);
MaskAndThreshold top_ranked(const at::Tensor& scores, const at::Tensor& status, std::int64_t k);
MaskAndThreshold above(const at::Tensor& scores, const at::Tensor& status, double gamma);

// (mask bool[L], kept share float32[], cost of the step float32[]) from the selection base bool[L] and costs float64[2
// L + 1]: by lowest trained layer, then of each layer's own gradients.
std::tuple<at::Tensor, at::Tensor, at::Tensor> within_budget(const at::Tensor& scores, const at::Tensor& status,
                                                             const at::Tensor& base, const at::Tensor& costs,
                                                             double budget);

}  // namespace layerselect
