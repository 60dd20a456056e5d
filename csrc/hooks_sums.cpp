// How GradientMonitor sums: which gradient a sum belongs to, and the sums of a group on the CPU or on a device.
#include "hooks.h"

#include <algorithm>
#include <utility>

#include "cpu/sqnorm_cpu.h"
#include "tensor_view.h"

namespace layerselect {
namespace {

std::int64_t version_of(const at::Tensor& tensor) {
  if (tensor.is_inference()) {  // has no version
    return 0;
  }
  return static_cast<std::int64_t>(tensor.unsafeGetTensorImpl()->version_counter().current_version());
}

}  // namespace

GradientMonitor::Match GradientMonitor::match(const Identity& summed, const at::Tensor& gradient) {
  if (!gradient.defined()) {
    return summed.version == kNoGradient ? Match::kUnchanged : Match::kOther;
  }
  if (summed.version < 0 || summed.tensor._unsafe_get_target() != gradient.unsafeGetTensorImpl() ||
      summed.data != gradient.const_data_ptr()) {
    return Match::kOther;
  }
  return summed.version == version_of(gradient) ? Match::kUnchanged : Match::kWritten;
}

bool GradientMonitor::written() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return std::any_of(slots_.begin(), slots_.end(), [](const Slot& slot) {
    const at::Tensor& gradient = slot.parameter.grad();
    return gradient.defined() && match(slot.summed, gradient) != Match::kUnchanged;
  });
}

GradientMonitor::Identity GradientMonitor::identity_of(const at::Tensor& gradient) {
  Identity identity;
  if (!gradient.defined()) {
    identity.version = kNoGradient;
    return identity;
  }
  return {c10::weak_intrusive_ptr<c10::TensorImpl>(gradient.getIntrusivePtr()), gradient.const_data_ptr(),
          version_of(gradient)};
}

std::vector<at::Tensor> GradientMonitor::gradients_of(const Group& group) const {
  std::vector<at::Tensor> gradients;
  gradients.reserve(group.slots.size());
  for (const std::size_t i : group.slots) {
    gradients.push_back(slots_[i].parameter.grad());
  }
  return gradients;
}

void GradientMonitor::compute_on_device(Group& group) {
  const std::vector<at::Tensor> gradients = gradients_of(group);
  for (const std::size_t i : group.slots) {
    slots_[i].summed.version = kUnknown;
  }
  core_->launch_group(&group - groups_.data(), gradients);
  for (std::size_t j = 0; j < gradients.size(); ++j) {
    slots_[group.slots[j]].summed = identity_of(gradients[j]);
  }
}

void GradientMonitor::compute(Group& group) {
  group.fired = 0;
  if (core_ != nullptr) {
    compute_on_device(group);
    return;
  }
  std::vector<std::size_t> changed;
  changed.reserve(group.slots.size());
  for (const std::size_t i : group.slots) {
    if (match(slots_[i].summed, slots_[i].parameter.grad()) != Match::kUnchanged) {
      changed.push_back(i);
    }
  }
  compute(changed, group.plan);
}

void GradientMonitor::compute(const std::vector<std::size_t>& slots, Plan& plan) {
  const std::size_t count = slots.size();
  std::vector<TensorView> views(count);
  std::vector<at::Tensor> copies(count);
  std::vector<Identity> identities(count);
  for (std::size_t j = 0; j < count; ++j) {
    Slot& slot = slots_[slots[j]];
    slot.summed.version = kUnknown;
    const at::Tensor& gradient = slot.parameter.grad();
    views[j] = view_of(gradient, [&] { return c10::str("the gradient of parameter ", slots[j]); }, copies[j]);
    // Taken before the sum: a gradient that changes meanwhile on another thread will not match.
    identities[j] = identity_of(gradient);
  }
  if (!plan.fits(views)) {
    std::vector<std::int64_t> numels(count);
    std::vector<std::int64_t> segments(count);
    for (std::size_t j = 0; j < count; ++j) {
      numels[j] = views[j].numel;
      segments[j] = static_cast<std::int64_t>(j);
    }
    plan = Plan(std::move(numels), segments, static_cast<std::int64_t>(count));
  }
  std::vector<double> sums(count);
  segment_sqnorm_cpu(plan, views, sums.data());
  double* out = sqnorms_.mutable_data_ptr<double>();
  for (std::size_t j = 0; j < count; ++j) {
    out[slots[j]] = sums[j];
    slots_[slots[j]].summed = std::move(identities[j]);
  }
}

void GradientMonitor::compute_waiting(Group& group) noexcept {
  try {
    compute(group.waiting, group.plan);
  } catch (const std::exception&) {
    // As in compute_in_backward().
  }
  group.waiting.clear();
  group.waiting_bytes = 0;
}

void GradientMonitor::compute_in_backward(Group& group) noexcept {
  try {
    compute(group);
    ++computed_now_;
  } catch (const std::exception&) {
    // A gradient that cannot be summed (sparse, say) must not break the user's backward pass. Its sum stays out of
    // date, so finish() meets the same error and raises it there.
  }
}

}  // namespace layerselect
