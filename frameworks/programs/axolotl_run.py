"""axolotl with our plugin, named in its YAML: ``axolotl_run STAGE FINETUNING_TYPE``, or ``axolotl_run example full``
with the YAML of ``examples/``, model and data made local. What is called is what ``axolotl train CONFIG.yml`` calls.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from ..environments import ROOT
from ..tiny import data_folder, folder, rows

TURNS = {"role": "role", "content": "content"}


def _data(stage: str) -> dict[str, Any]:
    if stage == "example":
        made = Path("alpaca.jsonl")
        texts = [{"instruction": r["sentence1"], "input": "", "output": r["sentence2"]} for r in rows("pairs")]
        made.write_text("".join(f"{json.dumps(row)}\n" for row in texts))
        return {"path": str(made), "ds_type": "json", "type": "alpaca"}
    if stage != "dpo":
        path = f"{data_folder('chat')}/train.jsonl"
        return {"path": path, "ds_type": "json", "type": "chat_template", "message_property_mappings": TURNS}
    made = Path("preferences.jsonl")
    rows_of = [{"prompt": r["chosen"][:1], "yes": r["chosen"][1], "no": r["rejected"][1]} for r in rows("preference")]
    made.write_text("".join(f"{json.dumps(row)}\n" for row in rows_of))
    names = {"field_messages": "prompt", "field_chosen": "yes", "field_rejected": "no"}
    how = {"type": "chat_template.default", "split": "train", "message_property_mappings": TURNS}
    return {"path": str(made), "ds_type": "json", **how, **names}


def main(stage: str, kind: str, *, mode: str) -> None:
    from axolotl.cli.train import do_cli

    settings: dict[str, Any] = {
        "base_model": folder("llama"),
        "plugins": ["layerselect.integrations.axolotl.LayerSelectPlugin"],
        "layerselect_rule": "topk:k=2",
        "layerselect_mode": mode,
        "layerselect_options": {"probe_every": 3},
        "datasets": [_data(stage)],
        "chat_template": "tokenizer_default",
        "dataset_prepared_path": f"prepared-{mode}",
        "val_set_size": 0,
        "output_dir": f"out-{mode}",
        "sequence_len": 64,
        "micro_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_steps": 6,
        "num_epochs": 1,
        "optimizer": "adamw_torch",
        "learning_rate": 1e-3,
        "lr_scheduler": "constant",
        "bf16": False,
        "fp16": False,
        "tf32": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "attn_implementation": "sdpa",
    }
    if stage == "example":
        example = yaml.safe_load(ROOT.joinpath("examples", "axolotl.yml").read_text())
        short = ("base_model", "datasets", "max_steps", "layerselect_mode", "bf16", "logging_steps")
        settings = example | {key: settings[key] for key in short} | {"special_tokens": {"pad_token": "<pad>"}}
        settings["sequence_len"] = 256
    if stage == "dpo":
        settings["rl"] = "dpo"
    if kind == "lora":
        settings |= {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_linear": True}
        settings |= {f"lora_{part}_kernel": False for part in ("mlp", "qkv", "o", "embedding")}  # which are for GPUs
    file = Path(f"config-{mode}.yml")
    file.write_text(json.dumps(settings))  # which is YAML as well
    do_cli(str(file))
