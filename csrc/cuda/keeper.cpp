#include "keeper.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <utility>

#include "../checks.h"

namespace layerselect::cuda {
namespace {

constexpr std::int64_t kPiece = 1 << 18;  // bytes that one block copies at a time
constexpr std::int32_t kBlocks = 2048;    // more than a device holds at once does no harm

}  // namespace

Keeper::Keeper(std::vector<at::Tensor> tensors, const std::vector<std::int64_t>& groups, at::Tensor gate)
    : tensors_(std::move(tensors)), gate_(std::move(gate)), launchers_(&launchers_for(gate_.device())) {
  LS_CHECK(gate_.scalar_type() == at::kFloat && gate_.is_contiguous(), "gate has dtype ", gate_.scalar_type(),
           "; it must be a dense float32 vector");
  LS_CHECK(groups.size() == tensors_.size(),
           "groups has ", groups.size(), " entries for ", tensors_.size(), " tensors");
  // A room starts at the same address modulo 16 as its tensor, so that whole vectors can be copied.
  const auto past = [](const at::Tensor& t) {
    return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(t.const_data_ptr()) % 16);
  };
  std::int64_t bytes = 0;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const at::Tensor& t = tensors_[i];
    LS_CHECK(t.device() == gate_.device() && t.is_non_overlapping_and_dense(), "tensors[", i, "] must be dense and on ",
             gate_.device());
    LS_CHECK(0 <= groups[i] && groups[i] < gate_.numel(), "groups[", i, "] is ", groups[i], "; it must be in 0..",
             gate_.numel() - 1);
    bytes += (static_cast<std::int64_t>(t.nbytes()) + 31) / 16 * 16;
  }
  const c10::DeviceGuard guard(gate_.device());
  room_ = at::empty({bytes + 16}, at::TensorOptions().device(gate_.device()).dtype(at::kByte));
  std::vector<CopyItem> items;
  auto* next = static_cast<char*>(room_.mutable_data_ptr());
  next += (16 - past(room_)) % 16;
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const at::Tensor& t = tensors_[i];
    const auto size = static_cast<std::int64_t>(t.nbytes());
    const auto* from = static_cast<const char*>(t.const_data_ptr());
    for (std::int64_t at = 0; at < size; at += kPiece) {
      items.push_back({from + at, next + past(t) + at, std::min(kPiece, size - at), groups[i]});
    }
    next += (size + 31) / 16 * 16;
  }
  count_ = static_cast<std::int64_t>(items.size());
  // Pinned, so that the host does not wait for the copy; the allocator keeps it until the device has read it.
  at::Tensor on_host = at::empty({std::max<std::int64_t>(count_ * static_cast<std::int64_t>(sizeof(CopyItem)), 16)},
                                 at::TensorOptions().dtype(at::kByte).pinned_memory(gate_.is_cuda()));
  std::copy_n(reinterpret_cast<const std::uint8_t*>(items.data()), items.size() * sizeof(CopyItem),
              on_host.mutable_data_ptr<std::uint8_t>());
  items_ = on_host.to(gate_.device(), at::kByte, /*non_blocking=*/true);
}

void Keeper::run(bool back) const {
  const c10::DeviceGuard guard(gate_.device());
  const c10::Stream stream = c10::impl::VirtualGuardImpl(gate_.device().type()).getStream(gate_.device());
  auto* const native =
      stream.device_type() == c10::kCPU ? nullptr : static_cast<CUstream_st*>(stream.native_handle());
  const int error = launchers_->masked_copy(static_cast<const CopyItem*>(items_.const_data_ptr()), count_,
                                            gate_.const_data_ptr<float>(), back ? 1 : 0, kBlocks, native);
  TORCH_CHECK(error == 0, "layerselect: keeping unselected layers failed on ", gate_.device(), ": ",
              launchers_->error(error));
}

}  // namespace layerselect::cuda
