"""Frameworks: the loop is theirs, the selector is a callback or three lines in it."""

from __future__ import annotations

from collections.abc import Callable

from .case import BOTH, REFUSED, SAID, WORKS, Case

_HF = ("transformers", "accelerate")
#: Launchers (``accelerate launch`` starts several processes on a CPU only through MPI, or with FSDP).
DDP = "torchrun"
FSDP2 = (
    "--use_fsdp --fsdp_version 2 --mixed_precision no --num_machines 1 --dynamo_backend no "
    "--fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP --fsdp_transformer_layer_cls_to_wrap LlamaDecoderLayer "
    "--fsdp_reshard_after_forward true"
)


def cases() -> list[Case]:
    return [
        *_plain(),
        *_trainer(),
        *_accelerate(),
        *_trl(),
        *_others(),
        *_llamafactory(),
        *_axolotl(),
        *_deepspeed(),
        *_torchtune(),
    ]


def _plain() -> list[Case]:
    words = {
        "": "",
        "clip": "clipping",
        "own-clip": "selector.clip_grad_norm_",
        "zeros": "zero_grad(set_to_none=False)",
    }
    words |= {"accumulate": "accumulation", "bf16": "bfloat16 autocast"}
    return [
        Case(
            name=f"plain-{word or 'loop'}",
            section="Frameworks",
            program="plain",
            arguments=(word,),
            framework=f"plain PyTorch, {what}" if what else "plain PyTorch",
            modes=BOTH,
        )
        for word, what in words.items()
    ]


def _trainer() -> list[Case]:
    def case(*words: str, engine: str = "one process", **rest) -> Case:
        what = [word for word in words if word not in ("lora", "fsdp2", "deepspeed")]
        return Case(
            name="-".join(("trainer", *words, *(["ddp"] if engine == "DDP" else []))),
            section="Frameworks",
            program="trainer",
            arguments=words,
            framework=", ".join(("transformers.Trainer", *what)),
            adapter="LoRA" if "lora" in words else "none",
            engine=engine,
            **{"packages": _HF, "modes": BOTH if engine == "one process" else ("auto",), **rest},
        )

    two = {"launcher": "torchrun", "processes": 2}
    extra = {"environment": "optimizers", "modes": ("auto",)}
    layerwise = {**extra, "right": SAID, "says": "backward pass"}
    return [
        case(),
        case("lora"),
        case("accumulation", "clipping"),
        case("lora", "checkpointing"),
        case("lora", "reentrant"),
        case("bf16"),
        case("neftune"),
        case("compile", modes=("auto",)),
        case("lora", engine="DDP", **two),
        case("clipping", "accumulation", engine="DDP", **two),
        case("fsdp2", engine="FSDP2", **two),
        case("fsdp2", "clipping", engine="FSDP2", **two),
        case("adafactor", modes=("auto",), optimizer="Adafactor"),
        case("paged8bit", optimizer="bitsandbytes: paged AdamW8bit", **extra),
        case("galore", optimizer="GaLore AdamW", **extra),
        case("galore-layerwise", optimizer="GaLore AdamW, layer-wise", **layerwise),
        case("apollo-layerwise", optimizer="APOLLO AdamW, layer-wise", **layerwise),
        case("lomo", optimizer="LOMO", **layerwise),
        case("schedulefree", optimizer="schedule-free AdamW", **extra),
    ]


