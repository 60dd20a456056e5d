"""Rules that look at device data read it through a Mirror only, which is a step late: proved from the sources."""

from __future__ import annotations

import ast
from pathlib import Path

import layerselect
import pytest

from tests.cuda.test_no_sync import waiting_calls

PACKAGE = Path(layerselect.__file__).parent
# What runs in a step, besides the constructors, the preparation and the saving that every rule has.
STEP_PATHS = {
    "rules/base.py": {"drawn", "no_threshold", "after_step"},
    "rules/wrapping.py": {"choose_by"},
    "rules/lisa.py": {"select"},
    "rules/block_cyclic.py": {"select", "_cycle"},
    "rules/cosine.py": {"after_step", "select", "__call__", "_hidden", "_note_unseen"},
    "rules/probe_once.py": {"after_step", "select"},
    "rules/held_scores.py": {"after_step", "select", "_drawn_first"},
    "rules/weight_norm.py": {"after_step", "select", "added_to"},
    "layers/padding.py": {"mask_for", "around", "mask", "_take", "_tensor"},
}
ELSEWHERE = {
    "__init__",
    "__post_init__",
    "bind",
    "prepare",
    "close",
    "state_dict",
    "load_state_dict",
    "_place",
    "_new_mirror",
    "_shape",
    "without_model",
}
# A permutation is drawn on the host.
ON_THE_HOST = {"rules/lisa.py": 1, "rules/block_cyclic.py": 1, "rules/held_scores.py": 1}


def functions(name: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse((PACKAGE / name).read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("name", STEP_PATHS)
def test_a_step_reads_nothing_from_the_device(name):
    known = functions(name)
    if name not in ("rules/base.py", "rules/wrapping.py"):
        assert set(known) == STEP_PATHS[name] | (ELSEWHERE & set(known))
    waits = [call for function in STEP_PATHS[name] for call in waiting_calls(known[function])]
    drawn = [call for call in waits if call.startswith("torch.randperm(")]
    assert len(drawn) == ON_THE_HOST.get(name, 0)
    assert [call for call in waits if call not in drawn] == []


def test_what_kernels_are_told_waits_for_nothing():
    """Asked in a step where a rule was replaced, or decides by other costs than before."""
    telling = 0
    for path in (PACKAGE / "rules").glob("*.py"):
        told = functions(f"rules/{path.name}").get("kernel_options")
        if told is not None:
            telling += 1
            assert waiting_calls(told) == [], path.name
    assert telling >= 7
