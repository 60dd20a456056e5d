// Registration only: what each function does stands in its own file.
#include <torch/csrc/utils/pybind.h>
#include <pybind11/stl.h>

#include "cpu/sqnorm_kernel.h"
#include "cuda/core.h"
#include "cuda/keeper.h"
#include "gradient_marks.h"
#include "hooks.h"
#include "ops.h"
#include "weight_marks.h"

namespace {

using layerselect::GradientMonitor;
using layerselect::cuda::DeviceCore;
using layerselect::cuda::Keeper;
using NoGil = py::call_guard<py::gil_scoped_release>;

// A Python weak reference that closes the monitor when `owner` goes away. It refers to the monitor weakly, too.
std::shared_ptr<void> close_with(const std::shared_ptr<GradientMonitor>& monitor, const py::object& owner) {
  const py::cpp_function callback([weak = std::weak_ptr<GradientMonitor>(monitor)](const py::handle& /*reference*/) {
    if (const auto alive = weak.lock()) {
      const py::gil_scoped_release no_gil;
      alive->close();
    }
  });
  return {new py::weakref(owner, callback), [](py::weakref* reference) {
            const py::gil_scoped_acquire gil;  // the monitor may be released by a thread of autograd
            delete reference;
          }};
}

std::shared_ptr<GradientMonitor> make_monitor(const std::vector<at::Tensor>& parameters,
                                              const std::vector<std::int64_t>& groups, std::int64_t num_groups,
                                              const py::object& owner, std::shared_ptr<DeviceCore> core) {
  auto monitor = GradientMonitor::create(parameters, groups, num_groups, std::move(core));
  if (!owner.is_none()) {
    monitor->keep(close_with(monitor, owner));
  }
  return monitor;
}

// All of StepOptions by keyword. Tensors it refers to must stay alive until the device has read them: the caller keeps
// them.
void close_step(DeviceCore& core, std::vector<std::int64_t> measured, std::vector<bool> active,
                std::int64_t first_layer, const std::string& kind, std::pair<double, double> window, bool inclusive,
                std::int64_t splits, std::int64_t k, double gamma,
                std::optional<at::Tensor> fixed, std::optional<at::Tensor> costs, double budget, std::int64_t warmup,
                std::int64_t interval, std::optional<at::Tensor> inv_scale, std::vector<std::int64_t> late,
                std::optional<at::Tensor> late_inv_scale,
                std::optional<at::Tensor> skip, bool skip_nonfinite) {
  core.close_step({std::move(measured), std::move(active), first_layer,
                   {kind, window.first, window.second, inclusive, splits, k, gamma, std::move(fixed),
                    std::move(costs), budget},
                   warmup, interval, std::move(inv_scale), std::move(late), std::move(late_inv_scale),
                    std::move(skip), skip_nonfinite});
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Compiled core of layerselect; use it through layerselect.ops and FastSelector.";

  // What operators.cpp registers, called through the dispatcher.
  const py::object operators = py::module_::import("torch").attr("ops").attr("layerselect");
  m.attr("segment_sqnorm") = operators.attr("segment_sqnorm").attr("default");
  m.attr("variance_split") = operators.attr("variance_split").attr("default");
  // For tests: what the operator does on a device, on the CPU with the kernels' twins.
  m.def("segment_sqnorm_on_device", &layerselect::segment_sqnorm_on_device, py::arg("tensors"), py::arg("segments"),
        py::arg("num_segments"), py::arg("inv_scale") = py::none(), NoGil());
  m.def("top_ranked", &layerselect::top_ranked, py::arg("scores"), py::arg("status"), py::arg("k"), NoGil());
  m.def("above", &layerselect::above, py::arg("scores"), py::arg("status"), py::arg("gamma"), NoGil());
  m.def("within_budget", &layerselect::within_budget, py::arg("scores"), py::arg("status"), py::arg("base"),
        py::arg("costs"), py::arg("budget"), NoGil());
  m.def("instruction_set", &layerselect::sqnorm_instruction_set);
#ifdef _OPENMP
  m.attr("openmp") = true;  // norms are summed on as many threads as torch has
#else
  m.attr("openmp") = false;
#endif

  // The monitor's lock is only ever waited for without the GIL: whoever holds it may need the GIL to release a tensor.
  py::class_<GradientMonitor, std::shared_ptr<GradientMonitor>>(m, "GradientMonitor")
      .def(py::init(&make_monitor), py::arg("parameters"), py::arg("groups"), py::arg("num_groups"),
           py::arg("owner") = py::none(), py::arg("core") = py::none())
      .def("finish", &GradientMonitor::finish, py::arg("written") = false, NoGil())
      .def("close", &GradientMonitor::close, NoGil())
      .def_property_readonly("sqnorms", &GradientMonitor::sqnorms)
      .def("written", &GradientMonitor::written, NoGil())
      .def_property_readonly("late", py::cpp_function(&GradientMonitor::late, NoGil()))
      .def_property_readonly("fired", py::cpp_function(&GradientMonitor::fired, NoGil()))
      .def_property_readonly("taken", py::cpp_function(&GradientMonitor::taken, NoGil()))
      .def_property_readonly("rearmed", py::cpp_function(&GradientMonitor::rearmed, NoGil()))
      .def_property_readonly("computed_in_backward", py::cpp_function(&GradientMonitor::computed_in_backward, NoGil()));

  py::class_<layerselect::GradientMarks>(m, "GradientMarks")
      .def(py::init<std::vector<at::Tensor>>(), py::arg("parameters"))
      .def("mark", &layerselect::GradientMarks::mark, NoGil())
      .def("moved", &layerselect::GradientMarks::moved, NoGil());

  // With the GIL: a look takes less time than giving it away.
  py::class_<layerselect::WeightMarks>(m, "WeightMarks")
      .def(py::init<std::vector<at::Tensor>>(), py::arg("parameters"))
      .def("note", &layerselect::WeightMarks::note, py::arg("begin"), py::arg("end"))
      .def("moved", &layerselect::WeightMarks::moved, py::arg("begin"), py::arg("end"));

  m.def("has_cuda_kernels", &layerselect::cuda::has_cuda_kernels);
  py::class_<DeviceCore, std::shared_ptr<DeviceCore>>(m, "DeviceCore")
      .def(py::init<const std::vector<at::Tensor>&, const std::vector<std::int64_t>&, std::int64_t, const std::string&,
                    std::int64_t, std::optional<std::vector<double>>>(),
           py::arg("parameters"), py::arg("groups"), py::arg("num_layers"), py::arg("form") = "l2",
           py::arg("history_rows") = 512, py::arg("layer_numels") = py::none())
      .def("launch_groups", &DeviceCore::launch_groups, py::arg("groups"), py::arg("gradients"), NoGil())
      .def("hold_all", &DeviceCore::hold_all, py::arg("gradients"), NoGil())
      .def("take_sums", &DeviceCore::take_sums)
      .def("sum_held", &DeviceCore::sum_held, NoGil())
      .def("close_step", &close_step, py::kw_only(), py::arg("measured"), py::arg("active"),
           py::arg("first_layer") = 0, py::arg("kind"),
           py::arg("window") = std::pair(0.0, 1.0), py::arg("inclusive") = true,
            py::arg("splits") = 1, py::arg("k") = 0,
           py::arg("gamma") = 0.0, py::arg("fixed") = py::none(), py::arg("costs") = py::none(),
            py::arg("budget") = 1.0,
           py::arg("warmup") = 0, py::arg("interval") = 1, py::arg("inv_scale") = py::none(),
           py::arg("late") = std::vector<std::int64_t>(), py::arg("late_inv_scale") = py::none(),
            py::arg("skip") = py::none(), py::arg("skip_nonfinite") = false, NoGil())
      .def_property_readonly("state", &DeviceCore::state)
      .def_property_readonly("launches", &DeviceCore::launches);
  py::class_<Keeper>(m, "Keeper")
      .def(py::init<std::vector<at::Tensor>, const std::vector<std::int64_t>&, at::Tensor>(), py::arg("tensors"),
           py::arg("groups"), py::arg("gate"))
      .def("keep", &Keeper::keep, NoGil())
      .def("restore", &Keeper::restore, NoGil());
}
