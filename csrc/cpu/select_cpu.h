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

// What a step costs, as a fraction of the one that trains all layers (layerselect/costs/counted.py).
struct CostOptions {
  const double* depth;  // [num_layers + 1]: by the lowest trained layer; the last one: no layer trains
  const double* train;  // [num_layers]: the gradients of each layer's own parameters
  double budget;
};

struct Budgeted {
  float kept_share;  // of the scores of the selection that was cut down
  float cost;
};

// Each rule writes num_layers flags to `mask` and returns the threshold: the score gamma that the rule compared
// with, or NaN where no score took part. Layers never measured are always selected (by top_ranked: first); excluded
// layers never.
float variance_split_cpu(const LayerScores& layers, const VarianceOptions& options, bool* mask);
float top_ranked_cpu(const LayerScores& layers, std::int64_t k, bool* mask);
float above_cpu(const LayerScores& layers, float gamma, bool* mask);

// Cuts the selection in `mask` down to what fits the budget, see layerselect/rules/cost_aware.py. Scores must not be
// negative.
Budgeted within_budget_cpu(const LayerScores& layers, const CostOptions& costs, bool* mask);

}  // namespace layerselect
