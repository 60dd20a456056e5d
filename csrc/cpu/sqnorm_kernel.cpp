// The item kernel of the norm pass.
//
// Memory moved: each element is read once, nothing is written. The loop is written so that loads are the limit:
// 64 elements per turn into 64 float32 lanes (8 vectors of 8), so no addition waits for the one before it.
//
// Order of summation: elements are taken in blocks of kBlock. Inside a block, lane j adds the squares of the elements
// assigned to it (16 of them in a full block), in float32; the lanes are folded as a tree to 8; those 8 are added
// to 8 float64 lanes, which are folded once at the end. A lane never holds more than 16 addends, which bounds the
// relative error by 1.2e-6 and leaves 1e-7 in practice. Multiplication and addition are rounded apart (the build
// sets -ffp-contract=off), so AVX2 and baseline code give the same bits.
//
// Range: float32 squares overflow above 1.8e19 and lose digits below 1e-19. A block whose float32 sum is outside
// [kSmallest, kLargest] is summed again in float64, so tiny and huge gradients are exact too.
#include "sqnorm_kernel.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdlib>
#include <cstring>

#define LS_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__)
#define LS_X86 1
#include <immintrin.h>
#endif

namespace layerselect {
namespace {

using Lanes = float __attribute__((vector_size(32)));          // 8 float32
using Words = std::uint32_t __attribute__((vector_size(32)));  // the same bytes as 8 words
using UnalignedLanes = float __attribute__((vector_size(32), aligned(1), may_alias));
using UnalignedWords = std::uint32_t __attribute__((vector_size(32), aligned(1), may_alias));
using WideLanes = double __attribute__((vector_size(64)));     // 8 float64

constexpr std::int64_t kTurn = 64;     // elements per turn of the inner loop
constexpr std::int64_t kBlock = 1024;  // elements per float32 accumulation
// 2^-90: above it, what underflow takes from the squares is below 2^-26 of the sum
constexpr float kSmallest = 8.0e-28F;
constexpr float kLargest = 3.0e38F;

inline double fold(const WideLanes& v) {
  return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]));
}

// Float64 throughout: the path for float64 gradients and for blocks out of float32's range.
template <class T>
__attribute__((noinline)) double sum_wide(const T* p, std::int64_t length) {
  WideLanes sum = {};
  std::int64_t i = 0;
  for (; i + 8 <= length; i += 8) {
    for (int lane = 0; lane < 8; ++lane) {
      const auto x = static_cast<double>(p[i + lane]);
      sum[lane] += x * x;
    }
  }
  for (int lane = 0; i < length; ++i, ++lane) {
    const auto x = static_cast<double>(p[i]);
    sum[lane] += x * x;
  }
  return fold(sum);
}

}  // namespace

#define LS_ISA baseline
#define LS_TARGET
namespace {
#include "sqnorm_body.h"
}
#undef LS_ISA
#undef LS_TARGET

#ifdef LS_X86
#define LS_ISA avx2
#define LS_TARGET __attribute__((target("avx2,f16c")))
#define LS_HALF_INSTRUCTIONS
namespace {
#include "sqnorm_body.h"
}
#undef LS_ISA
#undef LS_TARGET
#undef LS_HALF_INSTRUCTIONS
#endif

namespace {

bool use_avx2() {
#ifdef LS_X86
  static const bool supported = [] {
    const char* wanted = std::getenv("LAYERSELECT_INSTRUCTION_SET");  // "baseline" is for tests
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") &&
           !(wanted != nullptr && std::strcmp(wanted, "baseline") == 0);
  }();
  return supported;
#else
  return false;
#endif
}

template <class T>
double run_best(const void* data, std::int64_t length) {
#ifdef LS_X86
  if (use_avx2()) {
    return avx2::run(static_cast<const T*>(data), length);
  }
#endif
  return baseline::run(static_cast<const T*>(data), length);
}

}  // namespace

double sqnorm_run(const void* data, std::int64_t length, DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return run_best<c10::Half>(data, length);
    case DType::kBFloat16:
      return run_best<c10::BFloat16>(data, length);
    case DType::kFloat64:
      return sum_wide(static_cast<const double*>(data), length);
    case DType::kFloat32:
      break;
  }
  return run_best<float>(data, length);
}

const char* sqnorm_instruction_set() { return use_avx2() ? "avx2" : "baseline"; }

}  // namespace layerselect
