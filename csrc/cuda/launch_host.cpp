// The launchers' twins on the host: the same arguments, the same results up to the order of summation inside an item.
// For tests of what surrounds the kernels, where there is no GPU; nobody's training runs through them.
#include "launch_host.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "../cpu/select_cpu.h"
#include "../cpu/sqnorm_kernel.h"
#include "../plan.h"

namespace layerselect::cuda {
namespace {

bool has(const GroupBits& bits, int group) { return (bits.words[group / 32] >> (group % 32) & 1U) != 0; }

void reduce_tensors(const SelectArgs& args) {
  for (int t = 0; t < args.num_reduced; ++t) {
    double sum = 0.0;
    for (int item = args.item_begin[t]; item < args.item_begin[t + 1]; ++item) {
      sum += args.partials[item];
    }
    args.tensor_sums[t] = sum;
  }
}

// Sums of the groups, the raw scores of the layers, and whether they have gradients.
std::vector<double> sum_groups(const SelectArgs& args, std::vector<float>& raw, std::vector<bool>& present) {
  std::vector<double> sums(args.num_layers + 1, 0.0);
  for (int group = 0; group <= args.num_layers; ++group) {
    const bool late = has(args.late, group);
    const float* const inv_scale = late ? args.late_inv_scale : args.inv_scale;
    const double scale = inv_scale == nullptr ? 1.0 : *inv_scale;
    double roots = 0.0;
    bool any = false;
    for (int i = args.group_begin[group]; has(args.present, group) && i < args.group_begin[group + 1]; ++i) {
      const double of_tensor = args.tensor_sums[args.group_tensors[i]];
      if (of_tensor < 0.0) {
        continue;
      }
      any = true;
      const double square = of_tensor * (scale * scale);
      sums[group] += square;
      roots += std::sqrt(std::sqrt(square));
    }
    args.group_sums[group] = sums[group];
    if (group < args.num_layers) {
      present[group] = any && !(late && sums[group] == 0.0);
      const double sum = args.form == Form::kSqrtSum ? roots
                         : args.form == Form::kRms   ? sums[group] / args.numels[group]
                                                     : sums[group];
      raw[group] = static_cast<float>(std::sqrt(sum));
    }
  }
  return sums;
}

void update_scores(const SelectArgs& args, const std::vector<float>& raw, const std::vector<bool>& took) {
  for (int l = 0; l < args.num_layers; ++l) {
    if (took[l] && !std::isfinite(raw[l])) {
      args.nonfinite[l] += 1;
      args.status[l] = kExcluded;
      continue;
    }
    if (l < args.first_layer) {
      args.status[l] = kExcluded;
      continue;
    }
    if (took[l]) {
      args.scores[l] = raw[l];
    }
    // An active layer without a gradient and without a score cannot train in this step.
    args.status[l] = std::isfinite(args.scores[l]) ? kMeasured : has(args.active, l) ? kExcluded : kNeverMeasured;
  }
}

float decide_without_budget(const SelectArgs& args, bool* mask) {
  const LayerScores layers = {args.scores, args.status, args.num_layers};
  const Rule& rule = args.rule;
  switch (rule.kind) {
    case RuleKind::kVariance:
      return variance_split_cpu(layers, {rule.window_lo, rule.window_hi, rule.inclusive != 0, rule.splits}, mask);
    case RuleKind::kTop:
      return top_ranked_cpu(layers, rule.k, mask);
    case RuleKind::kThreshold:
      return above_cpu(layers, rule.gamma, mask);
    case RuleKind::kAll:
    case RuleKind::kFixed:
      break;
  }
  for (int l = 0; l < args.num_layers; ++l) {
    mask[l] = rule.kind == RuleKind::kAll || rule.fixed[l] != 0;
  }
  return std::numeric_limits<float>::quiet_NaN();
}

void decide(const SelectArgs& args, bool* mask) {
  Counters& counters = *args.counters;
  counters.threshold = decide_without_budget(args, mask);
  counters.kept_share = counters.step_cost = std::numeric_limits<float>::quiet_NaN();
  if (args.rule.costs != nullptr) {
    const CostOptions costs = {args.rule.costs, args.rule.costs + args.num_layers + 1, args.rule.budget};
    const Budgeted kept = within_budget_cpu({args.scores, args.status, args.num_layers}, costs, mask);
    counters.kept_share = kept.kept_share;
    counters.step_cost = kept.cost;
  }
}

}  // namespace
}  // namespace layerselect::cuda

