// All kernels in one module, so that the interpreter gives them one memory.
#include "../../csrc/cuda/masked_copy.cu"
#include "../../csrc/cuda/norms.cu"
#include "../../csrc/cuda/select.cu"
