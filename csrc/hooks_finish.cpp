// How GradientMonitor closes a step: what the hooks did is compared with the gradients that are there, and what they
// missed is computed.
#include "hooks.h"

#include <torch/csrc/autograd/function.h>

#include <algorithm>
#include <utility>

#include "checks.h"

namespace layerselect {

GradientMonitor::Look GradientMonitor::look_at(const Group& group, bool written) {
  Look look;
  bool fired = false;
  for (const std::size_t i : group.slots) {
    Slot& slot = slots_[i];
    if (std::exchange(slot.fired_in_step, false)) {
      fired = true;
    } else if (torch::autograd::impl::try_get_grad_accumulator(slot.parameter) != slot.node) {
      // The hook did not fire because the parameter no longer uses the node that it is on.
      detach(slot);
      attach(i);
      ++rearmed_;
      look.touched = true;
    }
  }
  look.touched = look.touched || fired;
  fired_ = fired_ || fired;
  for (const std::size_t i : group.slots) {
    const Slot& slot = slots_[i];
    const at::Tensor& gradient = slot.parameter.grad();
    const Match found = match(slot.summed, gradient);
    look.trains = look.trains || slot.parameter.requires_grad();
    if (!gradient.defined()) {
      if (found != Match::kUnchanged) {
        look.gone.push_back(i);
      }
      continue;
    }
    look.has_gradient = true;
    // What was written to a gradient counts where no hook fired, so that nobody knows who did it, and where the
    // backward pass broke off. Else it came after the backward pass.
    const bool counts = fired ? group.fired > 0 && found == Match::kWritten : written || found == Match::kWritten;
    if (found == Match::kOther || counts) {
      look.late.push_back(i);
    }
  }
  return look;
}

bool GradientMonitor::is_zero(const Group& group) const {
  const double* sums = sqnorms_.const_data_ptr<double>();
  return std::all_of(group.slots.begin(), group.slots.end(), [sums](std::size_t i) { return sums[i] == 0.0; });
}

std::vector<std::int64_t> GradientMonitor::finish(bool written) {
  const std::lock_guard<std::mutex> lock(mutex_);
  LS_CHECK(!closed_, "the gradient monitor is closed; make a new one");
  callback_queued_ = false;  // a backward pass that ended in an exception never calls back
  computed_in_backward_ = std::exchange(computed_now_, 0);
  late_.clear();
  fired_ = false;
  taken_ = std::exchange(taken_now_, false);
  std::vector<Look> looks;
  looks.reserve(groups_.size());
  for (const Group& group : groups_) {
    looks.push_back(look_at(group, written));
  }
  std::vector<std::int64_t> measured;
  std::vector<std::int64_t> late;  // groups, for a device
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    Look& look = looks[g];
    Group& group = groups_[g];
    const auto number = static_cast<std::int64_t>(g);
    if (core_ != nullptr) {
      if (look.has_gradient) {
        measured.push_back(number);
        // Of what no hook reported the device must see whether it is all zero.
        if (!look.late.empty() || !look.gone.empty() || !look.touched) {
          late.push_back(number);
        }
      }
      group.fired = 0;
      continue;
    }
    late_.insert(late_.end(), look.late.begin(), look.late.end());
    if (look.has_gradient || look.trains) {  // else it is frozen and keeps its sums
      look.late.insert(look.late.end(), look.gone.begin(), look.gone.end());
      if (!look.late.empty()) {
        std::sort(look.late.begin(), look.late.end());
        compute(look.late, group.plan);
      }
    }
    group.fired = 0;
    if (look.has_gradient && (look.touched || !is_zero(group))) {
      measured.push_back(number);
    }
  }
  if (!late.empty()) {
    compute_late_on_device(late, measured);
  }
  return measured;
}

// Group by group; in the closing launch if nothing else was measured.
void GradientMonitor::compute_late_on_device(const std::vector<std::int64_t>& late,
                                             const std::vector<std::int64_t>& measured) {
  cuda::DeviceCore::Gradients gradients;
  gradients.reserve(slots_.size());
  for (const Slot& slot : slots_) {
    gradients.emplace_back(slot.parameter.grad());
  }
  for (const std::int64_t g : late) {
    for (const std::size_t i : groups_[g].slots) {
      slots_[i].summed.version = kUnknown;
      late_.push_back(static_cast<std::int64_t>(i));
    }
  }
  if (late == measured) {
    core_->hold_all(gradients);
  } else {
    core_->launch_groups(late, gradients);
  }
  for (const std::int64_t i : late_) {
    slots_[i].summed = identity_of(slots_[i].parameter.grad());
  }
}

}  // namespace layerselect
