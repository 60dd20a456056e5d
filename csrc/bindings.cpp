// Registration only: what each function does stands in its own file.
#include <torch/csrc/utils/pybind.h>

#include "cpu/sqnorm_kernel.h"
#include "hooks.h"
#include "ops.h"

namespace {

using layerselect::GradientMonitor;
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
                                              const py::object& owner) {
  auto monitor = GradientMonitor::create(parameters, groups, num_groups);
  if (!owner.is_none()) {
    monitor->keep(close_with(monitor, owner));
  }
  return monitor;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Compiled core of layerselect; use it through layerselect.ops and FastSelector.";

  m.def("segment_sqnorm", &layerselect::segment_sqnorm, py::arg("tensors"), py::arg("segments"),
        py::arg("num_segments"), py::arg("inv_scale") = py::none(), NoGil());
  m.def("variance_split", &layerselect::variance_split, py::arg("scores"), py::arg("status"), py::arg("window_lo"),
        py::arg("window_hi"), py::arg("inclusive"), py::arg("splits"), NoGil());
  m.def("top_ranked", &layerselect::top_ranked, py::arg("scores"), py::arg("status"), py::arg("k"), NoGil());
  m.def("above", &layerselect::above, py::arg("scores"), py::arg("status"), py::arg("gamma"), NoGil());
  m.def("instruction_set", &layerselect::sqnorm_instruction_set);

  // The monitor's lock is only ever waited for without the GIL: whoever holds it may need the GIL to release a tensor.
  py::class_<GradientMonitor, std::shared_ptr<GradientMonitor>>(m, "GradientMonitor")
      .def(py::init(&make_monitor), py::arg("parameters"), py::arg("groups"), py::arg("num_groups"),
           py::arg("owner") = py::none())
      .def("finish", &GradientMonitor::finish, NoGil())
      .def("close", &GradientMonitor::close, NoGil())
      .def_property_readonly("sqnorms", &GradientMonitor::sqnorms)
      .def_property_readonly("rearmed", py::cpp_function(&GradientMonitor::rearmed, NoGil()))
      .def_property_readonly("computed_in_backward", py::cpp_function(&GradientMonitor::computed_in_backward, NoGil()));
}
