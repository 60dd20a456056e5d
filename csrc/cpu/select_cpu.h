// The selection rules on the host, over the functions of select.h.
#pragma once

#include <cstdint>

namespace layerselect {

// What the rules read: num_layers scores and a LayerStatus for each.
struct LayerScores {
  const float* scores;
  const std::uint8_t* status;
  int num_layers;
};

struct VarianceOptions {
  double window_lo;
  double window_hi;
  bool inclusive;
  int splits;
};

// Each rule writes num_layers flags to `mask` and returns the threshold: the score gamma that the rule compared
// with, or NaN where no score took part. Layers never measured are always selected (by top_ranked: first); excluded
// layers never.
float variance_split_cpu(const LayerScores& layers, const VarianceOptions& options, bool* mask);
float top_ranked_cpu(const LayerScores& layers, std::int64_t k, bool* mask);
float above_cpu(const LayerScores& layers, float gamma, bool* mask);

}  // namespace layerselect
