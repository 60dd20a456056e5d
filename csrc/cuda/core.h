// DeviceCore: everything a selector keeps on a device, and the launches that fill it. The torch side of the kernels.
//
// Written against torch's device-generic streams, events and guards, so it compiles with every build of torch. On a
// CUDA device it calls the launchers of the .cu files; on the CPU it calls their twins in launch_host.cpp, so that
// plan, hooks, order of launches and state are tested where there is no GPU.
//
// Nothing here waits for the device, and after construction nothing is allocated, except a copy of a gradient that is
// not dense in memory. Work is launched on the current stream of the device; what was launched on others is ordered by
// events. Not thread-safe: GradientMonitor calls it under its lock.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "plan_cuda.h"
#include "step.h"

namespace layerselect::cuda {

// The plain C functions behind a device.
struct Launchers {
  decltype(&layerselect_cuda_norms) norms;
  decltype(&layerselect_cuda_select) select;
  decltype(&layerselect_cuda_masked_copy) masked_copy;
  decltype(&layerselect_cuda_max_blocks) max_blocks;
  const char* (*error)(int);
};

// Throws std::invalid_argument where this build has no kernels for such devices.
const Launchers& launchers_for(const c10::Device& device);
// True if kernels for CUDA devices were built.
bool has_cuda_kernels();

struct RuleOptions {
  std::string kind;  // "variance", "top", "threshold", "all", "fixed"
  double window_lo = 0.0;
  double window_hi = 1.0;
  bool inclusive = true;
  std::int64_t splits = 1;
  std::int64_t k = 0;
  double gamma = 0.0;
  std::optional<at::Tensor> fixed;  // bool [L] on the device
  std::optional<at::Tensor> costs;  // float64 [2 L + 1] on the device; the selection is cut down to the budget
  double budget = 1.0;
};

struct StepOptions {
  std::vector<std::int64_t> measured;    // the groups with a gradient
  std::vector<bool> active;              // [L] the layers that took gradients
  std::int64_t first_layer = 0;          // the layers below it take no part
  RuleOptions rule;
  std::int64_t warmup = 0;
  std::int64_t interval = 1;
  std::optional<at::Tensor> inv_scale;   // float32 [], on the device
  std::vector<std::int64_t> late;        // the groups whose sums are of a later moment than the backward pass
  std::optional<at::Tensor> late_inv_scale;  // float32 [], on the device: for their gradients
  std::optional<at::Tensor> skip;        // float32 [], on the device
  bool skip_nonfinite = false;           // a step with a gradient that is not finite is skipped, too
};

class DeviceCore {
 public:
  using Gradients = std::vector<std::optional<at::Tensor>>;

  // parameters[i] belongs to groups[i]: a layer, or num_layers for outer parameters. All on one device, at least one.
  // layer_numels: the elements of each layer, where `parameters` are but shards; else counted.
  DeviceCore(const std::vector<at::Tensor>& parameters, const std::vector<std::int64_t>& groups,
             std::int64_t num_layers, const std::string& form, std::int64_t history_rows,
             std::optional<std::vector<double>> layer_numels = std::nullopt);

  // Launches the sums of one group; its gradients in the order of its parameters.
  void launch_group(std::int64_t group, const std::vector<at::Tensor>& gradients);
  // Launches the sums of several groups, ascending: one launch for each run of groups that are neighbours. `gradients`
  // are those of all parameters, in their order.
  void launch_groups(const std::vector<std::int64_t>& groups, const Gradients& gradients);
  // What close_step() or sum_held() launches: the gradients of all parameters, in their order. They must stay alive
  // until then.
  void hold_all(const Gradients& gradients);
  // Makes of what is held, or of what was launched before, the sums by tensor in state "sqnorms", and no more: they may
  // then be replaced by sums over several processes, from which close_step() selects. There -1 says that no process has
  // the gradient.
  void sum_held();
  // The same for a caller that writes "sqnorms" itself, on the current stream.
  void take_sums() { summed_ = true; }
  // The closing launch: the sums of what is held, and the selection in its last block; or the selection alone.
  void close_step(const StepOptions& options);

  std::int64_t launches() const { return launches_; }  // of the last step, the closing ones included
  std::int64_t outer_group() const { return num_layers_; }
  const c10::Device& device() const { return device_; }
  // Live views on the device, by name: scores, status, nonfinite, decided, mask, wanted, gate, frequency,
  // trained_frequency, step, threshold, kept_share, step_cost, total_norm, group_sums, sqnorms (by tensor of the plan),
  // order (the parameter of each tensor), history_*.
  const std::map<std::string, at::Tensor>& state() const { return state_; }

 private:
  void set_pointer(std::size_t parameter, const at::Tensor& gradient);
  void launch(std::uint32_t first_unit, std::uint32_t last_unit, const SelectArgs* select, const c10::Stream& stream);
  void remember_launch(const c10::Stream& stream);
  void wait_for_launches(const c10::Stream& stream);
  SelectArgs select_args(const StepOptions& options) const;
  void set_sums(SelectArgs& args) const;
  void check(int error, const char* what) const;
  template <class T>
  T* data(const char* name) const {
    return static_cast<T*>(state_.at(name).mutable_data_ptr());
  }
  template <class T>
  const T* table(const char* name) const {
    return static_cast<const T*>(tables_.at(name).const_data_ptr());
  }

  c10::Device device_;
  const Launchers* launchers_;
  std::int64_t num_layers_;
  Form form_;
  std::int32_t max_blocks_ = 1;
  DevicePlan plan_;
  std::vector<std::size_t> tensor_of_;              // tensor of each parameter
  std::vector<std::vector<std::size_t>> members_;   // parameters of each group
  std::vector<std::int64_t> numels_;
  std::vector<at::ScalarType> types_;
  std::vector<const void*> pointers_;               // by tensor
  std::vector<at::Tensor> copies_;                  // of held gradients that are not dense
  std::uint32_t held_begin_ = 0;                    // units that the closing launch sums
  std::uint32_t held_end_ = 0;
  bool summed_ = false;                             // "sqnorms" is filled, in this step
  std::map<std::string, at::Tensor> state_;
  std::map<std::string, at::Tensor> tables_;        // the plan on the device
  c10::Stream home_;                                // where the last step was closed
  std::map<c10::StreamId, std::pair<c10::Stream, c10::Event>> away_;  // launches of this step on other streams
  std::optional<c10::Event> closed_;                // the last closing launch, where streams differed
  bool used_home_ = false;
  std::int64_t launches_ = 0;
  std::int64_t launches_now_ = 0;
};

}  // namespace layerselect::cuda
