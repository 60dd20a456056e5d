#include "select_cpu.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "../select.h"

namespace layerselect {
namespace {

constexpr float kNoThreshold = std::numeric_limits<float>::quiet_NaN();

// Layers in rank order: the measured ones ascending, then those never measured.
struct Ranking {
  std::vector<int> layer;     // layer[rank]
  std::vector<float> sorted;  // scores of the measured ones, ascending
};

// The order of rank_of(), which counts for each layer, found by sorting.
Ranking rank_layers(const LayerScores& layers) {
  Ranking ranking;
  for (int l = 0; l < layers.num_layers; ++l) {
    if (layers.status[l] != kExcluded) {
      ranking.layer.push_back(l);
    }
  }
  std::stable_sort(ranking.layer.begin(), ranking.layer.end(), [&](int a, int b) {
    if (layers.status[a] != layers.status[b]) {
      return layers.status[a] < layers.status[b];
    }
    return layers.status[a] == kMeasured && layers.scores[a] < layers.scores[b];
  });
  for (const int l : ranking.layer) {
    if (layers.status[l] == kMeasured) {
      ranking.sorted.push_back(layers.scores[l]);
    }
  }
  return ranking;
}

// The cut k of the m ascending values that the variance rule takes.
int least_cut(const float* sorted, int m, const VarianceOptions& options) {
  const CutRange cuts = cut_window(m, options.window_lo, options.window_hi);
  std::vector<double> costs;
  for (int k = cuts.first; k <= cuts.last; ++k) {
    costs.push_back(cut_cost(sorted, m, k));
  }
  const double least = *std::min_element(costs.begin(), costs.end());
  const auto found = std::find_if(costs.begin(), costs.end(), [&](double cost) { return is_least(cost, least); });
  return cuts.first + static_cast<int>(found - costs.begin());
}

void select_from(const Ranking& ranking, std::size_t first_rank, const LayerScores& layers, bool* mask) {
  std::fill_n(mask, layers.num_layers, false);
  for (std::size_t rank = first_rank; rank < ranking.layer.size(); ++rank) {
    mask[ranking.layer[rank]] = true;
  }
}

}  // namespace

float variance_split_cpu(const LayerScores& layers, const VarianceOptions& options, bool* mask) {
  const Ranking ranking = rank_layers(layers);
  const int measured = static_cast<int>(ranking.sorted.size());
  int first = 0;  // the lowest rank selected so far
  float threshold = kNoThreshold;
  for (int split = 0; split < options.splits && measured > 0; ++split) {
    const float* sorted = ranking.sorted.data() + first;
    const int m = measured - first;
    if (m == 1) {  // nothing to cut: this layer is selected
      threshold = sorted[0];
      break;
    }
    const int k = least_cut(sorted, m, options);
    threshold = sorted[k - 1];
    first += options.inclusive ? k - 1 : k;
  }
  select_from(ranking, first, layers, mask);
  return threshold;
}

float top_ranked_cpu(const LayerScores& layers, std::int64_t k, bool* mask) {
  const Ranking ranking = rank_layers(layers);
  const auto count = static_cast<std::int64_t>(ranking.layer.size());
  const auto first = static_cast<std::size_t>(count - std::min(k, count));
  select_from(ranking, first, layers, mask);
  return first < ranking.sorted.size() ? ranking.sorted[first] : kNoThreshold;
}

float above_cpu(const LayerScores& layers, float gamma, bool* mask) {
  for (int l = 0; l < layers.num_layers; ++l) {
    mask[l] = layers.status[l] == kNeverMeasured || (layers.status[l] == kMeasured && layers.scores[l] >= gamma);
  }
  return gamma;
}

Budgeted within_budget_cpu(const LayerScores& layers, const CostOptions& costs, bool* mask) {
  const int n = layers.num_layers;
  bool known = false;
  float highest = 1.0F;  // what a layer never measured is worth
  for (int l = 0; l < n; ++l) {
    if (layers.status[l] == kMeasured) {
      highest = known ? std::max(highest, layers.scores[l]) : layers.scores[l];
      known = true;
    }
  }
  const auto worth = [&](int l) { return layers.status[l] == kMeasured ? layers.scores[l] : highest; };
  std::vector<Kept> from(n + 1, Kept{0.0, 0.0});
  double greatest = -1.0;
  bool any = false;
  for (int d = n - 1; d >= 0; --d) {
    mask[d] = mask[d] && layers.status[d] != kExcluded;
    from[d] = mask[d] ? with_layer(from[d + 1], worth(d), costs.train[d]) : from[d + 1];
    any = any || mask[d];
    const double cost = step_cost(costs.depth[d], from[d].train_cost);
    if (mask[d] && fits(cost, costs.budget)) {
      greatest = std::max(greatest, from[d].worth / cost);
    }
  }
  const double total = from[0].worth;
  for (int d = n - 1; d >= 0 && greatest >= 0.0; --d) {
    const double cost = step_cost(costs.depth[d], from[d].train_cost);
    if (mask[d] && fits(cost, costs.budget) && is_greatest(from[d].worth / cost, greatest)) {
      std::fill_n(mask, d, false);
      return {kept_share(from[d].worth, total), static_cast<float>(cost)};
    }
  }
  // None of the base's layers fits: the best one that fits alone.
  int best = -1;
  for (int l = 0; any && l < n; ++l) {
    const bool alone = layers.status[l] != kExcluded && fits(step_cost(costs.depth[l], costs.train[l]), costs.budget);
    if (alone && (best < 0 || worth(l) >= worth(best))) {
      best = l;
    }
  }
  const double kept = best >= 0 && mask[best] ? worth(best) : 0.0;
  std::fill_n(mask, n, false);
  if (best < 0) {
    return {kept_share(kept, total), static_cast<float>(costs.depth[n])};
  }
  mask[best] = true;
  return {kept_share(kept, total), static_cast<float>(step_cost(costs.depth[best], costs.train[best]))};
}

}  // namespace layerselect
