#include "gradient_marks.h"

namespace layerselect {
namespace {

std::int64_t version_of(const at::Tensor& tensor) {
  if (tensor.is_inference()) {  // has no version
    return -1;
  }
  return static_cast<std::int64_t>(tensor.unsafeGetTensorImpl()->version_counter().current_version());
}

const void* memory_of(const at::Tensor& tensor) {
  return tensor.has_storage() ? tensor.storage().data() : nullptr;
}

}  // namespace

void GradientMarks::mark() {
  std::vector<Mark> marks(parameters_.size());
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& gradient = parameters_[i].grad();
    if (gradient.defined()) {
      marks[i].tensor = c10::weak_intrusive_ptr<c10::TensorImpl>(gradient.getIntrusivePtr());
      marks[i].data = memory_of(gradient);
      marks[i].version = version_of(gradient);
    }
  }
  marks_ = std::move(marks);
}

bool GradientMarks::moved() const {
  if (marks_.size() != parameters_.size()) {
    return true;
  }
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const at::Tensor& gradient = parameters_[i].grad();
    if (!gradient.defined()) {
      continue;
    }
    const Mark& mark = marks_[i];
    if (mark.version < 0 || mark.version != version_of(gradient) || mark.data != memory_of(gradient) ||
        mark.tensor._unsafe_get_target() != gradient.unsafeGetTensorImpl()) {
      return true;
    }
  }
  return false;
}

}  // namespace layerselect
