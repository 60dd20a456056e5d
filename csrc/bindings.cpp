// Registration only: what each function does stands in its own file.
#include <torch/csrc/utils/pybind.h>

#include "cpu/sqnorm_kernel.h"
#include "hooks.h"
#include "ops.h"

namespace {

using layerselect::GradientMonitor;
using NoGil = py::call_guard<py::gil_scoped_release>;

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

  py::class_<GradientMonitor, std::shared_ptr<GradientMonitor>>(m, "GradientMonitor")
      .def(py::init(&GradientMonitor::create), py::arg("parameters"), py::arg("groups"), py::arg("num_groups"))
      .def("finish", &GradientMonitor::finish, NoGil())
      .def("close", &GradientMonitor::close, NoGil())
      .def_property_readonly("sqnorms", &GradientMonitor::sqnorms)
      .def_property_readonly("rearmed", &GradientMonitor::rearmed)
      .def_property_readonly("computed_in_backward", &GradientMonitor::computed_in_backward);
}
