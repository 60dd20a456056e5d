// How DeviceCore is built: its plan and its state on the device, everything allocated once.
#include "core.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <limits>

#include "../checks.h"
#include "../tensor_view.h"
#include "streams.h"

namespace layerselect::cuda {
namespace {

Form form_of(const std::string& name) {
  LS_CHECK(name == "l2" || name == "rms" || name == "sqrt_sum", "score is \"", name,
           "\"; it must be \"l2\", \"rms\" or \"sqrt_sum\"");
  return name == "l2" ? Form::kL2 : name == "rms" ? Form::kRms : Form::kSqrtSum;
}

std::vector<DType> types_of(const std::vector<at::Tensor>& parameters) {
  std::vector<DType> types;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    types.push_back(dtype_of(parameters[i], [i] { return c10::str("parameters[", i, "]"); }));
  }
  return types;
}

std::vector<std::int64_t> numels_of(const std::vector<at::Tensor>& parameters) {
  std::vector<std::int64_t> numels;
  for (const at::Tensor& parameter : parameters) {
    numels.push_back(parameter.numel());
  }
  return numels;
}

// A host vector as a tensor of bytes on the device. Once, when the selector is built: this copy may wait.
template <class T>
at::Tensor upload(const std::vector<T>& from, const c10::Device& device) {
  const auto bytes = static_cast<std::int64_t>(from.size() * sizeof(T));
  at::Tensor on_host = at::empty({std::max<std::int64_t>(bytes, 16)}, at::kByte);
  std::copy_n(reinterpret_cast<const std::uint8_t*>(from.data()), bytes, on_host.mutable_data_ptr<std::uint8_t>());
  return on_host.to(device);
}

}  // namespace

DeviceCore::DeviceCore(const std::vector<at::Tensor>& parameters, const std::vector<std::int64_t>& groups,
                       std::int64_t num_layers, const std::string& form, std::int64_t history_rows,
                       std::optional<std::vector<double>> layer_numels)
    : device_(parameters.empty() ? c10::Device(c10::kCPU) : parameters[0].device()),
      launchers_(&launchers_for(device_)),
      num_layers_(num_layers),
      form_(form_of(form)),
      plan_(numels_of(parameters), types_of(parameters), groups, num_layers + 1),
      tensor_of_(parameters.size()),
      members_(static_cast<std::size_t>(num_layers) + 1),
      numels_(numels_of(parameters)),
      pointers_(parameters.size(), nullptr),
      home_(current_stream(device_)) {
  LS_CHECK(groups.size() == parameters.size(), "groups has ", groups.size(), " entries for ", parameters.size(),
           " parameters; give one group for each");
  LS_CHECK(1 <= num_layers && num_layers <= kMaxLayers, "num_layers is ", num_layers,
           "; it must be in 1..", kMaxLayers);
  LS_CHECK(history_rows >= 0, "history_rows is ", history_rows, "; it must not be negative");
  const bool counts = !layer_numels.has_value();
  std::vector<double> own_numels(static_cast<std::size_t>(num_layers), 0.0);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    LS_CHECK(parameters[i].device() == device_, "parameters[", i, "] is on ", parameters[i].device(), ", the first on ",
             device_, "; give each device a core of its own");
    LS_CHECK(0 <= groups[i] && groups[i] <= num_layers, "groups[", i, "] is ", groups[i],
             "; it must be in 0..", num_layers);
    members_[groups[i]].push_back(i);
    types_.push_back(parameters[i].scalar_type());
    if (groups[i] < num_layers) {
      own_numels[groups[i]] += static_cast<double>(numels_[i]);
    }
  }
  const std::vector<double>& all_numels = counts ? own_numels : *layer_numels;
  LS_CHECK(static_cast<std::int64_t>(all_numels.size()) == num_layers, "layer_numels has ", all_numels.size(),
           " entries for ", num_layers, " layers; give one number for each");
  for (std::size_t t = 0; t < plan_.order.size(); ++t) {
    tensor_of_[plan_.order[t]] = t;
  }
  const c10::DeviceGuard guard(device_);
  tables_["items"] = upload(plan_.items, device_);
  tables_["units"] = upload(plan_.units, device_);
  tables_["item_begin"] = upload(plan_.item_begin, device_);
  tables_["group_begin"] = upload(plan_.group_begin, device_);
  tables_["group_tensors"] = upload(plan_.group_tensors, device_);
  tables_["numels"] = upload(all_numels, device_);

  const auto on = at::TensorOptions().device(device_);
  const std::int64_t n = num_layers;
  const auto tensors = static_cast<std::int64_t>(parameters.size());
  state_["partials"] = at::zeros({static_cast<std::int64_t>(plan_.items.size())}, on.dtype(at::kDouble));
  state_["sqnorms"] = at::zeros({tensors}, on.dtype(at::kDouble));
  state_["group_sums"] = at::zeros({num_layers + 1}, on.dtype(at::kDouble));
  state_["order"] = upload(plan_.order, device_).view(at::kLong).narrow(0, 0, tensors);
  state_["scores"] = at::full({n}, std::numeric_limits<float>::quiet_NaN(), on.dtype(at::kFloat));
  state_["status"] = at::full({n}, static_cast<std::int64_t>(kNeverMeasured), on.dtype(at::kByte));
  state_["nonfinite"] = at::zeros({n}, on.dtype(at::kLong));
  for (const char* name : {"decided", "mask", "wanted"}) {
    state_[name] = at::ones({n}, on.dtype(at::kBool));
  }
  state_["gate"] = at::zeros({n + 1}, on.dtype(at::kFloat));
  state_["frequencies"] = at::zeros({2, n}, on.dtype(at::kLong));
  state_["frequency"] = state_["frequencies"].select(0, 0);
  state_["trained_frequency"] = state_["frequencies"].select(0, 1);
  at::Tensor counters = at::zeros({4}, on.dtype(at::kLong));
  static_assert(sizeof(Counters) == 32 && offsetof(Counters, total_norm) == 8 && offsetof(Counters, threshold) == 16 &&
                offsetof(Counters, kept_share) == 24 && offsetof(Counters, step_cost) == 28);
  state_["counters"] = counters;
  state_["step"] = counters.select(0, 0);
  state_["total_norm"] = counters.view(at::kDouble).select(0, 1);
  state_["threshold"] = counters.view(at::kFloat).select(0, 4);
  state_["kept_share"] = counters.view(at::kFloat).select(0, 6);
  state_["step_cost"] = counters.view(at::kFloat).select(0, 7);
  for (const char* name : {"threshold", "kept_share", "step_cost"}) {
    state_[name].fill_(std::numeric_limits<float>::quiet_NaN());
  }
  state_["history_step"] = at::zeros({history_rows}, on.dtype(at::kLong));
  state_["history_threshold"] = at::zeros({history_rows}, on.dtype(at::kFloat));
  state_["history_scores"] = at::zeros({history_rows, n}, on.dtype(at::kFloat));
  state_["history_mask"] = at::zeros({history_rows, n}, on.dtype(at::kBool));
  state_["history_trained"] = at::zeros({history_rows, n}, on.dtype(at::kBool));
  check(launchers_->max_blocks(static_cast<std::int32_t>(n), &max_blocks_), "asking the device for its size");
}

}  // namespace layerselect::cuda
