"""Public scripts, models, data and metrics made local, otherwise unchanged (see :mod:`frameworks.public_scripts`)."""

from __future__ import annotations

from .case import SAID, WORKS, Case
from .case_frameworks import DDP, FSDP2

TRL = (
    "--output_dir out --max_steps 5 --per_device_train_batch_size 4 --learning_rate 1e-3 --report_to none --use_cpu "
    "--bf16 false --save_strategy no --logging_steps 1 --dataloader_pin_memory false --gradient_checkpointing false"
)
LORA = "--use_peft --lora_r 4 --lora_target_modules q_proj v_proj up_proj down_proj"
_BERT = FSDP2.replace("LlamaDecoderLayer", "BertLayer")


def cases() -> list[Case]:
    return [*_trl(), *_peft(), *_accelerate()]


def trl_words(name: str) -> str:
    """The arguments of a script of trl: a model, data of its kind, and what else it needs."""
    kind = {"sft": "chat", "kto": "unpaired", "dpo": "preference", "reward": "preference"}.get(name, "prompt")
    more = " --beta 0.1" if name in ("dpo", "kto", "grpo", "rloo") else ""
    if name in ("grpo", "rloo"):
        more += " --num_generations 2 --max_completion_length 8"
        more += " --reward_funcs frameworks.programs.trl_trainers.short_answers"
    return f"MODEL {'llama-reward' if name == 'reward' else 'llama'} DATA {kind} {TRL}{more}"


def _trl() -> list[Case]:
    made = []
    for name in ("sft", "dpo", "kto", "grpo", "rloo", "reward"):
        for lora, engine in ((False, ""), (True, ""), (True, "DDP")):
            task = " --lora_task_type SEQ_CLS" if name == "reward" else ""
            words = f"{trl_words(name)} {LORA + task if lora else ''}"
            made.append(
                Case(
                    name="-".join(w for w in ("script-trl", name, "lora" if lora else "", engine.lower()) if w),
                    section="Public scripts",
                    program="public_script",
                    arguments=("trl", f"trl/scripts/{name}.py", *words.split()),
                    framework=f"trl/scripts/{name}.py" + (", beta 0.1" if "--beta" in words else ""),
                    adapter="LoRA" if lora else "none",
                    engine=engine or "one process",
                    packages=("trl", "transformers"),
                    environment="scripts",
                    launcher=DDP if engine else "",
                    processes=2 if engine else 1,
                )
            )
    return made


def _peft() -> list[Case]:
    lora = "--use_peft_lora --lora_r 4 --lora_target_modules q_proj,v_proj,up_proj,down_proj"
    sft = f"MODEL llama {TRL} --dataset_name FOLDER text --dataset_text_field text {lora}"
    pairs = "MODEL bert --num_train_epochs 1 --output_dir out --num_virtual_tokens 4 --peft_type"
    made = [("sft/train.py", sft, "LoRA", WORKS)]
    made += [
        ("sequence_classification/peft_no_lora_accelerate.py", f"{pairs} {kind}", kind, SAID)
        for kind in ("p_tuning", "prompt_tuning")
    ]
    return [
        Case(
            name=f"script-peft-{path.split('/')[0]}-{adapter.lower()}",
            section="Public scripts",
            program="public_script",
            arguments=("peft", f"examples/{path}", *words.split()),
            framework=f"peft: examples/{path}",
            adapter=adapter,
            packages=("peft", "trl"),
            environment="scripts",
            right=right,
        )
        for path, words, adapter, right in made
    ]


def _accelerate() -> list[Case]:
    said = (*WORKS, *SAID)
    scripts: list[tuple[str, str, tuple[str, ...]]] = [
        ("nlp_example", "", WORKS),
        ("complete_nlp_example", "", WORKS),
        ("by_feature/checkpointing", "--checkpointing_steps epoch --output_dir out", WORKS),
        ("by_feature/early_stopping", "", WORKS),
        ("by_feature/ddp_comm_hook", "", WORKS),
        ("by_feature/gradient_accumulation", "--gradient_accumulation_steps 2", said),
        ("by_feature/automatic_gradient_accumulation", "", said),
        ("by_feature/gradient_accumulation_for_autoregressive_models", "--gradient_accumulation_steps 2", WORKS),
        ("by_feature/memory", "", WORKS),
        ("by_feature/cross_validation", "--num_folds 2", WORKS),
        ("by_feature/local_sgd", "--local_sgd_steps 2 --gradient_accumulation_steps 1", said),
        ("by_feature/multi_process_metrics", "", WORKS),
        ("by_feature/profiler", "", WORKS),
        ("by_feature/tracking", "", WORKS),
        ("by_feature/schedule_free", "", WORKS),
    ]
    made = []
    for path, words, right in scripts:
        for engine, launcher in (("one process", ""), ("DDP", DDP), ("FSDP2", _BERT)):
            if engine == "FSDP2" and path.endswith("autoregressive_models"):
                launcher = FSDP2
            made.append(
                Case(
                    name=f"script-accelerate-{path.split('/')[-1].replace('_', '-')}"
                    + (f"-{engine.lower()}" if launcher else ""),
                    section="Public scripts",
                    program="public_script",
                    arguments=("accelerate", f"examples/{path}.py", "--cpu", *words.split()),
                    framework=f"accelerate: examples/{path}.py",
                    optimizer="schedule-free AdamW" if "schedule_free" in path else "AdamW",
                    engine=engine,
                    packages=("accelerate", "transformers"),
                    environment="scripts",
                    launcher=launcher,
                    processes=2 if launcher else 1,
                    right=right,
                    # Its optimizer's eval() and train() move weights, and back up to rounding.
                    variables=(("FRAMEWORKS_SWAPS", "1"),) if "schedule_free" in path else (),
                )
            )
    peak = "examples/by_feature/fsdp_with_peak_mem_tracking.py"
    made.append(
        Case(
            name="script-accelerate-fsdp-with-peak-mem-tracking",
            section="Public scripts",
            program="public_script",
            framework=f"accelerate: {peak}",
            engine="FSDP2",
            untried="it asks the GPU for its memory",
        )
    )
    return made
