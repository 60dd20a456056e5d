// From at::Tensor to what a kernel reads, with every refusal in one place.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>

#include "plan.h"

namespace layerselect {

// The view of `tensor` to sum over; an undefined tensor gives an empty view. Tensors that are dense in memory
// in any order of dimensions are read in place. Others (strided slices, expanded) are copied, and `keep_alive`
// holds the copy: it must outlive the view. `name` gives what error messages call the tensor.
// Throws what check_dense() and dtype_of() throw.
TensorView view_of(const at::Tensor& tensor, const std::function<std::string()>& name, at::Tensor& keep_alive,
                   const c10::Device& device = c10::kCPU);

// Throws std::invalid_argument for a sparse or nested layout, a tensor subclass without memory of its own (DTensor),
// and a device other than `device`.
void check_dense(const at::Tensor& tensor, const std::function<std::string()>& name, const c10::Device& device);

// The dtype as kernels know it. Throws std::invalid_argument for the others.
DType dtype_of(const at::Tensor& tensor, const std::function<std::string()>& name);

}  // namespace layerselect
