// Input checks. Each one names the argument and repeats the value that offends; Python sees a ValueError.
#pragma once

#include <c10/util/StringUtil.h>

#include <stdexcept>

#define LS_CHECK(condition, ...)                               \
  do {                                                         \
    if (!(condition)) {                                        \
      throw std::invalid_argument(::c10::str(__VA_ARGS__));    \
    }                                                          \
  } while (false)
