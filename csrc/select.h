// The mathematics of a selection, for host and device compilers alike.
//
// Everything here is a function of its own index (the rank of one layer, the cost of one cut), so that a device
// thread can own one of them, and everything is rounded operation by operation in a fixed order, so that
// CPU and GPU give the same bits: the device branches use intrinsics that are never contracted to a fused
// multiply-add, the host is compiled with -ffp-contract=off.
//
// Source of the variance rule: IR-Tuning (Liu & Litman, Findings of EMNLP 2025, arXiv 2510.00268) and
// Intention-Tuning (Liu & Litman, Findings of EACL 2026, arXiv 2602.00477), equations 10 and 11.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define LS_HOST_DEVICE __host__ __device__
#else
#define LS_HOST_DEVICE
#endif

namespace layerselect {

// What is known of a layer's score in this step.
enum LayerStatus : std::uint8_t {
  kExcluded = 0,       // not finite this step: not selected, whatever its score
  kMeasured = 1,       // its score counts
  kNeverMeasured = 2,  // ranks above every measured layer
};

constexpr int kMaxLayers = 1024;

// Costs that differ by less than this, relatively, are ties: the lowest cut wins.
constexpr double kTieTolerance = 1e-12;

LS_HOST_DEVICE inline double rounded_add(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}

LS_HOST_DEVICE inline double rounded_mul(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// Rank of `layer` among the layers with a rank, 0 the lowest: measured layers by ascending score, then those never
// measured; equal ones keep layer order. A count, so that ranks can be found in parallel. -1 if excluded.
LS_HOST_DEVICE inline int rank_of(const float* scores, const std::uint8_t* status, int num_layers, int layer) {
  if (status[layer] == kExcluded) {
    return -1;
  }
  int below = 0;
  for (int other = 0; other < num_layers; ++other) {
    if (status[other] == kExcluded || other == layer) {
      continue;
    }
    if (status[other] != status[layer]) {
      below += status[other] < status[layer] ? 1 : 0;
    } else if (status[layer] == kNeverMeasured || scores[other] == scores[layer]) {
      below += other < layer ? 1 : 0;
    } else {
      below += scores[other] < scores[layer] ? 1 : 0;
    }
  }
  return below;
}

// Population variance of the ascending values sorted[begin] .. sorted[end - 1], end > begin: two passes over the values
// shifted by the smallest, so equal values give exactly 0 and a power-of-two scale changes no digit.
LS_HOST_DEVICE inline double population_variance(const float* sorted, int begin, int end) {
  const double count = end - begin;
  const double smallest = sorted[begin];
  double sum = 0.0;
  for (int i = begin; i < end; ++i) {
    sum = rounded_add(sum, rounded_add(sorted[i], -smallest));
  }
  const double mean = sum / count;
  double squares = 0.0;
  for (int i = begin; i < end; ++i) {
    const double deviation = rounded_add(rounded_add(sorted[i], -smallest), -mean);
    squares = rounded_add(squares, rounded_mul(deviation, deviation));
  }
  return squares / count;
}

// cost(k) = Var(lowest k) + Var(the others) of the m ascending values sorted[0] .. sorted[m - 1], for k in 1 .. m - 1.
LS_HOST_DEVICE inline double cut_cost(const float* sorted, int m, int k) {
  return rounded_add(population_variance(sorted, 0, k), population_variance(sorted, k, m));
}

// The cuts first .. last, both included.
struct CutRange {
  int first;
  int last;
};

// The cuts k of m >= 2 values with k - 1 in [int(lo * m), int(hi * m)]. Where none of those is a cut (k in 1 .. m - 1),
// the window is widened by one on both sides until one is. Needs 0 <= lo <= hi <= 1.
LS_HOST_DEVICE inline CutRange cut_window(int m, double lo, double hi) {
  CutRange cuts = {static_cast<int>(rounded_mul(lo, m)) + 1, static_cast<int>(rounded_mul(hi, m)) + 1};
  while (cuts.first > m - 1) {
    --cuts.first;
    ++cuts.last;
  }
  if (cuts.last > m - 1) {
    cuts.last = m - 1;
  }
  return cuts;
}

// True if a cut of this cost is tied with the least cost. The rule takes the lowest such cut.
LS_HOST_DEVICE inline bool is_least(double cost, double least) {
  return cost <= rounded_mul(least, 1.0 + kTieTolerance);
}

// The selected layers from some depth up, added from the top layer down: the sum of what they are worth, and of what
// the gradients of their own parameters cost. A layer that is not selected adds 0 to both, which changes no bit.
struct Kept {
  double worth;
  double train_cost;
};

LS_HOST_DEVICE inline Kept with_layer(const Kept& kept, float worth, double train_cost) {
  return {rounded_add(kept.worth, worth), rounded_add(kept.train_cost, train_cost)};
}

// What a step costs (layerselect/costs/counted.py), with depth_cost that of its lowest trained layer.
LS_HOST_DEVICE inline double step_cost(double depth_cost, double train_cost) {
  return rounded_add(depth_cost, train_cost);
}

// A cost that exceeds the budget by rounding alone fits.
LS_HOST_DEVICE inline bool fits(double cost, double budget) { return is_least(cost, budget); }

// True if `value` is tied with the greatest. The rule takes the highest such depth.
LS_HOST_DEVICE inline bool is_greatest(double value, double greatest) {
  return value >= rounded_mul(greatest, 1.0 - kTieTolerance);
}

// The share of `total` that is kept; 1 where there was nothing to lose.
LS_HOST_DEVICE inline float kept_share(double kept, double total) {
  return total > 0.0 ? static_cast<float>(kept / total) : 1.0F;
}

}  // namespace layerselect
