// What the host and the kernels agree on: the arguments of each kernel and the launchers.
//
// Included by host code (any C++ compiler, no CUDA headers) and by the kernels. The launchers are plain C: they take
// pointers and sizes, launch on the stream they are given, never wait and never allocate, and return a cudaError_t as
// an int (0 is success). Who calls them keeps device, stream and memory in order.
#pragma once

#include <cstdint>

#include "../select.h"

struct CUstream_st;  // what cudaStream_t points to

namespace layerselect::cuda {

constexpr int kThreads = 256;        // of every block
// at least, which bounds the registers: 1,024 threads with 64 bytes each in flight
constexpr int kBlocksPerProcessor = 4;
constexpr int kWarps = kThreads / 32;

// Data pointers travel by value in the arguments of the launch, 8 bytes for each tensor: no copy to wait for, no buffer
// to keep alive until the copy is done, and a CUDA graph keeps them as they were when it was captured. Everything
// else about the work stands in device memory, written once. 4 KiB of arguments are possible on every driver; CUDA 13
// allows 32,764 bytes, which the larger table uses. (A driver for CUDA 12.0 refuses them, so builds with CUDA 12 do
// without.)
constexpr int kSmallTable = 416;
constexpr int kLargeTable = 4000;

// One warp's or one block's share of a tensor: 16 bytes, read by one load.
struct alignas(16) Item {
  std::int64_t offset;   // in elements
  std::uint32_t length;  // in elements
  std::uint32_t tensor_and_type;
};
constexpr std::uint32_t kTypeShift = 28;  // the type (a DType) stands above the number of the tensor
constexpr std::uint32_t kTensorMask = (1U << kTypeShift) - 1;

// What a block takes up at once: one item for the whole block (count 0), or `count` items, one for each warp.
struct Unit {
  std::uint32_t item;
  std::uint32_t count;
};

template <int kTable>
struct DataPointers {
  const void* data[kTable];  // null: no gradient, counts 0
};

struct NormArgs {
  const Item* items;
  const Unit* units;
  double* partials;  // one for each item
  std::uint32_t first_unit;
  std::uint32_t last_unit;     // one past
  std::uint32_t first_tensor;  // whose pointer is the table's first
};

// Form of a layer's score, see layerselect/core/scores.py. kNone: no scores and no selection, only tensor_sums; for
// shards, which processes add up before anything is selected.
enum class Form : std::int32_t { kL2, kRms, kSqrtSum, kNone };

enum class RuleKind : std::int32_t {
  kVariance,   // window_lo, window_hi, inclusive, splits
  kTop,        // k; `Fraction` is this with its k worked out by the host
  kThreshold,  // gamma
  kAll,
  kFixed,  // fixed; also how a mask drawn by the host comes in
};

struct Rule {
  RuleKind kind;
  std::int32_t inclusive;
  std::int32_t splits;
  std::int32_t k;
  double window_lo;
  double window_hi;
  const std::uint8_t* fixed;  // [L]
  // What a step costs, float64 [2 L + 1]: by its lowest trained layer (the last one: none trains), then for each layer
  // the gradients of its own parameters. The selection is cut down to what fits the budget. Null: it is not.
  const double* costs;
  double budget;
  float gamma;
};

// Bits, one for each group (the L layers and the outer parameters).
struct GroupBits {
  std::uint32_t words[kMaxLayers / 32 + 1];
};

// The numbers that change in every step.
struct Counters {
  std::int64_t step;      // steps closed
  double total_norm;      // of all gradients of the last step, a skipped one included
  float threshold;        // NaN where the rule cuts none
  std::uint32_t tickets;  // blocks that have finished; 0 between launches
  float kept_share;       // of the rule's scores, after the budget; NaN where there is none
  float step_cost;        // of the selection; NaN where there are no costs
};

// Everything a selection reads and writes. L = num_layers; group L holds the outer parameters.
struct SelectArgs {
  // From partial sums to sums for each tensor. num_reduced = 0: tensor_sums is filled already.
  const double* partials;
  const std::int32_t* item_begin;  // [num_reduced + 1]: items of tensor t
  double* tensor_sums;             // [tensors]; negative: no process has such a gradient
  // From tensors to layers.
  const std::int32_t* group_begin;    // [L + 2]: where group g starts in group_tensors
  const std::int32_t* group_tensors;  // [tensors]: in the order of the parameters
  const double* numels;               // [L], for Form::kRms
  const float* inv_scale;             // the gradients are multiplied by it; null: by 1
  const float* late_inv_scale;        // those of late groups by this
  double* group_sums;                 // [L + 1]: out, each group's sum of squares, so multiplied
  // A step that the optimizer will skip writes the norms (tensor_sums, group_sums, total_norm) and leaves all else as
  // it is.
  const float* skip;                  // not 0: such a step; null: never
  // What is known of the layers.
  float* scores;            // [L] last finite score, NaN where there is none
  std::uint8_t* status;     // [L] LayerStatus
  std::int64_t* nonfinite;  // [L] steps in which the layer's gradient was not finite
  // What was decided.
  std::uint8_t* decided;    // [L] the last selection
  std::uint8_t* mask;       // [L] that, less what is not finite now
  std::uint8_t* wanted;     // [L] the layers that need gradients next: decided, or not measured, or active without any
  float* gate;              // [L + 1] 1: the optimizer leaves the layer alone, 0: it updates; in the style of found_inf
  // [2 L] selections in which the layer was chosen; then those in which it took gradients, too
  std::int64_t* frequency;
  Counters* counters;
  // The history: a ring of rows, row = step modulo history_rows. None is kept where history_rows is 0.
  std::int64_t* history_step;       // [rows]
  float* history_threshold;         // [rows]
  float* history_scores;            // [rows, L]
  std::uint8_t* history_mask;       // [rows, L]
  std::uint8_t* history_trained;    // [rows, L]: the layers that took gradients

