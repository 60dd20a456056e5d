"""The norm pass beside a plain read of the same bytes, and beside what torch offers.

python -m pytest bench/bench_norms.py --benchmark-only --benchmark-enable -s
"""

from __future__ import annotations

import pytest
import torch
from layerselect import _backend

from layouts import LAYOUTS, Turns

ROUNDS = 31
TARGETS = {"lora": 0.6, "full": 0.85}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_norm_pass(benchmark, name, dtype, threads):
    layout = LAYOUTS[name](dtype)
    tensors, segments = layout.tensors, torch.tensor(layout.layer)
    native = _backend.load("native")
    words = layout.flat.view(torch.float32)  # reading is reading: the fastest way is over float32
    turns = Turns(
        {
            "read (sum)": words.sum,
            "segment_sqnorm": lambda: native.segment_sqnorm(tensors, segments, layout.num_layers, None),
            "read (dot)": lambda: torch.dot(words, words),
            "_foreach_norm": lambda: torch._foreach_norm(tensors),
            "_foreach_norm(float32)": lambda: torch._foreach_norm(tensors, dtype=torch.float32),
            ".norm() each": lambda: [t.norm() for t in tensors],
        }
    )
    turns.measure(benchmark, ROUNDS, threads)

    read = min(("read (sum)", "read (dot)"), key=turns.median)
    print(f"\n{name} {dtype}, {layout.num_bytes / 1e6:.0f} MB in {len(tensors)} tensors, {threads} thread(s)")
    print(f"{'':24s}      ms    GB/s   of the read")
    for contender in turns.seconds:
        speed = layout.num_bytes / turns.median(contender) / 1e9
        share = turns.ratio(read, contender)
        print(f"{contender:24s}{turns.median(contender) * 1e3:8.2f}{speed:8.1f}{share:10.2f}")
        benchmark.extra_info[contender] = {"ms": turns.median(contender) * 1e3, "of_read": share}
    share = turns.ratio(read, "segment_sqnorm")
    faster = turns.ratio("_foreach_norm(float32)", "segment_sqnorm")
    print(f"segment_sqnorm: {share:.2f} of the read (target {TARGETS[name]}), {faster:.1f} x _foreach_norm(float32)")
