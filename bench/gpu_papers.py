"""Memory and time of the papers' own scale: a Llama-3.1-8B with random weights, on one GPU of 80 GB.

    python bench/gpu_papers.py --out gpu-papers [--minutes 9] [--toy] [--only ROW]

First the tests that are marked ``cuda``, then eight ways of training, the one that takes the least memory first, each
in a process of its own: the peak of the allocator, seconds a step (median) and samples a second, beside what
``layerselect plan`` says and what the papers report. Neither depends on what the weights are. What is finished is kept
in ``--out``: the same command goes on where the time ended. ``--toy`` runs a small model on any machine, to try the
script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
SHAPE = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "pad_token_id": 0,
}
TOY = {
    **SHAPE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}
BATCH, LENGTH, TOY_LENGTH = 16, 256, 32
WARM_UP, STEPS = 3, 10
#: A row is not begun with fewer seconds left; of the tests, the most that they may take.
_ROW_SECONDS, _TEST_SECONDS = 45, 150


@dataclass(frozen=True)
class Row:
    """A way of training.

    Attributes:
        plan: the row of the plan that it is held against.
        rule: how layers are selected; ``None``: no selector, all train.
        options: of ``FastSelector``.
        settings: of the model: the fields of ``PlanSettings`` that differ.
        papers: what the papers say of it.
    """

    name: str
    plan: str
    rule: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    papers: str = ""


_FREEZE = {"mode": "freeze"}
_CHECKPOINTED = {"gradient_checkpointing": "nonreentrant"}
_PUBLISHED = {"lora_rank": 32, "lora_alpha": 64, "targets": "q_proj,k_proj,v_proj,up_proj,down_proj"}
#: The least memory first, so that what is known when memory runs out is as much as can be.
ROWS = (
    Row("lora-all-checkpointing", "all", settings=_CHECKPOINTED),
    Row("cached-upper-quarter", "cached", "upper:p=0.25", {**_FREEZE, "state_cache": "cached"}),
    Row("upper-half", "top-half", "upper", _FREEZE),
    Row("cost-aware", "cost-aware", "cost-aware", _FREEZE),
    Row("lora-all", "all", papers="30 GB"),
    Row(
        "ir-tuning",
        "ir",
        'held:base="variance"',
        {**_FREEZE, "probe_every": 0, "score": "sqrt_sum"},
        _PUBLISHED,
        "18 to 28 GB; 5 to 14 % of memory saved, up to 25 % faster",
    ),
    Row("gate", "all", "variance", {"mode": "gate"}),
    Row("full", "full", settings={"adapter": "none"}),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin nothing that would end later")
    parser.add_argument("--toy", action="store_true", help="a small model, on the CPU if there is no GPU; no tests")
    parser.add_argument("--only", choices=[row.name for row in ROWS], help="run this row in this process")
    options = parser.parse_args()
    if not (options.toy or torch.cuda.is_available()):
        sys.stderr.write("gpu_papers: torch sees no CUDA device; --toy tries the script without one\n")
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only is not None:
        row = next(row for row in ROWS if row.name == options.only)
        _write(options.out / f"{row.name}.json", measure(row, options.out, toy=options.toy))
        return 0
    end = time.monotonic() + 60 * options.minutes
    if not options.toy and not (options.out / "tests.txt").exists():
        _run_tests(options.out / "tests.txt")
    for row in ROWS:
        if (options.out / f"{row.name}.json").exists():
            continue
        left = end - time.monotonic()
        if left < (0 if options.toy else _ROW_SECONDS):
            print(f"{row.name}: no time left; the same command goes on here")
            break
        _run_row(row, options, left)
    print(table(options.out))
    return 0


def _run_tests(target: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "tests"]
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_TEST_SECONDS, check=False)
        said = ran.stdout
    except subprocess.TimeoutExpired as ended:
        said = f"{(ended.stdout or b'').decode()}\nended after {_TEST_SECONDS} s"
    target.write_text(said)
    print(said.strip().splitlines()[-1] if said.strip() else "the tests said nothing")


def _run_row(row: Row, options: argparse.Namespace, left: float) -> None:
    command = [sys.executable, str(Path(__file__).resolve()), "--out", str(options.out), "--only", row.name]
    try:
        ran = subprocess.run(
            [*command, *(["--toy"] if options.toy else [])], capture_output=True, text=True, timeout=left, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"{row.name}: no time left; the same command goes on here")
        return
    if ran.returncode:
        reason = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
        _write(options.out / f"{row.name}.json", {"failed": reason})
        print(f"{row.name}: {reason}")


def measure(row: Row, folder: Path, *, toy: bool) -> dict[str, Any]:
    """Trains a few steps of one row.

    Returns:
        ``seconds`` a step, ``samples`` a second, ``peak`` and ``usual_peak`` in bytes as the allocator counts them
        (``None`` on a CPU): of all steps and of those that were timed; ``planned_peak`` and ``planned_usual_peak``;
        ``card`` and ``torch``.
    """
    from layerselect.tasks.plan import PlanSettings
    from layerselect.tasks.plan.plan import plan_way
    from layerselect.tasks.plan.ways import WAYS

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    path = folder / f"config-{row.name}.json"
    path.write_text(json.dumps(TOY if toy else SHAPE))
    settings = PlanSettings(
        model=str(path),
        device="cuda",
        batch_size=BATCH,
        max_length=TOY_LENGTH if toy else LENGTH,
        quantize="none",
        **{"gradient_checkpointing": "none", **row.settings},
    )
    way = next(way for way in WAYS if way.name == row.plan)
    planned = plan_way(replace(settings, adapter="lora"), way)  # of this row alone: the card waits
    model = _model(settings, device)
    step, close = _training(model, settings, row, device)
    _reset(cuda)
    for _ in range(WARM_UP):
        step()
    first = _peak(cuda)
    _reset(cuda)
    seconds = []
    for _ in range(STEPS):
        _wait(cuda)
        start = time.perf_counter()
        step()
        _wait(cuda)
        seconds.append(time.perf_counter() - start)
    usual = _peak(cuda)
    close()
    took = statistics.median(seconds)
    return {
        "seconds": took,
        "samples": BATCH / took,
        "peak": None if first is None or usual is None else max(first, usual),
        "usual_peak": usual,
        "planned_peak": planned.peak,
        "planned_usual_peak": planned.usual_peak,
        "arithmetic": planned.arithmetic,
        "card": torch.cuda.get_device_name() if cuda else "CPU",
        "torch": torch.__version__,
    }


def _model(settings: Any, device: torch.device) -> nn.Module:
    """The model with random weights, made on the device, ready to train."""
    from layerselect.layers.find import split_parameters
    from layerselect.models.adapters import add_adapter
    from layerselect.models.fresh import in_full_precision
    from layerselect.models.holding import Holding, keep_holding
    from layerselect.models.load import LoadedModel
    from layerselect.models.recomputing import recompute_layers
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(settings.model, num_labels=settings.classes)
    with torch.device(device):
        base = AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16)
    keep_holding(base, Holding("bfloat16", device=device.type))
    in_full_precision(base, ["score"])
    loaded = LoadedModel(base, None, "the model", split_parameters(base).names, ["score"])
    model = add_adapter(loaded, settings.adapter_config())
    model.train()
    recompute_layers(model, settings.gradient_checkpointing, "the model")
    return model


def _training(model: nn.Module, settings: Any, row: Row, device: torch.device) -> tuple[Any, Any]:
    """What does a step, and what ends the training."""
    import itertools

    from layerselect import FastSelector
    from layerselect.rules import make_rule
    from layerselect.tasks.intent.heads import ClassifierHead

    head = ClassifierHead(multi_label=False)
    batches: list[dict[str, Tensor]] = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(1, model.config.vocab_size, (settings.batch_size, settings.max_length), generator=generator)
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    targets = torch.arange(settings.batch_size, device=device) % settings.classes
    given = itertools.cycle(batches)
    if row.rule is None:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=device.type == "cuda")
        selector = None
    else:
        options = dict(row.options)
        layers = model.config.num_hidden_layers
        if "state_cache" in options:
            options["cut"] = layers - max(1, round(layers / 4))
        selector = FastSelector(model, make_rule(row.rule, seed=0), **options)
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), fused=device.type == "cuda")
        selector.attach(optimizer)
        if selector.state_cache is not None:
            given = selector.state_cache.ahead(given)

    def step() -> None:
        # Beside the tensors a batch may hold what the cache knows its examples by.
        batch = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in next(given).items()}
        head.loss(model, batch, targets).backward()
        if selector is not None:
            selector.step()
        optimizer.step()
        optimizer.zero_grad()

    return step, (lambda: None) if selector is None else selector.close


def _reset(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def _peak(cuda: bool) -> int | None:
    return torch.cuda.max_memory_allocated() if cuda else None


def _wait(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()


def _write(path: Path, values: dict[str, Any]) -> None:
    aside = path.with_suffix(".partial")
    aside.write_text(json.dumps(values, indent=1))
    aside.replace(path)


def table(folder: Path) -> str:
    """What is finished, as a table of Markdown."""
    rows = {row.name: _read(folder / f"{row.name}.json") for row in ROWS}
    whole = (rows["lora-all"] or {}).get("seconds")
    lines = [
        "| row | peak, GB | planned | most steps, GB | planned | s a step | of lora-all | samples a second | papers |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        found = rows[row.name]
        if found is None or "failed" in found:
            lines.append(
                f"| {row.name} | {'not run' if found is None else found['failed']} | | | | | | | {row.papers} |"
            )
            continue
        share = f"{found['seconds'] / whole:.2f}" if whole else ""
        lines.append(
            f"| {row.name} | {_gb(found['peak'])} | {_gb(found['planned_peak'])} | {_gb(found['usual_peak'])} | "
            f"{_gb(found['planned_usual_peak'])} | {found['seconds']:.3f} | {share} | {found['samples']:.1f} | "
            f"{row.papers} |"
        )
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _gb(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e9:.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