  Rule rule;
  std::uint32_t warmup;    // steps before the first selection
  std::uint32_t interval;  // from one selection to the next
  std::int32_t num_reduced;
  std::int32_t num_layers;
  std::int32_t history_rows;
  std::int32_t first_layer;  // the layers below it take no part: excluded, never wanted
  Form form;
  std::int32_t skip_nonfinite;  // not 0: a step with a total norm that is not finite is such a step, too
  GroupBits present;  // groups that may have a gradient; the others' sums count as 0
  // layers that were to take gradients; the others' scores are held, and those of layers that took none
  GroupBits active; 
  // groups whose sums are of a later moment, or that no hook reported: if all zero, they took no gradient
  GroupBits late;   
};

// Bytes of dynamic shared memory that a selection over L layers needs.
constexpr std::uint32_t select_bytes(int num_layers) {
  const auto n = static_cast<std::uint32_t>(num_layers);
  return (n + 1) * 8 + n * 4 + n * 4 + n * 4 + (n + 15) / 16 * 16;
}

// A norm pass over a range of units.
struct NormLaunch {
  const Item* items;
  const Unit* units;
  double* partials;
  std::uint32_t first_unit;
  std::uint32_t last_unit;
  const std::uint32_t* unit_tensors;  // on the host: [units, 2], the first and the last tensor that a unit reads
  const void* const* data;            // on the host: [tensors], a device pointer for each tensor, or null
  std::int32_t max_blocks;            // size of the persistent grid, from layerselect_cuda_max_blocks
  std::int32_t allow_large_table;     // 0 keeps to 4 KiB of arguments
};

// One piece of memory that is copied if its group is gated.
struct alignas(16) CopyItem {
  const void* from;
  void* to;
  std::int64_t bytes;
  std::int64_t group;
};

}  // namespace layerselect::cuda

extern "C" {

// Sums of squares of the items of a range of units, one partial each; if `select` is not null, the last block of the
// last launch makes the selection. As many launches as the table of pointers asks for (1 for up to kSmallTable tensors,
// with CUDA 13 kLargeTable); *launches counts them, if not null.
int layerselect_cuda_norms(const layerselect::cuda::NormLaunch* norms, const layerselect::cuda::SelectArgs* select,
                           CUstream_st* stream, std::int32_t* launches);

// The selection alone, one block: closes a step whose partial sums were launched layer by layer.
int layerselect_cuda_select(const layerselect::cuda::SelectArgs* select, CUstream_st* stream);

// For each item, copies `bytes` bytes from -> to (or back, if `back`) where gate[group] is not 0. One launch.
int layerselect_cuda_masked_copy(const layerselect::cuda::CopyItem* items, std::int64_t count, const float* gate,
                                 std::int32_t back, std::int32_t max_blocks, CUstream_st* stream);

// Blocks of the norm kernel that the current device holds at once.
int layerselect_cuda_max_blocks(std::int32_t num_layers, std::int32_t* blocks);

// The text of an error.
const char* layerselect_cuda_error(int error);

}  // extern "C"
