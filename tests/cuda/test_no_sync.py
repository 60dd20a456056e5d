"""No code path of an ``observe`` or ``gate`` step makes the host wait for the device: proved from the sources."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    ROOT / "layerselect" / name
    for name in (
        "core/device_step.py",
        "core/host_step.py",
        "core/base.py",
        "core/cuda.py",
        "core/backward_end.py",
        "core/gradient_watch.py",
        "core/history.py",
        "core/history_ring.py",
        "core/multi_device.py",
        "costs/measured.py",
        "distributed/engine_seen.py",
        "distributed/sharding.py",
        "modes/fused_gate.py",
        "modes/gate.py",
        "modes/keeping_gate.py",
        "modes/nonfinite.py",
        "modes/room.py",
        "modes/step_hooks.py",
        "utils/mirror.py",
    )
]
# Methods whose call makes the host wait for a tensor on a device, or may.
WAITS = {"item", "cpu", "tolist", "numpy", "synchronize", "nonzero", "wait", "all_close", "allclose", "equal", "unique"}
# What an observe or gate step runs, by class; the other functions belong to construction or to mode freeze.
STEP_PATHS = {
    "CudaCore": {"step", "decide", "unmeasured", "launches", "written", "_launch", "_add_up"},
    "BackwardEnd": {
        "look",
        "_attach",
        "_calling",
        "_on_gradient",
        "_call_at_end",
        "_queue",
        "_on_callback",
        "_on_outer",
        "_ended",
        "_wait_for_outer",
        "_report",
    },
    "GradientWatch": {
        "rearmed",
        "parameter",
        "gradient",
        "finish",
        "written",
        "_trains",
        "_match",
        "_on_backward_end",
        "_match_now",
        "_measure_now",
    },
    "_Identity": {"of"},
    "EngineSeen": {"makes_final", "unseen", "_look"},
    "Gate": {
        "_before_step",
        "_after_step",
        "_keep_from_step",
        "_put_back",
        "_take_up",
        "begin",
        "withhold",
        "leave_one",
        "optimizer",
        "mark",
        "moved",
    },
    "FusedGate": {"_set_aside", "_put_back"},
    "FusedParts": {"__init__", "step", "_find", "_adam", "_sgd"},
    "GradientMarks": {"__init__", "_mark", "_moved"},
    "NonFinite": {"__init__", "poison", "stops", "_may_keep", "_decide", "matters", "forget"},
    "Stops": {"__init__"},
    "StepHooks": {"__init__", "runs"},
    "_Enter": {"__init__", "__call__"},
    "_Leave": {"__init__", "__call__"},
    "Room": {"__init__", "stands", "_places_now"},
    "KeepingGate": {
        "_set_aside",
        "_put_back",
        "_held",
        "_make_room",
        "_restore",
        "_state_of",
        "_after_step",
        "_wait_for_state",
        "_write_gate",
        "_parameters",
        "_begin_states",
        "_find",
    },
    "Mirror": {"push"},
    "Arrival": {"mark"},
    "DeviceCore": {"step", "launches", "written", "_fixed_mask"},
    "History": {"expect"},
    "RingCopy": {"__init__"},
    "SeveralDevicesCore": {"step", "launches", "written", "unmeasured"},
    "ShardedSums": {"add_up", "_communicate"},
    "_MeshSums": {"add_up"},
    "CostMeter": {
        "_on_model",
        "_on_block",
        "_on_output",
        "_on_gradient",
        "_on_end_of_layers",
        "_on_end",
        "_begin",
        "_mark",
    },
}
# The same where there are no classes: files, and what in them a step runs.
STEP_FILES = {
    "core/scaling.py": {
        "written",
        "factor",
        "skips",
        "on",
        "of_accelerator",
        "read_scaling",
        "_read_scaler",
        "_reciprocal",
    },
    "selector/clipping.py": {"__init__", "allow", "clip", "norm_to_clip", "_gradients"},
    "modes/ownership.py": {"holds", "__init__", "look", "_find"},
    "modes/fresh_state.py": {"begin_state", "start_momentum"},
    "modes/scaler_steps.py": {"leave_something"},
    "utils/device_copies.py": {"to_device"},
}
# Of KeepingGate only: the host gates the step in which the optimizer's state is not there yet, as its docstring says.
GATED_BY_THE_HOST = "super()._set_aside()"


def waiting_calls(function: ast.FunctionDef) -> list[str]:
    """Calls in ``function`` that wait, as source text."""
    found = []
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        text = ast.unparse(node)
        if isinstance(node.func, ast.Attribute):
            blocking_copy = node.func.attr in ("to", "copy_") and "non_blocking=True" not in text
            if node.func.attr in WAITS or blocking_copy:
                found.append(text)
        elif isinstance(node.func, ast.Name) and node.func.id in ("bool", "int", "float", "print"):
            found.append(text)
    return found


def functions() -> dict[tuple[str, str], ast.FunctionDef]:
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    return {(c.name, f.name): f for c in classes for f in c.body if isinstance(f, ast.FunctionDef)}


@pytest.mark.parametrize("owner", STEP_PATHS)
def test_python_steps_call_nothing_that_waits(owner: str):
    known = functions()
    for name in STEP_PATHS[owner]:
        assert waiting_calls(known[owner, name]) == [], f"{owner}.{name}"


@pytest.mark.parametrize("name", STEP_FILES)
def test_files_of_a_step_call_nothing_that_waits(name: str):
    tree = ast.parse((ROOT / "layerselect" / name).read_text())
    known = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert set(known) == STEP_FILES[name]
    for function in known.values():
        assert waiting_calls(function) == [], function.name


@pytest.mark.parametrize(
    "name", ["modes/input_gradients.py", "modes/selective_checkpoint.py", "modes/checkpointing.py"]
)
def test_forward_passes_of_mode_freeze_call_nothing_that_waits(name: str):
    tree = ast.parse((ROOT / "layerselect" / name).read_text())
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        assert waiting_calls(function) == [], function.name


def test_every_method_is_either_a_step_or_known_to_be_none():
    elsewhere = {
        ("CudaCore", "__init__"),
        ("CudaCore", "close"),
        ("CudaCore", "_numels"),
        ("BackwardEnd", "__init__"),
        ("BackwardEnd", "close"),
        ("BackwardEnd", "__del__"),
        ("GradientWatch", "__init__"),
        ("GradientWatch", "close"),
        # Of sums on the host.
        ("GradientWatch", "measured"),
        ("EngineSeen", "__init__"),
        ("EngineSeen", "close"),
        # What a finished step has noted.
        *((name, "taken") for name in ("CudaCore", "SeveralDevicesCore", "HostCore", "DeviceCore")),
        # What a caller reads, after a step.
        *((name, "parameter_sums") for name in ("Core", "CudaCore", "SeveralDevicesCore", "HostCore", "DeviceCore")),
        # What a saved state holds, before it is taken.
        ("History", "check_state"),
        ("Mirror", "check_state"),
        # Asked only by a process that has no gradient at all.
        ("CudaCore", "_others_have_gradients"),
        ("ShardedSums", "__init__"),
        ("ShardedSums", "of"),
        ("_MeshSums", "over"),
        # Where the gradients are kept on the host, which has them to wait for.
        ("ShardedSums", "_communicate_elsewhere"),
        # Gating by the host, which knows the selection or is waiting for it anyway; only a step with a closure forgets.
        *(
            ("Gate", name)
            for name in (
                "__init__",
                "close",
                "held",
                "_before_closure",
                "_set_aside",
                "_set_aside_watched",
                "_start_fused_momentum",
                "_note_shown",
                "_undo_for_closure",
                "_give_back",
            )
        ),
        *(("StepHooks", name) for name in ("add", "remove")),
        ("FusedGate", "__init__"),
        ("FusedGate", "_before_closure"),
        ("KeepingGate", "__init__"),
        # Only an optimizer that the host gates from then on is undone.
        ("KeepingGate", "_undo_for_closure"),
        ("KeepingGate", "_undo"),
        ("KeepingGate", "_gate_on_host"),
        ("KeepingGate", "_is_replaced"),
        # What is said of the last step on the host, and what gates of the host ask in a step that was not finite.
        *(("NonFinite", name) for name in ("measured", "flagged", "spoils", "_say")),
        ("Gate", "state_dropped"),
        ("KeepingGate", "state_dropped"),
        ("Arrival", "__init__"),
        ("Arrival", "wait"),
        ("Arrival", "is_there"),
        ("Mirror", "__init__"),
        ("Mirror", "read"),
        ("Mirror", "state_dict"),
        ("Mirror", "load_state_dict"),
        ("DeviceCore", "__init__"),
        ("DeviceCore", "close"),
        # The protocol, and the core that is not a device's.
        *(("Core", name) for name in ("decides_on_device", "taken", "step")),
        ("Core", "written"),
        ("HostCore", "written"),
        ("Core", "close"),
        ("HostCore", "__init__"),
        ("HostCore", "step"),
        ("HostCore", "close"),
        ("HostCore", "_decide"),
        # Reading is the caller's wait; _absorb looks at a copy that was started half a ring ago.
        *(
            ("History", name)
            for name in (
                "__init__",
                "__len__",
                "dropped",
                "missing",
                "record",
                "collect",
                "close",
                "arrays",
                "to_pandas",
                "plot",
                "state_dict",
                "load_state_dict",
                "_bounded",
                "_absorb",
                "_write",
                "_keep",
                "_warn",
            )
        ),
        ("RingCopy", "columns"),
        ("SeveralDevicesCore", "__init__"),
        ("SeveralDevicesCore", "close"),
        # Once in a run, and what they read was recorded passes ago.
        *(("CostMeter", name) for name in ("__init__", "close", "_send", "_finish", "_row", "_costs", "_between")),
    }
    listed = {(owner, name) for owner, names in STEP_PATHS.items() for name in names}
    assert set(functions()) == listed | elsewhere


def test_the_host_gates_in_one_place_only():
    assert sum(path.read_text().count(GATED_BY_THE_HOST) for path in SOURCES) == 1


@pytest.mark.parametrize(
    "defect", ["x.item()", "x.cpu()", "x.to('cpu')", "y.copy_(x)", "torch.cuda.synchronize()", "bool(x)", "x.tolist()"]
)
def test_the_check_can_fail(defect: str):
    function = ast.parse(f"def step(x, y):\n    {defect}").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert waiting_calls(function)
