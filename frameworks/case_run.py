"""Other people's programs, unchanged, under ``layerselect run``."""

from __future__ import annotations

from dataclasses import replace

from .case import REFUSED, Case
from .case_frameworks import DDP, FSDP2
from .case_scripts import LORA, TRL, trl_words

#: One process of ``accelerate launch``.
ALONE = "--cpu --num_machines 1 --mixed_precision no --dynamo_backend no"
_ENDS = (
    "--output_dir out --max_steps 6 --per_device_train_batch_size 4 --learning_rate 1e-3 --report_to none --use_cpu "
    "--save_strategy no --logging_steps 1 --dataloader_pin_memory false --do_train --do_eval"
)
_PEFT = (
    f"MODEL llama {TRL} --dataset_name FOLDER text --dataset_text_field text --use_peft_lora --lora_r 4 "
    "--lora_target_modules q_proj,v_proj,up_proj,down_proj"
)
_GLUE = f"MODEL bert FILES pairs-json --max_seq_length 64 {_ENDS}"
_CLM = f"MODEL llama FILES text-json --block_size 32 {_ENDS}"
_STS = "examples/sentence_transformer/training/sts/training_stsbenchmark.py"
_PYTORCH = "examples/pytorch"


def cases() -> list[Case]:
    made = []
    trl = ("trl", "transformers")
    for launcher in ("", DDP, FSDP2):
        made.append(_case("trl-sft", "trl trl/scripts/sft.py", trl_words("sft"), trl, launcher))
    for launcher in ("", DDP, ALONE):
        words = f"{trl_words('dpo')} {LORA}"
        made.append(_case("trl-dpo", "trl trl/scripts/dpo.py", words, trl, launcher, adapter="LoRA"))
    made.append(_case("trl-sft-module", "-m trl.scripts.sft", trl_words("sft"), trl, ALONE))
    for name in ("sft", "kto", "grpo", "rloo", "reward"):
        made.append(_case(f"trl-{name}-module", f"-m trl.scripts.{name}", trl_words(name), trl))
    for launcher in ("", DDP, ALONE):
        script = "peft examples/sft/train.py"
        made.append(_case("peft-sft", script, _PEFT, ("peft", "trl"), launcher, adapter="LoRA"))
    for launcher in ("", DDP, ALONE):
        script = f"transformers {_PYTORCH}/text-classification/run_glue.py"
        made.append(_case("glue", script, _GLUE, ("transformers",), launcher))
    for launcher in ("", DDP, ALONE):
        script = f"transformers {_PYTORCH}/language-modeling/run_clm.py"
        made.append(_case("clm", script, _CLM, ("transformers",), launcher))
    made.append(_deepspeed())
    encoder = "sentence-transformers"
    for launcher in ("", DDP, ALONE):
        made.append(_case("sts", f"{encoder} {_STS}", "PLACE bert", (encoder,), launcher, environment=encoder))
    factory = {"environment": "llamafactory", "adapter": "LoRA"}
    packages = ("llamafactory", "transformers", "peft")
    made += [
        _case("llamafactory", "COMMAND llamafactory-cli", "train CONFIG", packages, **factory),
        _case("llamafactory-module", "-m llamafactory.cli", "train CONFIG", packages, **factory),
        _case("llamafactory-launcher", "-m llamafactory.launcher", "CONFIG", packages, DDP, **factory),
        _case("llamafactory-launcher", "-m llamafactory.launcher", "CONFIG", packages, ALONE, **factory),
    ]
    return made


def _deepspeed() -> Case:
    words = f"{trl_words('sft')} --deepspeed ZERO".replace("--use_cpu ", "")
    one = _case("trl-sft-module", "-m trl.scripts.sft", words, ("deepspeed", "trl"), DDP, environment="deepspeed")
    return replace(
        one,
        name="run-trl-sft-module-deepspeed",
        engine="ZeRO-2",
        processes=1,  # of several, one alone says why
        right=REFUSED,
        says="DeepSpeed",
        variables=(("ACCELERATE_USE_CPU", "false"),),  # with which accelerate drops DeepSpeed
    )


def _case(name: str, program: str, words: str, packages: tuple[str, ...], launcher: str = "", **rest: str) -> Case:
    """A case; its name and its row say what is in front of ``layerselect run``."""
    kind, engine, before = {
        "": ("", "one process", ""),
        DDP: ("ddp", "DDP", "torchrun "),
        ALONE: ("accelerate", "one process", "accelerate launch "),
        FSDP2: ("fsdp2", "FSDP2", "accelerate launch "),
    }[launcher]
    source, _, what = program.partition(" ")
    shown = program if source == "-m" else what if source == "COMMAND" else f"{source}: {what.removeprefix('trl/')}"
    return Case(
        name="-".join(word for word in ("run", name, kind) if word),
        section="Under `layerselect run`",
        program="layerselect_run",
        arguments=(source, what, *words.split()),
        framework=f"{before}{'-m ' if before else ''}layerselect run -- {shown}",
        engine=engine,
        packages=packages,
        launcher=launcher,
        processes=2 if engine != "one process" else 1,
        **{"environment": "scripts", **rest},
    )
