// The loops of sqnorm_kernel.cpp, compiled once per instruction set: no include guard, because that file includes
// this one several times, each time with LS_ISA (a namespace) and LS_TARGET (the functions' target) set.

namespace LS_ISA {

// Each load_turn takes 64 elements into 8 vectors. Which lane an element goes to is part of the order of summation:
// the same for every instruction set.
LS_TARGET LS_INLINE void load_turn(const float* p, Lanes (&x)[8]) {
  for (int i = 0; i < 8; ++i) {
    std::memcpy(&x[i], p + 8 * i, sizeof(Lanes));
  }
}

// A bfloat16 is the upper half of a float32: one load gives 8 even elements by a shift and 8 odd ones by a mask.
LS_TARGET LS_INLINE void load_turn(const c10::BFloat16* p, Lanes (&x)[8]) {
  for (int i = 0; i < 4; ++i) {
    Words pair;
    std::memcpy(&pair, p + 16 * i, sizeof(Words));
    const Words even = pair << 16;
    const Words odd = pair & 0xffff0000U;
    std::memcpy(&x[2 * i], &even, sizeof(Lanes));
    std::memcpy(&x[2 * i + 1], &odd, sizeof(Lanes));
  }
}

LS_TARGET LS_INLINE void load_turn(const c10::Half* p, Lanes (&x)[8]) {
#ifdef LS_HALF_INSTRUCTIONS
  for (int i = 0; i < 8; ++i) {
    __m128i bits;
    std::memcpy(&bits, p + 8 * i, sizeof(bits));
    const __m256 wide = _mm256_cvtph_ps(bits);
    std::memcpy(&x[i], &wide, sizeof(Lanes));
  }
#else
  float wide[kTurn];
  for (int i = 0; i < kTurn; ++i) {
    wide[i] = static_cast<float>(p[i]);
  }
  load_turn(wide, x);
#endif
}

template <class T>
LS_TARGET LS_INLINE void add_turn(const T* p, Lanes (&sum)[8]) {
  Lanes x[8];
  load_turn(p, x);
  for (int i = 0; i < 8; ++i) {
    sum[i] += x[i] * x[i];
  }
}

template <class T>
LS_TARGET double run(const T* p, std::int64_t length) {
  WideLanes total = {};
  for (std::int64_t start = 0; start < length; start += kBlock) {
    const std::int64_t count = length - start < kBlock ? length - start : kBlock;
    const std::int64_t whole = count / kTurn * kTurn;
    Lanes sum[8] = {};
    for (std::int64_t i = 0; i < whole; i += kTurn) {
      add_turn(p + start + i, sum);
    }
    if (whole < count) {  // the last turn of the run, filled up with zeros
      T padded[kTurn] = {};
      std::memcpy(static_cast<void*>(padded), p + start + whole, static_cast<std::size_t>(count - whole) * sizeof(T));
      add_turn(padded, sum);
    }
    for (int half = 4; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) {
        sum[i] += sum[i + half];
      }
    }
    const Lanes s = sum[0];
    const float size = ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
    if (size >= kSmallest && size <= kLargest) {
      total += __builtin_convertvector(s, WideLanes);
    } else {
      total[0] += sum_wide(p + start, count);
    }
  }
  return fold(total);
}

}  // namespace LS_ISA