def _accelerate() -> list[Case]:
    def case(*words: str, engine: str = "one process", launcher: str = "", right=WORKS) -> Case:
        kind = {"DDP": "ddp", "FSDP2": "fsdp2"}.get(engine, "")
        return Case(
            name="-".join(word for word in ("accelerate", *words, kind) if word),
            section="Frameworks",
            program="accelerate_loop",
            arguments=words,
            framework=", ".join(("accelerate", *words)),
            engine=engine,
            packages=("accelerate",),
            modes=BOTH if not launcher else ("auto",),
            launcher=launcher,
            processes=2 if launcher else 1,
            right=right,
        )

    return [
        case(),
        case("clip"),
        case("accumulate"),
        case("pattern", right=(*WORKS, *SAID)),
        case(engine="DDP", launcher=DDP),
        case("clip", "accumulate", engine="DDP", launcher=DDP),
        case("pattern", engine="DDP", launcher=DDP, right=(*WORKS, *SAID)),
        case(engine="FSDP2", launcher=FSDP2),
        case("clip", engine="FSDP2", launcher=FSDP2),
    ]


def _trl() -> list[Case]:
    made = []
    for name in ("sft", "dpo", "kto", "grpo", "rloo", "reward"):
        for words in ((), ("lora",), ("lora", "checkpointing")):
            beta = ", beta=0.1" if name in ("grpo", "rloo") else ""
            made.append(
                Case(
                    name="-".join(("trl", name, *words)),
                    section="Frameworks",
                    program="trl_trainers",
                    arguments=(name, *words),
                    framework=f"TRL: {name.upper() if name != 'reward' else 'Reward'}{beta}"
                    + (", gradient checkpointing" if "checkpointing" in words else ""),
                    adapter="LoRA" if "lora" in words else "none",
                    packages=("trl", "transformers", "peft"),
                    modes=BOTH,
                )
            )
    for name in ("dpo", "grpo"):
        made.append(
            Case(
                name=f"trl-{name}-lora-ddp",
                section="Frameworks",
                program="trl_trainers",
                arguments=(name, "lora"),
                framework=f"TRL: {name.upper()}",
                adapter="LoRA",
                engine="DDP",
                packages=("trl", "transformers", "peft"),
                launcher="torchrun",
                processes=2,
            )
        )
    return made


def _others() -> list[Case]:
    def case(program: str, *arguments: str, framework: str, environment: str, **rest) -> Case:
        return Case(
            name="-".join((environment, *(a for a in arguments if a != environment))),
            section="Frameworks",
            program=program,
            arguments=arguments,
            framework=framework,
            environment=environment,
            **{"packages": (environment,), "modes": BOTH, **rest},
        )

    encoder = "sentence_encoder"
    return [
        case(encoder, "sentence-transformers", framework="sentence-transformers", environment="sentence-transformers"),
        case(encoder, "setfit", framework="SetFit", environment="setfit", packages=("setfit", "sentence-transformers")),
        *_lightning(case),
        case("ignite_engine", framework="PyTorch-Ignite", environment="ignite", packages=("pytorch-ignite",)),
        case("fastai_learner", "torch", framework="fastai", environment="fastai"),
        case("fastai_learner", "own", framework="fastai", optimizer="fastai's Adam", environment="fastai", right=SAID),
        case("ignite_engine", framework="Composer", environment="composer"),
    ]


def _lightning(case: Callable[..., Case]) -> list[Case]:
    """``case`` makes one of a program in an environment of its own."""
    words = {
        "clip": "clipping",
        "accumulate": "accumulation",
        "fp16": "float16",
        "manual": "manual optimization",
    }

    def one(*arguments: str, by: str, **rest) -> Case:
        what = [words[word] for argument in arguments for word in argument.split("-") if word in words]
        framework = ", ".join(("Lightning", *what, by))
        return case("lightning_module", *arguments, framework=framework, environment="lightning", **rest)

    hand, callback = "step() by hand", "SelectorCallback"
    two = {"engine": "DDP", "launcher": DDP, "processes": 2, "modes": ("auto",)}
    return [
        one("automatic", by=hand),
        one("automatic-clip", by=hand),
        one("automatic-accumulate", by=hand),
        one("manual", by=hand),
        one("callback", by=callback),
        one("callback", "clip", "accumulate", by=callback),
        one("callback", "fp16", "clip", by=callback),
        one("callback", "manual", by=callback),
        one("callback", "manual", "two", by=f"two optimizers, {callback}"),
        one("callback", "clip", "accumulate", "ddp", by=callback, **two),
    ]


