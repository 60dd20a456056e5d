"""Optimizers, in the README's loop, in modes freeze and gate."""

from __future__ import annotations

from .case import BOTH, REFUSED, SAID, WORKS, Case

_TORCH = (
    "AdamW AdamW-fused AdamW-foreach AdamW-for-loop Adam Adam-fused SGD SGD-fused SGD-foreach Adagrad Adagrad-fused "
    "Adadelta Adamax NAdam RAdam RMSprop Rprop ASGD Adafactor Muon LBFGS"
)
_BITSANDBYTES = (
    "AdamW8bit AdamW32bit PagedAdamW8bit PagedAdamW Adam8bit Lion8bit PagedLion8bit SGD8bit RMSprop8bit Adagrad8bit "
    "LAMB8bit LARS8bit AdEMAMix8bit"
)
_TORCHAO = "AdamW8bit AdamW4bit AdamWFp8"
_PYTORCH_OPTIMIZER = (
    "a2grad accsgd adabelief adabound adafactor adagc adago adahessian adai adalite adalomo adam adamax adamc adamg "
    "adammini adamod adamp adams adamuon adamw adamwsn adan adanorm adapnm adashift adasmooth adatam ademamix adopt "
    "aggmo aida alice alig amos ano apollo apollodqn asgd avagrad bcos bsam came conda dadaptadagrad dadaptadam "
    "dadaptadan dadaptlion dadaptsgd dash diffgrad dualadam emofact emolynx emonavi exadam fadam fira flashadamw "
    "focus fromage ftrl galore grams gravity grokfastadamw kate kron lamb laprop lars lion lomo lorarite madgrad "
    "magma mars msvag muon muonclip nadam nero normuon novograd padam pid pnm prodigy qhadam qhm racs radam ranger "
    "ranger21 rmsprop rose sara scalableshampoo schedulefreeadamw schedulefreeradam schedulefreesgd scion scionlight "
    "sgd sgdp sgdsai sgdw shampoo signsgd simplifiedademamix sm3 soap sophiah spam spectralsphere splus srmm "
    "stableadamw stablespam swats tam tiger vsgd yogi Lookahead OrthoGrad ScheduleFreeWrapper TRAC SAM SAM-closure "
    "FriendlySAM LookSAM WSAM"
)
_OTHERS = (
    ("schedulefree", "AdamWScheduleFree SGDScheduleFree RAdamScheduleFree"),
    ("prodigyopt", "Prodigy"),
    ("lion_pytorch", "Lion"),
    ("adam_mini", "Adam_mini"),
    ("lomo_optim", "Lomo AdaLomo"),
    ("galore_torch", "GaLoreAdamW GaLoreAdafactor GaLoreAdamW8bit layerwise"),
    ("apollo_torch", "APOLLOAdamW layerwise"),
)
#: What cannot be gated: updates in the backward pass, in two calls, or of what another optimizer has moved.
_SAID = {
    "lomo",
    "adalomo",
    "Lookahead",
    "TRAC",
    "SAM",
    "FriendlySAM",
    "LookSAM",
    "WSAM",
    "Lomo",
    "AdaLomo",
    "layerwise",
}
_EITHER = {"SAM-closure", "bsam", "ScheduleFreeWrapper", "alig", "magma"}


def cases() -> list[Case]:
    made = [_case("torch", name, "project") for name in _TORCH.split()]
    made += [_case("transformers", name, "project") for name in ("Adafactor", "Adafactor-relative")]
    made += [_case("bitsandbytes", name) for name in _BITSANDBYTES.split()]
    made += [_case("torchao", name) for name in _TORCHAO.split()]
    made += [_case("pytorch-optimizer", name) for name in _PYTORCH_OPTIMIZER.split()]
    for package, names in _OTHERS:
        made += [_case("others", f"{package}.{name}", package=package) for name in names.split()]
    made.append(_untried("torch", "SparseAdam", "it wants sparse gradients, which the layers of a stack do not have"))
    made.append(_untried("torch", "AdamW-capturable", "it wants a GPU"))
    for name in ("demo", "distributedmuon"):
        made.append(_untried("pytorch-optimizer", name, "it averages over processes itself"))
    return made


def _case(family: str, name: str, environment: str = "optimizers", package: str = "") -> Case:
    package = package or family
    short = name.split(".")[-1]
    right = SAID if short in _SAID else (*WORKS, *SAID) if short in _EITHER else WORKS
    return Case(
        name=f"optimizer-{package.replace('_', '-')}-{short}",
        section="Optimizers",
        program="optimizers",
        arguments=(family, name),
        optimizer=f"{package.replace('_', '-')}: {short}",
        packages=() if package == "torch" else (package.replace("_", "-"),),
        environment=environment,
        modes=BOTH,
        says="backward pass" if short.lower() in ("lomo", "adalomo", "layerwise") else "",
        right=REFUSED if name == "LBFGS" else right,
        timeout=600 if family == "torchao" else 120,  # it compiles its steps
    )


def _untried(package: str, name: str, why: str) -> Case:
    return Case(
        name=f"optimizer-{package}-{name}",
        section="Optimizers",
        program="optimizers",
        optimizer=f"{package}: {name}",
        untried=why,
    )
