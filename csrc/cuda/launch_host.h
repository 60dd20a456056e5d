// The launchers' twins on the host, with the signatures of step.h.
#pragma once

#include "step.h"

extern "C" {
int layerselect_host_norms(const layerselect::cuda::NormLaunch* norms, const layerselect::cuda::SelectArgs* select,
                           CUstream_st* stream, std::int32_t* launches);
int layerselect_host_select(const layerselect::cuda::SelectArgs* select, CUstream_st* stream);
int layerselect_host_masked_copy(const layerselect::cuda::CopyItem* items, std::int64_t count, const float* gate,
                                 std::int32_t back, std::int32_t max_blocks, CUstream_st* stream);
int layerselect_host_max_blocks(std::int32_t num_layers, std::int32_t* blocks);
const char* layerselect_host_error(int error);
}
