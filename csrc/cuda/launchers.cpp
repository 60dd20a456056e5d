// Which launchers serve a device: those of the .cu files, or their twins for the CPU.
#include "core.h"

#include "../checks.h"
#include "launch_host.h"

namespace layerselect::cuda {

bool has_cuda_kernels() {
#ifdef LAYERSELECT_WITH_CUDA
  return true;
#else
  return false;
#endif
}

const Launchers& launchers_for(const c10::Device& device) {
  static const Launchers host = {layerselect_host_norms, layerselect_host_select, layerselect_host_masked_copy,
                                 layerselect_host_max_blocks, layerselect_host_error};
#ifdef LAYERSELECT_WITH_CUDA
  static const Launchers cuda = {layerselect_cuda_norms, layerselect_cuda_select, layerselect_cuda_masked_copy,
                                 layerselect_cuda_max_blocks, layerselect_cuda_error};
  if (device.is_cuda()) {
    return cuda;
  }
#endif
  LS_CHECK(device.is_cpu(), "this build of layerselect has no kernels for device ", device,
           "; install the CUDA toolkit and a CUDA build of torch, then reinstall layerselect with LAYERSELECT_CUDA=1");
  return host;
}

}  // namespace layerselect::cuda
