#include "core.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/contiguous.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <limits>
#include <utility>

#include "../checks.h"
#include "../tensor_view.h"
#include "launch_host.h"

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

c10::Stream current_stream(const c10::Device& device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

CUstream_st* native(const c10::Stream& stream) {
  return stream.device_type() == c10::kCPU ? nullptr : static_cast<CUstream_st*>(stream.native_handle());
}

}  // namespace

bool has_cuda_kernels() {
#ifdef LAYERSELECT_WITH_CUDA
  return true;
#else
  return false;
#endif
}

const Launchers& launchers_for(const c10::Device& device) {
  static const Launchers host = {layerselect_host_norms, layerselect_host_select, layerselect_host_masked_copy,
                                 layerselect_host_max_blocks, layerselect_host_error};
#ifdef LAYERSELECT_WITH_CUDA
  static const Launchers cuda = {layerselect_cuda_norms, layerselect_cuda_select, layerselect_cuda_masked_copy,
                                 layerselect_cuda_max_blocks, layerselect_cuda_error};
  if (device.is_cuda()) {
    return cuda;
  }
#endif
  LS_CHECK(device.is_cpu(), "this build of layerselect has no kernels for device ", device,
           "; install the CUDA toolkit and a CUDA build of torch, then reinstall layerselect with LAYERSELECT_CUDA=1");
  return host;
}

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

void DeviceCore::check(int error, const char* what) const {
  TORCH_CHECK(error == 0, "layerselect: ", what, " failed on ", device_, ": ", launchers_->error(error));
}

void DeviceCore::set_pointer(std::size_t parameter, const at::Tensor& gradient) {
  const void*& pointer = pointers_[tensor_of_[parameter]];
  pointer = nullptr;
  if (!gradient.defined()) {
    return;
  }
  const auto name = [parameter] { return c10::str("the gradient of parameter ", parameter); };
  LS_CHECK(gradient.scalar_type() == types_[parameter] && gradient.numel() == numels_[parameter], name(), " has ",
           gradient.numel(), " elements of ", gradient.scalar_type(), ", the parameter had ", numels_[parameter],
           " of ",
           types_[parameter], " when the selector was built; build a new selector");
  at::Tensor copy;
  pointer = view_of(gradient, name, copy, device_).data;
  if (copy.defined()) {
    copies_.push_back(std::move(copy));
  }
}

void DeviceCore::launch(std::uint32_t first_unit, std::uint32_t last_unit, const SelectArgs* select,
                        const c10::Stream& stream) {
  const NormLaunch norms = {
      table<Item>("items"), table<Unit>("units"), data<double>("partials"), first_unit, last_unit,
      plan_.unit_tensors.data(),     pointers_.data(),              max_blocks_,              1};
  std::int32_t count = 0;
  check(launchers_->norms(&norms, select, native(stream), &count), "the norm pass");
  launches_now_ += count;
}

void DeviceCore::launch_group(std::int64_t group, const std::vector<at::Tensor>& gradients) {
  const c10::DeviceGuard guard(device_);
  const c10::Stream stream = current_stream(device_);
  copies_.clear();
  for (std::size_t j = 0; j < gradients.size(); ++j) {
    set_pointer(members_[group][j], gradients[j]);
  }
  if (stream != home_ && closed_.has_value()) {
    closed_->block(stream);  // the last selection may still read the partials
  }
  launch(plan_.unit_begin[group], plan_.unit_begin[group + 1], nullptr, stream);
  remember_launch(stream);
  copies_.clear();  // their memory is used again on this stream only, so after the launch
}

void DeviceCore::remember_launch(const c10::Stream& stream) {
  if (stream == home_) {
    used_home_ = true;
    return;
  }
  auto found = away_.find(stream.id());
  if (found == away_.end()) {
    found = away_.emplace(stream.id(), std::pair(stream, c10::Event(device_.type()))).first;
  }
  found->second.second.record(stream);
}

void DeviceCore::launch_groups(const std::vector<std::int64_t>& groups, const Gradients& gradients) {
  LS_CHECK(gradients.size() == pointers_.size(), gradients.size(), " gradients for ", pointers_.size(), " parameters");
  const c10::DeviceGuard guard(device_);
  const c10::Stream stream = current_stream(device_);
  copies_.clear();
  for (const std::int64_t group : groups) {
    LS_CHECK(0 <= group && group <= num_layers_, "group ", group, " is not in 0..", num_layers_);
    for (const std::size_t parameter : members_[group]) {
      set_pointer(parameter, gradients[parameter].value_or(at::Tensor()));
    }
  }
  if (stream != home_ && closed_.has_value()) {
    closed_->block(stream);  // the last selection may still read the partials
  }
  wait_for_launches(stream);  // and an earlier launch of this step may still write them
  for (std::size_t i = 0; i < groups.size();) {
    const std::uint32_t begin = plan_.unit_begin[groups[i]];
    std::uint32_t end = plan_.unit_begin[groups[i++] + 1];
    while (i < groups.size() && plan_.unit_begin[groups[i]] == end) {
      end = plan_.unit_begin[groups[i++] + 1];
    }
    launch(begin, end, nullptr, stream);
  }
  remember_launch(stream);
  copies_.clear();  // their memory is used again on this stream only, so after the launch
  summed_ = false;
}

void DeviceCore::hold_all(const Gradients& gradients) {
  LS_CHECK(gradients.size() == pointers_.size(), gradients.size(), " gradients for ", pointers_.size(), " parameters");
  const c10::DeviceGuard guard(device_);
  copies_.clear();
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    set_pointer(i, gradients[i].value_or(at::Tensor()));
  }
  held_begin_ = 0;
  held_end_ = static_cast<std::uint32_t>(plan_.units.size());
}

void DeviceCore::wait_for_launches(const c10::Stream& stream) {
  if (stream != home_ && used_home_) {
    c10::Event at_home(device_.type());
    at_home.record(home_);
    at_home.block(stream);
  }
  for (auto& [id, launched] : away_) {
    if (launched.first != stream) {
      launched.second.block(stream);
    }
  }
}

void DeviceCore::sum_held() {
  const c10::DeviceGuard guard(device_);
  const c10::Stream stream = current_stream(device_);
  SelectArgs args = {};
  set_sums(args);
  args.counters = data<Counters>("counters");  // its tickets
  args.form = Form::kNone;
  wait_for_launches(stream);
  launch(held_begin_, held_end_, &args, stream);
  remember_launch(stream);
  copies_.clear();
  held_begin_ = held_end_ = 0;
  summed_ = true;
}

void DeviceCore::close_step(const StepOptions& options) {
  const c10::DeviceGuard guard(device_);
  const c10::Stream stream = current_stream(device_);
  SelectArgs args = select_args(options);
  const bool streams_differ = !away_.empty() || stream != home_;
  wait_for_launches(stream);
  if (summed_) {
    args.num_reduced = 0;
  }
  if (summed_ || held_begin_ == held_end_) {
    check(launchers_->select(&args, native(stream)), "the selection");
    ++launches_now_;
  } else {
    launch(held_begin_, held_end_, &args, stream);
  }
  if (streams_differ) {
    if (!closed_.has_value()) {
      closed_.emplace(device_.type());
    }
    closed_->record(stream);
  }
  home_ = stream;
  away_.clear();
  used_home_ = false;
  held_begin_ = held_end_ = 0;
  summed_ = false;
  copies_.clear();
  launches_ = std::exchange(launches_now_, 0);
}

}  // namespace layerselect::cuda
