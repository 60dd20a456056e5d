"""LLaMA-Factory with the callback: ``llamafactory_run STAGE FINETUNING_TYPE``."""

from __future__ import annotations

import importlib.machinery
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from layerselect.integrations.transformers import SelectorCallback

from ..tiny import folder, rows

SOUND = "torchaudio"


@contextmanager
def without_sound() -> Iterator[None]:
    """LLaMA-Factory imports ``torchaudio`` for recorded speech, of which there is none here, and whose library loads
    with its own build of torch only.
    """
    nothing = ModuleType(SOUND)
    nothing.__spec__ = importlib.machinery.ModuleSpec(SOUND, None)
    sys.modules[SOUND] = nothing
    try:
        yield
    finally:
        del sys.modules[SOUND]


def _data(stage: str) -> Path:
    data: list[dict[str, Any]] = []
    for row in rows("pairs"):
        one: dict[str, Any] = {"instruction": row["sentence1"], "input": "", "output": row["sentence2"]}
        if stage in ("dpo", "rm"):
            one |= {"chosen": row["sentence2"], "rejected": "No."}
        if stage == "kto":
            one["kto_tag"] = row["label"] == 0
        data.append(one)
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    info: dict[str, Any] = {"file_name": "made.json", "columns": columns}
    if stage in ("dpo", "rm"):
        info["ranking"] = True
        info["columns"] = {**columns, "chosen": "chosen", "rejected": "rejected"}
        info["columns"].pop("response")
    if stage == "kto":
        info["columns"] = {**columns, "kto_tag": "kto_tag"}
    place = Path("data").absolute()
    place.mkdir(exist_ok=True)
    place.joinpath("made.json").write_text(json.dumps(data))
    place.joinpath("dataset_info.json").write_text(json.dumps({"made": info}))
    return place


def main(stage: str, finetuning: str, *words: str, mode: str) -> None:
    with without_sound():
        from llamafactory.train.tuner import run_exp
    run_exp(
        settings(stage, finetuning, *words),
        callbacks=[
            SelectorCallback(rule="topk:k=1" if finetuning == "freeze" else "topk:k=2", mode=mode, probe_every=3)
        ],
    )


def settings(stage: str, finetuning: str, *words: str) -> dict[str, Any]:
    """What LLaMA-Factory is told; its data are made where it runs."""
    more: dict[str, Any] = {"lora_rank": 4, "lora_target": "all"} if finetuning == "lora" else {}
    for word in words:
        more |= {
            "galore": {"use_galore": True, "galore_rank": 4, "galore_target": "q_proj,up_proj"},
            "galore-layerwise": {
                "use_galore": True,
                "galore_layerwise": True,
                "galore_rank": 4,
                "galore_target": "q_proj,up_proj",
            },
        }[word]
    return {
        "stage": stage,
        "do_train": True,
        "model_name_or_path": folder("llama"),
        "finetuning_type": finetuning,
        "dataset": "made",
        "dataset_dir": str(_data(stage)),
        "template": "default",
        "cutoff_len": 64,
        "output_dir": "out",
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
        "overwrite_output_dir": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "bf16": False,
        "fp16": False,
        "dataloader_num_workers": 0,
        "preprocessing_num_workers": 1,
        "plot_loss": False,
        **more,
    }
