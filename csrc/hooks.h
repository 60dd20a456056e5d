// GradientMonitor: sums of squares of gradients, taken while the backward pass runs.
//
// A FunctionPostHook on each parameter's AccumulateGrad node sees the finished gradient, without the GIL and beside any
// hooks of the user's. When the last gradient of a group (a layer) is in, that group's sums are computed; of a large
// group, parts are computed before, while their gradients are still in the cache. Groups that stay incomplete (a
// parameter without a gradient) are computed when the backward pass ends.
//
// Hooks are an opportunity, not the truth: for each parameter the monitor remembers which gradient (tensor, memory,
// version) its sum belongs to, and finish() computes what the hooks missed: one that died, gradients assigned by hand,
// a backward pass that broke off.
//
// A sum is that of the gradient as the backward pass left it. What happens to gradients in place afterwards (clipping,
// unscaling) is not followed. What finish() computes is of the gradients as they are then: late() says which sums these
// are. It is only what the hooks missed; the other sums stay.
//
// A group without a gradient is not measured. Nor is one that no hook reported and whose gradients are all zero: that
// is how zero_grad(set_to_none=False) leaves a layer that then takes no part in the backward pass.
//
// On a device other than the CPU a DeviceCore stands behind the monitor: a group's sums are launched on the stream that
// produced its last gradient. What hooks missed is launched in finish(), by whole groups; where that is everything, the
// sums are part of the closing launch. Whether gradients are all zero is then for the device to see.
//
// Lifetime: an AccumulateGrad node dies with its last graph, and its hooks with it, unless somebody holds it, and a
// node holds its parameter. So a monitor keeps its parameters alive until close(). The binding closes it when the
// `owner` it was given (the model) goes away.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda/core.h"
#include "plan.h"

namespace layerselect {

class GradientMonitor : public std::enable_shared_from_this<GradientMonitor> {
 public:
  // parameters[i] (a leaf, floating point) belongs to groups[i], in [0, num_groups). Hooks are attached at once.
  static std::shared_ptr<GradientMonitor> create(const std::vector<at::Tensor>& parameters,
                                                 const std::vector<std::int64_t>& groups, std::int64_t num_groups,
                                                 std::shared_ptr<cuda::DeviceCore> core = nullptr);
  ~GradientMonitor();
  GradientMonitor(const GradientMonitor&) = delete;
  GradientMonitor& operator=(const GradientMonitor&) = delete;

  // float64[P]: the sum of squares of each parameter's gradient. Allocated once, written by hooks and finish(). With a
  // device core: its "sqnorms", in the order of its plan, written by close_step().
  at::Tensor sqnorms() const { return sqnorms_; }

  // Closes a step. Afterwards sqnorms holds the sum of every gradient that is there; a parameter without one counts 0,
  // except in a group that is frozen as a whole (nothing in it requires or has a gradient), which keeps its sums.
  // Puts back hooks that have died. `written`: gradients were written to since the backward pass, perhaps without a
  // trace (the versions of tensors that a GradScaler unscales stay as they are). Returns the groups that were measured;
  // with a device core those in which at least one parameter has a gradient.
  std::vector<std::int64_t> finish(bool written = false);

  // Removes every hook and lets go of the parameters; sqnorms keeps its values. Not to be called while a backward
  // pass runs.
  void close();

  // The parameters whose sums finish() computed in the last step, of the gradients as they were then, and not as the
  // backward pass left them; with a device core all those of their groups.
  std::vector<std::int64_t> late() const;
  // Whether a backward pass gave any parameter a gradient in the last step.
  bool fired() const;
  // Whether a gradient was gone when its hook ran in the last step: somebody takes gradients in the backward pass.
  bool taken() const;
  // Whether a gradient was written to in place, or replaced, since it was summed.
  bool written() const;
  // Hooks that had died and were put back, since the beginning.
  std::int64_t rearmed() const;
  // Group sums computed while backward passes ran (not by finish()) in the last step.
  std::int64_t computed_in_backward() const;

