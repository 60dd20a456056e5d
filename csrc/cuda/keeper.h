// Keep and restore for optimizers that know no found_inf: see masked_copy.cu.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "core.h"

namespace layerselect::cuda {

// Holds a copy's room for each tensor. keep() fills the rooms of the tensors whose group is gated, restore() copies
// them back: neither host nor device waits, and no tensor is allocated after construction.
class Keeper {
 public:
  // tensors[i], dense in memory, belongs to groups[i]; gate is float32 on the same device, one number for each group.
  Keeper(std::vector<at::Tensor> tensors, const std::vector<std::int64_t>& groups, at::Tensor gate);
  void keep() const { run(false); }
  void restore() const { run(true); }

 private:
  void run(bool back) const;

  std::vector<at::Tensor> tensors_;
  at::Tensor gate_;
  at::Tensor room_;   // bytes
  at::Tensor items_;  // CopyItem[]
  std::int64_t count_ = 0;
  const Launchers* launchers_;
};

}  // namespace layerselect::cuda
