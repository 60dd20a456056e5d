// The loops of sqnorm_kernel.cpp, compiled once per instruction set: no include guard, because that file includes
// this one several times, each time with LS_ISA (a namespace) and LS_TARGET (the functions' target) set.

namespace LS_ISA {

// 8 elements at p, which may have any alignment, as float32 or as the words that hold them.
LS_TARGET LS_INLINE Lanes load_lanes(const float* p) { return *reinterpret_cast<const UnalignedLanes*>(p); }
LS_TARGET LS_INLINE Words load_words(const void* p) { return *static_cast<const UnalignedWords*>(p); }

// Each add_turn adds the squares of 64 elements to 64 lanes. Which lane an element goes to is part of the order of
// summation: the same for every instruction set.
LS_TARGET LS_INLINE void add_turn(const float* p, Lanes (&sum)[8]) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const Lanes x = load_lanes(p + 8 * i);
    sum[i] += x * x;
  }
}

// A bfloat16 is the upper half of a float32: one load gives 8 even elements by a shift and 8 odd ones by a mask.
LS_TARGET LS_INLINE void add_turn(const c10::BFloat16* p, Lanes (&sum)[8]) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const Words pair = load_words(p + 16 * i);
    const auto even = reinterpret_cast<Lanes>(pair << 16);
    sum[2 * i] += even * even;
    const auto odd = reinterpret_cast<Lanes>(pair & 0xffff0000U);
    sum[2 * i + 1] += odd * odd;
  }
}

LS_TARGET LS_INLINE void add_turn(const c10::Half* p, Lanes (&sum)[8]) {
#ifdef LS_HALF_INSTRUCTIONS
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const auto bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8 * i));
    const auto x = reinterpret_cast<Lanes>(_mm256_cvtph_ps(bits));
    sum[i] += x * x;
  }
#else
  float wide[kTurn];
  for (int i = 0; i < kTurn; ++i) {
    wide[i] = static_cast<float>(p[i]);
  }
  add_turn(wide, sum);
#endif
}

// The sum of squares of 1 to kBlock elements, in 8 lanes.
template <class T>
LS_TARGET LS_INLINE Lanes sum_block(const T* p, std::int64_t count) {
  Lanes sum[8] = {};
  std::int64_t i = 0;
  for (; i + kTurn <= count; i += kTurn) {
    add_turn(p + i, sum);
  }
  if (i < count) {  // the last turn of a run, filled up with zeros
    T padded[kTurn] = {};
    std::memcpy(static_cast<void*>(padded), p + i, static_cast<std::size_t>(count - i) * sizeof(T));
    add_turn(padded, sum);
  }
  return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

template <class T>
LS_TARGET double run(const T* p, std::int64_t length) {
  WideLanes total = {};
  for (std::int64_t start = 0; start < length; start += kBlock) {
    const std::int64_t count = length - start < kBlock ? length - start : kBlock;
    const Lanes sum = sum_block(p + start, count);
    const float size = ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
    if (size >= kSmallest && size <= kLargest) {
      total += __builtin_convertvector(sum, WideLanes);
    } else {
      total[0] += sum_wide(p + start, count);
    }
  }
  return fold(total);
}

}  // namespace LS_ISA
