// How GradientMonitor listens: its hooks, and when the gradients of a group are in.
#include "hooks.h"

#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/function.h>

#include <utility>

#include "checks.h"

namespace layerselect {
namespace {

namespace impl = torch::autograd::impl;

class GradientHook final : public torch::autograd::FunctionPostHook {
 public:
  // Weak: the monitor holds the node, which holds this hook.
  GradientHook(std::weak_ptr<GradientMonitor> monitor, std::size_t index)
      : monitor_(std::move(monitor)), index_(index) {}

  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list& /*inputs*/) override {
    if (const auto monitor = monitor_.lock()) {
      monitor->on_gradient(index_);
    }
    return outputs;
  }

  // Asked for by compiled autograd alone, which runs no hook in C++: better an error than a gradient that nobody saw.
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& /*args*/) const override {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false,
        "a FastSelector measures this backward pass with hooks that compiled autograd cannot run: build the selector "
        "with capture='step', or switch compiled autograd off");
  }

 private:
  std::weak_ptr<GradientMonitor> monitor_;
  std::size_t index_;
};

}  // namespace

std::shared_ptr<GradientMonitor> GradientMonitor::create(const std::vector<at::Tensor>& parameters,
                                                         const std::vector<std::int64_t>& groups,
                                                         std::int64_t num_groups,
                                                         std::shared_ptr<cuda::DeviceCore> core) {
  LS_CHECK(core == nullptr || core->outer_group() == num_groups - 1, "num_groups is ", num_groups,
           "; with a device core it must be one more than its layers");
  LS_CHECK(groups.size() == parameters.size(), "groups has ", groups.size(), " entries for ", parameters.size(),
           " parameters; give one group for each");
  LS_CHECK(num_groups >= 0, "num_groups is ", num_groups, "; it must not be negative");
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const at::Tensor& p = parameters[i];
    LS_CHECK(p.defined(), "parameters[", i, "] is None");
    LS_CHECK(groups[i] >= 0 && groups[i] < num_groups, "groups[", i, "] is ", groups[i], "; it must be in 0..",
             num_groups - 1);
    LS_CHECK(p.is_leaf(), "parameters[", i, "] is not a leaf: only leaves accumulate gradients");
    LS_CHECK(p.is_floating_point(), "parameters[", i, "] has dtype ", p.scalar_type(),
             "; only floating point parameters have gradients");
  }
  std::shared_ptr<GradientMonitor> monitor(new GradientMonitor());
  monitor->groups_.resize(static_cast<std::size_t>(num_groups));
  monitor->slots_.resize(parameters.size());
  monitor->sqnorms_ = core != nullptr ? core->state().at("sqnorms")
                                      : at::zeros({static_cast<std::int64_t>(parameters.size())}, at::kDouble);
  monitor->core_ = std::move(core);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    monitor->slots_[i].parameter = parameters[i];
    monitor->slots_[i].group = groups[i];
    monitor->groups_[groups[i]].slots.push_back(i);
    monitor->attach(i);
  }
  return monitor;
}

GradientMonitor::~GradientMonitor() { close(); }

void GradientMonitor::attach(std::size_t index) {
  Slot& slot = slots_[index];
  // A leaf that requires no gradient has no accumulator; once there is one, it stays through later changes of
  // requires_grad.
  const bool frozen = !slot.parameter.requires_grad();
  if (frozen) {
    slot.parameter.set_requires_grad(true);
  }
  slot.node = impl::grad_accumulator(slot.parameter);
  if (frozen) {
    slot.parameter.set_requires_grad(false);
  }
  slot.hook = slot.node->add_post_hook(std::make_unique<GradientHook>(weak_from_this(), index));
}

void GradientMonitor::detach(Slot& slot) {
  if (slot.node) {
    slot.node->del_post_hook(slot.hook);
    slot.node = {};
  }
}

void GradientMonitor::start_round(Group& group) {
  group.fired = 0;
  group.expected = 0;
  group.waiting.clear();
  group.waiting_bytes = 0;
  for (const std::size_t i : group.slots) {
    slots_[i].fired = false;
    group.expected += slots_[i].parameter.requires_grad() ? 1 : 0;
  }
}

void GradientMonitor::on_gradient(std::size_t index) noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (closed_) {
    return;
  }
  Slot& slot = slots_[index];
  Group& group = groups_[slot.group];
  slot.fired_in_step = true;
  taken_now_ = taken_now_ || !slot.parameter.grad().defined();
  if (group.fired == 0) {
    start_round(group);
  }
  if (slot.fired) {  // a shared parameter under reentrant checkpointing fires once per segment
    return;
  }
  slot.fired = true;
  if (++group.fired >= group.expected) {
    compute_in_backward(group);
    return;
  }
  call_at_end_of_backward();
  group.waiting.push_back(index);
  group.waiting_bytes += static_cast<std::int64_t>(slot.parameter.nbytes());
  if (core_ == nullptr && group.waiting_bytes >= kCacheBytes) {
    compute_waiting(group);
  }
}

void GradientMonitor::call_at_end_of_backward() noexcept {
  if (callback_queued_) {
    return;
  }
  try {
    torch::autograd::Engine::get_default_engine().queue_callback([weak = weak_from_this()] {
      if (const auto monitor = weak.lock()) {
        monitor->on_backward_end();
      }
    });
    callback_queued_ = true;
  } catch (const std::exception&) {
    // Not inside a backward pass of the engine: finish() computes what is left.
  }
}

void GradientMonitor::on_backward_end() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  callback_queued_ = false;
  for (Group& group : groups_) {
    if (group.fired > 0) {
      compute_in_backward(group);
    }
  }
}

void GradientMonitor::close() {
  std::vector<Slot> slots;  // released after the lock: the last reference to a parameter may need the GIL
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  slots.swap(slots_);
  for (Slot& slot : slots) {
    detach(slot);
  }
  groups_.clear();
}

std::vector<std::int64_t> GradientMonitor::late() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return late_;
}

bool GradientMonitor::fired() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return fired_;
}

bool GradientMonitor::taken() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return taken_;
}

std::int64_t GradientMonitor::rearmed() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return rearmed_;
}

std::int64_t GradientMonitor::computed_in_backward() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return computed_in_backward_;
}

}  // namespace layerselect
