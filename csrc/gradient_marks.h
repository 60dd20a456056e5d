// Whether somebody wrote to gradients, or put others in their place.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace layerselect {

// Reads versions and addresses, never a number: no device is waited for.
class GradientMarks {
 public:
  explicit GradientMarks(std::vector<at::Tensor> parameters) : parameters_(std::move(parameters)) {}
  // From now on.
  void mark();
  // Whether a gradient that is there now was written to since mark(), or is another one. True before the first mark().
  bool moved() const;

 private:
  struct Mark {
    c10::weak_intrusive_ptr<c10::TensorImpl> tensor{c10::intrusive_ptr<c10::TensorImpl>()};
    const void* data = nullptr;
    std::int64_t version = -1;  // -1: no gradient, or one that counts no versions
  };

  std::vector<at::Tensor> parameters_;
  std::vector<Mark> marks_;
};

}  // namespace layerselect