  // Keeps something alive as long as the monitor.
  void keep(std::shared_ptr<void> companion) { companion_ = std::move(companion); }

  // Called by the hooks and by the engine, on whatever thread autograd runs.
  void on_gradient(std::size_t index) noexcept;
  void on_backward_end() noexcept;

 private:
  using Node = decltype(torch::autograd::impl::grad_accumulator(std::declval<const at::Tensor&>()));

  // Which gradient a sum belongs to. The weak reference keeps the address of the tensor from being used again.
  struct Identity {
    c10::weak_intrusive_ptr<c10::TensorImpl> tensor{c10::intrusive_ptr<c10::TensorImpl>()};
    const void* data = nullptr;
    std::int64_t version = kUnknown;
  };
  // So many bytes of gradients may wait for the rest of their group: what a core's second-level cache holds.
  static constexpr std::int64_t kCacheBytes = 1 << 20;
  static constexpr std::int64_t kUnknown = -2;     // no sum was computed yet, or it failed
  static constexpr std::int64_t kNoGradient = -1;  // the sum is 0 because there is no gradient

  // Whether a gradient is the one that was summed: another one, the same but written to since, or untouched.
  enum class Match { kOther, kWritten, kUnchanged };

  struct Slot {
    at::Tensor parameter;
    std::int64_t group = 0;
    Node node;
    std::uintptr_t hook = 0;
    bool fired = false;          // since the group's sums were last computed
    bool fired_in_step = false;  // since finish()
    Identity summed;
  };

  struct Group {
    std::vector<std::size_t> slots;
    std::size_t fired = 0;             // parameters whose hook fired since the group was last computed
    std::size_t expected = 0;          // parameters that required a gradient when the first of them fired
    std::vector<std::size_t> waiting;  // those that fired and are not summed yet
    std::int64_t waiting_bytes = 0;
    Plan plan;  // of the last sums: each slot a segment of its own
  };

  // What finish() sees of a group.
  struct Look {
    bool has_gradient = false;
    bool trains = false;            // some parameter requires a gradient
    bool touched = false;           // a hook fired, or had died
    std::vector<std::size_t> late;  // gradients that are not summed, or were written to by nobody knows whom
    std::vector<std::size_t> gone;  // sums whose gradient is no longer there
  };

  GradientMonitor() = default;
  void attach(std::size_t index);
  static void detach(Slot& slot);
  void start_round(Group& group);
  void call_at_end_of_backward() noexcept;
  void compute_in_backward(Group& group) noexcept;
  void compute_waiting(Group& group) noexcept;
  void compute(Group& group);
  void compute(const std::vector<std::size_t>& slots, Plan& plan);
  void compute_on_device(Group& group);
  void compute_late_on_device(const std::vector<std::int64_t>& late, const std::vector<std::int64_t>& measured);
  std::vector<at::Tensor> gradients_of(const Group& group) const;
  Look look_at(const Group& group, bool written);
  bool is_zero(const Group& group) const;
  static Identity identity_of(const at::Tensor& gradient);
  static Match match(const Identity& summed, const at::Tensor& gradient);

  mutable std::mutex mutex_;
  std::vector<Slot> slots_;
  std::vector<Group> groups_;
  at::Tensor sqnorms_;
  std::shared_ptr<cuda::DeviceCore> core_;  // null: the sums are computed here, on the CPU
  std::int64_t rearmed_ = 0;
  std::int64_t computed_now_ = 0;
  std::int64_t computed_in_backward_ = 0;
  std::vector<std::int64_t> late_;
  bool fired_ = false;
  bool taken_ = false;
  bool taken_now_ = false;
  bool callback_queued_ = false;
  bool closed_ = false;
  std::shared_ptr<void> companion_;
};

}  // namespace layerselect
