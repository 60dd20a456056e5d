#include "tensor_view.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/contiguous.h>

#include "checks.h"

namespace layerselect {

DType dtype_of(const at::Tensor& tensor, const std::function<std::string()>& name) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return DType::kFloat32;
    case at::kHalf:
      return DType::kFloat16;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kDouble:
      return DType::kFloat64;
    default:
      LS_CHECK(false, name(), " has dtype ", tensor.scalar_type(),
               "; norms are taken of float32, float16, bfloat16 and float64 tensors only");
  }
  return DType::kFloat32;
}

void check_dense(const at::Tensor& tensor, const std::function<std::string()>& name, const c10::Device& device) {
  LS_CHECK(tensor.layout() == at::kStrided && !tensor.is_nested(), name(), " has layout ",
           tensor.is_nested() ? at::kJagged : tensor.layout(),
           "; norms are taken of dense (strided) gradients only: use sparse=False in the embedding it comes from");
  LS_CHECK(tensor.device() == device, name(), " is on device ", tensor.device(), ", but ", device,
           " was expected here; use backend=\"torch\" for gradients on other devices");
  LS_CHECK(!tensor.key_set().has(c10::DispatchKey::Python), name(),
           " is a tensor subclass (such as DTensor); pass the plain tensor it holds on this process");
}

TensorView view_of(const at::Tensor& tensor, const std::function<std::string()>& name, at::Tensor& keep_alive,
                   const c10::Device& device) {
  if (!tensor.defined()) {
    return {};
  }
  check_dense(tensor, name, device);
  TensorView view{nullptr, tensor.numel(), dtype_of(tensor, name)};
  if (view.numel == 0) {
    return view;
  }
  if (tensor.is_non_overlapping_and_dense()) {
    view.data = tensor.const_data_ptr();
  } else {
    const at::NoGradGuard no_grad;
    keep_alive = tensor.contiguous();
    view.data = keep_alive.const_data_ptr();
  }
  return view;
}

}  // namespace layerselect