using namespace layerselect::cuda;

extern "C" {

int layerselect_host_norms(const NormLaunch* norms, const SelectArgs* select, CUstream_st* stream,
                           std::int32_t* launches) {
  for (std::uint32_t u = norms->first_unit; u < norms->last_unit; ++u) {
    const Unit& unit = norms->units[u];
    for (std::uint32_t i = unit.item; i < unit.item + std::max(unit.count, 1U); ++i) {
      const Item& item = norms->items[i];
      const auto type = static_cast<layerselect::DType>(item.tensor_and_type >> kTypeShift);
      const auto* tensor = static_cast<const char*>(norms->data[item.tensor_and_type & kTensorMask]);
      const std::int64_t skipped = item.offset * layerselect::element_size(type);
      norms->partials[i] = tensor == nullptr ? 0.0 : layerselect::sqnorm_run(tensor + skipped, item.length, type);
    }
  }
  *launches = norms->first_unit < norms->last_unit || select != nullptr ? 1 : 0;
  return select == nullptr ? 0 : layerselect_host_select(select, stream);
}

int layerselect_host_select(const SelectArgs* select, CUstream_st* /*stream*/) {
  const SelectArgs& args = *select;
  reduce_tensors(args);
  if (args.form == Form::kNone) {
    return 0;
  }
  const int n = args.num_layers;
  std::vector<float> raw(n);
  std::vector<bool> took(n);
  double total = 0.0;
  for (const double sum : sum_groups(args, raw, took)) {
    total += sum;
  }
  args.counters->total_norm = std::sqrt(total);
  if ((args.skip_nonfinite != 0 && !std::isfinite(total)) || (args.skip != nullptr && *args.skip != 0.0F)) {
    return 0;
  }
  for (int l = 0; l < n; ++l) {
    took[l] = took[l] && has(args.active, l);
  }
  update_scores(args, raw, took);
  const auto step = static_cast<std::uint32_t>(args.counters->step);
  const bool decides = step >= args.warmup && (step - args.warmup) % args.interval == 0;
  if (step < args.warmup) {
    std::fill_n(args.decided, n, std::uint8_t{1});
  } else if (decides) {
    const auto mask = std::make_unique<bool[]>(n);
    decide(args, mask.get());
    for (int l = 0; l < n; ++l) {
      args.decided[l] = mask[l] ? 1 : 0;
    }
  }
  const std::int64_t row = args.history_rows > 0 ? step % static_cast<std::uint32_t>(args.history_rows) : 0;
  for (int l = 0; l < n; ++l) {
    const bool selected = args.decided[l] != 0 && args.status[l] != layerselect::kExcluded;
    args.mask[l] = selected ? 1 : 0;
    args.frequency[l] += decides && selected ? 1 : 0;
    args.frequency[n + l] += decides && selected && took[l] ? 1 : 0;
    const bool missing = has(args.active, l) && !took[l];
    const bool open = args.decided[l] != 0 || missing || args.status[l] != layerselect::kMeasured;
    args.wanted[l] = l >= args.first_layer && open ? 1 : 0;
    args.gate[l] = selected ? 0.0F : 1.0F;
    if (args.history_rows > 0) {
      args.history_scores[row * n + l] = args.scores[l];
      args.history_mask[row * n + l] = args.mask[l];
      args.history_trained[row * n + l] = took[l] ? 1 : 0;
    }
  }
  args.gate[n] = 0.0F;
  if (args.history_rows > 0) {
    args.history_step[row] = args.counters->step;
    args.history_threshold[row] = args.counters->threshold;
  }
  args.counters->step += 1;
  return 0;
}

int layerselect_host_masked_copy(const CopyItem* items, std::int64_t count, const float* gate, std::int32_t back,
                                 std::int32_t /*max_blocks*/, CUstream_st* /*stream*/) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (gate[items[i].group] != 0.0F) {
      void* const to = back != 0 ? const_cast<void*>(items[i].from) : items[i].to;
      std::memcpy(to, back != 0 ? items[i].to : items[i].from, static_cast<std::size_t>(items[i].bytes));
    }
  }
  return 0;
}

int layerselect_host_max_blocks(std::int32_t /*num_layers*/, std::int32_t* blocks) {
  *blocks = 1;
  return 0;
}

const char* layerselect_host_error(int /*error*/) { return "unknown error"; }

}  // extern "C"
