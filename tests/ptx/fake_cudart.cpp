// Stands in for the CUDA runtime: the launchers of csrc/cuda run as they are, and each of their launches is handed to
// a callback, which executes the kernel's PTX in the interpreter. No device is touched.
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>

namespace {

struct Dim3 {
  unsigned x, y, z;
};

using Callback = int (*)(const char* kernel, unsigned grid, unsigned block, void** arguments, std::size_t shared,
                         void* stream);

Callback callback = nullptr;
int processors = 2;
int blocks_per_processor = 4;

std::unordered_map<const void*, std::string>& kernels() {
  static std::unordered_map<const void*, std::string> names;
  return names;
}

constexpr int kInvalidValue = 1;
constexpr int kInvalidDeviceFunction = 98;

}  // namespace

extern "C" {

void fake_cudart_set(Callback on_launch, int num_processors, int num_blocks) {
  callback = on_launch;
  processors = num_processors;
  blocks_per_processor = num_blocks;
}

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* host_function, char*, const char* name, int, void*, void*, void*, void*,
                            int*) {
  kernels()[host_function] = name;
}

int cudaLaunchKernel(const void* function, Dim3 grid, Dim3 block, void** arguments, std::size_t shared, void* stream) {
  const auto found = kernels().find(function);
  if (found == kernels().end()) {
    return kInvalidDeviceFunction;
  }
  if (grid.x == 0 || grid.y != 1 || grid.z != 1 || block.x == 0 || block.x > 1024 || block.y != 1 || block.z != 1) {
    return kInvalidValue;
  }
  return callback == nullptr ? kInvalidValue
                             : callback(found->second.c_str(), grid.x, block.x, arguments, shared, stream);
}

int cudaGetDevice(int* device) {
  *device = 0;
  return 0;
}
int cudaDeviceGetAttribute(int* value, int, int) {
  *value = processors;
  return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, std::size_t) {
  *blocks = blocks_per_processor;
  return 0;
}

const char* cudaGetErrorString(int) { return "an error"; }

// Only the launch syntax <<<>>> uses these; the launchers do not.
int __cudaPopCallConfiguration(void*, void*, void*, void*) { return kInvalidValue; }
unsigned __cudaPushCallConfiguration(Dim3, Dim3, std::size_t, void*) { return kInvalidValue; }
int __cudaGetKernel(void**, const void*) { return kInvalidValue; }
int __cudaLaunchKernel(void*, Dim3, Dim3, void**, std::size_t, void*) { return kInvalidValue; }

}  // extern "C"