def _llamafactory() -> list[Case]:
    def case(stage: str, kind: str, *words: str, right=WORKS) -> Case:
        return Case(
            name="-".join(("llamafactory", stage, kind, *words)),
            section="Frameworks",
            program="llamafactory_run",
            arguments=(stage, kind, *words),
            framework=f"LLaMA-Factory: {stage}, {kind}",
            optimizer=words[0] if words else "AdamW",
            adapter="LoRA" if kind == "lora" else "none",
            packages=("llamafactory", "transformers", "peft", "trl"),
            environment="llamafactory",
            modes=BOTH,
            right=right,
        )

    return [
        case("sft", "lora"),
        case("sft", "full"),
        case("dpo", "lora"),
        case("kto", "lora"),
        case("rm", "lora"),
        case("sft", "freeze"),
    ]


def _axolotl() -> list[Case]:
    def case(stage: str, kind: str, engine: str = "one process", **rest) -> Case:
        return Case(
            name="-".join(("axolotl", stage, kind, *(["ddp"] if engine == "DDP" else []))),
            section="Frameworks",
            program="axolotl_run",
            arguments=(stage, kind),
            framework=f"axolotl, our plugin: {stage}, {kind}",
            adapter="LoRA" if kind == "lora" else "none",
            engine=engine,
            packages=("axolotl", "transformers", "peft", "trl"),
            environment="axolotl",
            variables=(("AXOLOTL_DO_NOT_TRACK", "1"),),
            **{"modes": BOTH, **rest},
        )

    return [
        case("example", "full", modes=("auto",)),
        case("sft", "full"),
        case("sft", "lora"),
        case("dpo", "lora"),
        case("sft", "lora", engine="DDP", untried="in several processes it puts each model on a GPU by its number"),
    ]


def _deepspeed() -> list[Case]:
    made = []
    for stage in ("0", "1", "2", "3"):
        for where, what in (
            ("inner", "selector before initialize()"),
            ("engine", "selector after"),
            ("accelerate", "accelerate"),
        ):
            made.append(
                Case(
                    name=f"deepspeed-zero{stage}-{where}",
                    section="Frameworks",
                    program="deepspeed_engine",
                    arguments=(stage, where),
                    framework=f"DeepSpeed, {what}",
                    engine=f"ZeRO-{stage}",
                    packages=("deepspeed",),
                    environment="deepspeed",
                    launcher="torchrun",
                    processes=2,
                    right=(*WORKS, *REFUSED) if stage == "0" else REFUSED,
                    says="DeepSpeed",
                    variables=(("ACCELERATE_USE_CPU", "false"),),  # with which accelerate drops DeepSpeed
                )
            )
    trainer = Case(
        name="deepspeed-trainer",
        section="Frameworks",
        program="trainer",
        arguments=("deepspeed",),
        framework="transformers.Trainer, deepspeed=",
        engine="ZeRO-2",
        packages=("deepspeed", "transformers"),
        environment="deepspeed",
        launcher="torchrun",
        processes=2,
        right=REFUSED,
        says="DeepSpeed",
        variables=(("ACCELERATE_USE_CPU", "false"),),
    )
    return [*made, trainer]


def _torchtune() -> list[Case]:
    return [
        Case(
            name=f"torchtune-{how}",
            section="Frameworks",
            program="torchtune_loop",
            arguments=(how,),
            framework=f"torchtune's {what}",
            adapter="LoRA" if how == "lora" else "none",
            packages=("torchtune", "torchao"),
            environment="torchtune",
            modes=BOTH,
            right=SAID if how.endswith("backward") else WORKS,
            says="backward pass",
        )
        for how, what in (("plain", "model"), ("lora", "model"), ("optimizer-in-backward", "optimizer_in_bwd"))
    ]
