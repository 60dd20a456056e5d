// How DeviceCore launches: the sums of groups while the backward pass runs, and the launch that closes a step.
#include "core.h"

#include <c10/core/DeviceGuard.h>

#include <utility>

#include "../checks.h"
#include "../tensor_view.h"
#include "streams.h"

namespace layerselect::cuda {
namespace {

CUstream_st* native(const c10::Stream& stream) {
  return stream.device_type() == c10::kCPU ? nullptr : static_cast<CUstream_st*>(stream.native_handle());
}

}  // namespace

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
