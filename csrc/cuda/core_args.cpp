// What a step's options become in the arguments of a selection.
#include <algorithm>
#include <cmath>

#include "../checks.h"
#include "core.h"

namespace layerselect::cuda {
namespace {

const float* scalar_pointer(const std::optional<at::Tensor>& tensor, const char* name, const c10::Device& device) {
  if (!tensor.has_value()) {
    return nullptr;
  }
  LS_CHECK(tensor->device() == device && tensor->scalar_type() == at::kFloat && tensor->numel() == 1, name,
           " must be one float32 number on ", device, ", not ", tensor->sizes(), " of ", tensor->scalar_type(), " on ",
           tensor->device());
  return tensor->const_data_ptr<float>();
}

}  // namespace

// From partial sums to sums by tensor.
void DeviceCore::set_sums(SelectArgs& args) const {
  args.partials = data<double>("partials");
  args.item_begin = table<std::int32_t>("item_begin");
  args.tensor_sums = data<double>("sqnorms");
  args.num_reduced = static_cast<std::int32_t>(pointers_.size());
}

SelectArgs DeviceCore::select_args(const StepOptions& options) const {
  SelectArgs args = {};
  set_sums(args);
  args.group_begin = table<std::int32_t>("group_begin");
  args.group_tensors = table<std::int32_t>("group_tensors");
  args.numels = table<double>("numels");
  args.inv_scale = scalar_pointer(options.inv_scale, "inv_scale", device_);
  args.late_inv_scale = scalar_pointer(options.late_inv_scale, "late_inv_scale", device_);
  args.group_sums = data<double>("group_sums");
  args.skip = scalar_pointer(options.skip, "skip", device_);
  args.skip_nonfinite = options.skip_nonfinite ? 1 : 0;
  args.scores = data<float>("scores");
  args.status = data<std::uint8_t>("status");
  args.nonfinite = data<std::int64_t>("nonfinite");
  args.decided = data<std::uint8_t>("decided");
  args.mask = data<std::uint8_t>("mask");
  args.wanted = data<std::uint8_t>("wanted");
  args.gate = data<float>("gate");
  args.frequency = data<std::int64_t>("frequencies");
  args.counters = data<Counters>("counters");
  args.history_step = data<std::int64_t>("history_step");
  args.history_threshold = data<float>("history_threshold");
  args.history_scores = data<float>("history_scores");
  args.history_mask = data<std::uint8_t>("history_mask");
  args.history_trained = data<std::uint8_t>("history_trained");
  args.history_rows = static_cast<std::int32_t>(state_.at("history_step").numel());
  args.num_layers = static_cast<std::int32_t>(num_layers_);
  args.form = form_;

  const RuleOptions& rule = options.rule;
  static const std::map<std::string, RuleKind> kinds = {{"variance", RuleKind::kVariance},
                                                        {"top", RuleKind::kTop},
                                                        {"threshold", RuleKind::kThreshold},
                                                        {"all", RuleKind::kAll},
                                                        {"fixed", RuleKind::kFixed}};
  const auto kind = kinds.find(rule.kind);
  LS_CHECK(kind != kinds.end(), "rule \"", rule.kind, "\" is not one that the device knows");
  LS_CHECK(0.0 <= rule.window_lo && rule.window_lo <= rule.window_hi && rule.window_hi <= 1.0, "window is (",
           rule.window_lo, ", ", rule.window_hi, "); it must hold 0 <= low <= high <= 1");
  LS_CHECK(rule.k >= 0 && rule.splits >= 1 && !std::isnan(rule.gamma), "k is ", rule.k, ", splits ", rule.splits,
           ", gamma ", rule.gamma, "; they must be at least 0, at least 1, and a number");
  LS_CHECK(options.interval >= 1 && options.warmup >= 0,
           "interval is ", options.interval, " and warmup ", options.warmup,
           "; they must be at least 1 and 0");
  args.rule = {kind->second,
               rule.inclusive ? 1 : 0,
               static_cast<std::int32_t>(std::min<std::int64_t>(rule.splits, kMaxLayers)),
               static_cast<std::int32_t>(std::min<std::int64_t>(rule.k, kMaxLayers)),
               rule.window_lo,
               rule.window_hi,
               nullptr,
               nullptr,
               rule.budget,
               static_cast<float>(rule.gamma)};
  if (kind->second == RuleKind::kFixed) {
    LS_CHECK(rule.fixed.has_value() && rule.fixed->device() == device_ && rule.fixed->scalar_type() == at::kBool &&
                 rule.fixed->numel() == num_layers_ && rule.fixed->is_contiguous(),
             "rule \"fixed\" needs a bool mask of ", num_layers_, " layers on ", device_);
    args.rule.fixed = static_cast<const std::uint8_t*>(rule.fixed->const_data_ptr());
  }
  if (rule.costs.has_value()) {
    LS_CHECK(rule.costs->device() == device_ && rule.costs->scalar_type() == at::kDouble &&
                 rule.costs->numel() == 2 * num_layers_ + 1 && rule.costs->is_contiguous(),
             "costs must be ", 2 * num_layers_ + 1, " float64 numbers on ", device_, " for ", num_layers_, " layers");
    LS_CHECK(0.0 < rule.budget && std::isfinite(rule.budget),
             "budget is ", rule.budget, "; it must be a positive number");
    args.rule.costs = rule.costs->const_data_ptr<double>();
  }
  args.warmup = static_cast<std::uint32_t>(options.warmup);
  args.interval = static_cast<std::uint32_t>(options.interval);
  for (const std::int64_t group : options.measured) {
    LS_CHECK(0 <= group && group <= num_layers_, "measured group ", group, " is not in 0..", num_layers_);
    args.present.words[group / 32] |= 1U << (group % 32);
  }
  for (const std::int64_t group : options.late) {
    LS_CHECK(0 <= group && group <= num_layers_, "late group ", group, " is not in 0..", num_layers_);
    args.late.words[group / 32] |= 1U << (group % 32);
  }
  LS_CHECK(static_cast<std::int64_t>(options.active.size()) == num_layers_, "active has ", options.active.size(),
           " entries for ", num_layers_, " layers");
  for (std::size_t l = 0; l < options.active.size(); ++l) {
    args.active.words[l / 32] |= (options.active[l] ? 1U : 0U) << (l % 32);
  }
  LS_CHECK(0 <= options.first_layer && options.first_layer <= num_layers_, "first_layer is ", options.first_layer,
           "; it must be in 0..", num_layers_);
  args.first_layer = static_cast<std::int32_t>(options.first_layer);
  return args;
}

}  // namespace layerselect::cuda
