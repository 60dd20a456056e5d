"""Public scripts: where they are got from, and the exact replacements that make their data local and add the selector.

Nothing of their code is kept in this project. A script comes from its package's source distribution (``pip download``),
or from its repository at the tag of the version that is installed (``git clone``; ``FRAMEWORKS_GIT_NAME`` names another
place to clone from, such as a copy on this machine). Every replacement must be found as often as it says: a script that
has changed is said to have changed, not run. Under ``layerselect run`` no selector is put in, and most scripts stay as
they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from .environments import FOLDER, NotToBeHad
from .tiny import data_folder, folder

SCRIPTS = FOLDER / "scripts"
#: Repositories of what a source distribution does not hold.
REPOSITORIES = {
    "accelerate": "https://github.com/huggingface/accelerate",
    "peft": "https://github.com/huggingface/peft",
    "transformers": "https://github.com/huggingface/transformers",
    "sentence-transformers": "https://github.com/huggingface/sentence-transformers",
}
METRIC = Path(__file__).resolve().parent / "metric" / "agreement.py"


@dataclass(frozen=True)
class Replace:
    """One exact replacement.

    Args:
        old, new: the texts.
        times: how often the old one stands there; 0: at least once.
    """

    old: str
    new: str
    times: int = 1


def fetch(source: str) -> Path:
    """The folder with a project's files, in the version that is installed.

    Raises:
        NotToBeHad: neither pip nor git brings it.
    """
    place = SCRIPTS / f"{source}-{version(source)}"
    if place.exists():
        return place
    part = place.with_name(f"{place.name}.part{os.getpid()}")
    part.mkdir(parents=True, exist_ok=True)
    try:
        if source in REPOSITORIES:
            _clone(source, part)
        else:
            _download(source, part)
        part.replace(place)
    except OSError:
        if not place.exists():  # another process was faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return place


def patched(source: str, path: str, *, selector: bool = True) -> Path:
    """A script with its replacements made, in the folder of the original.

    Args:
        source, path: where the script is.
        selector: whether the selector's lines are put in; without them most scripts are as they were published.

    Raises:
        NotToBeHad: the script has changed.
    """
    original = fetch(source) / path
    if not original.exists():
        raise NotToBeHad(f"{source} {version(source)} has no {path}")
    wanted = replacements(source, path) if selector else _made_local(source)
    if not wanted:
        return original
    text = original.read_text()
    for replace in wanted:
        found = text.count(replace.old)
        if found != replace.times and not (replace.times == 0 and found):
            raise NotToBeHad(
                f"{path} of {source} {version(source)} has changed: {replace.old.strip()!r} is there {found} times"
            )
        text = text.replace(replace.old, replace.new)
    target = original.with_name(f"selected_{os.getpid()}_{original.name}")
    target.write_text(text)
    return target


def _download(source: str, place: Path) -> None:
    wanted = f"{source}=={version(source)}"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        ":all:",
    ]
    got = subprocess.run([*pip, "--dest", str(place), wanted], capture_output=True, text=True)
    archives = list(place.glob("*.tar.gz"))
    if not archives:
        raise NotToBeHad(f"the source distribution of {wanted} cannot be downloaded: {got.stderr.strip()[-200:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(place, filter="data")
    (inner,) = (one for one in place.iterdir() if one.is_dir())
    for one in inner.iterdir():
        one.rename(place / one.name)


def _clone(source: str, place: Path) -> None:
    url = os.environ.get(f"FRAMEWORKS_GIT_{source.upper().replace('-', '_')}", REPOSITORIES[source])
    for branch in (["--branch", f"v{version(source)}"], []):  # a copy may not have the tag
        got = subprocess.run(
            ["git", "clone", "--quiet", "--depth", "1", *branch, url, str(place)], capture_output=True, text=True
        )
        if got.returncode == 0:
            return
    raise NotToBeHad(f"{url} cannot be cloned: {got.stderr.strip()[-200:]}")


_CALLBACK = (
    "        callbacks=[__import__('layerselect.integrations.transformers', "
    "fromlist=['*']).SelectorCallback(rule='variance')],\n"
)
_PREPARED = (
    "    model, optimizer, train_dataloader, eval_dataloader, lr_scheduler = accelerator.prepare(\n"
    "        model, optimizer, train_dataloader, eval_dataloader, lr_scheduler\n"
    "    )"
)


def _made_local(source: str) -> list[Replace]:
    """What is changed in a script that is given no selector: data that it names itself, and what needs a GPU."""
    if source != "sentence-transformers":
        return []
    return [
        Replace('"sentence-transformers/stsb"', repr(data_folder("scored")), times=3),
        Replace("fp16=True,", "fp16=False,"),
    ]


def options(words: Sequence[str]) -> list[str]:
    """The arguments of a script. ``MODEL KIND``, ``DATA KIND`` and ``FILES KIND`` stand for the options with a small
    model, a small data set and its files; ``PLACE KIND`` and ``FOLDER KIND`` for the folders of the model and the data.
    """
    made, left = [], list(words)
    while left:
        word = left.pop(0)
        if word == "MODEL":
            made += ["--model_name_or_path", folder(left.pop(0))]
        elif word == "DATA":
            made += ["--dataset_name", data_folder(left.pop(0))]
        elif word == "FILES":
            place = data_folder(left.pop(0))
            made += ["--train_file", f"{place}/train.json", "--validation_file", f"{place}/validation.json"]
        elif word == "PLACE":
            made.append(folder(left.pop(0)))
        elif word == "FOLDER":
            made.append(data_folder(left.pop(0)))
        else:
            made.append(word)
    return made


def replacements(source: str, path: str) -> list[Replace]:
    """What is changed in a script."""
    name = Path(path).stem
    if source == "trl":
        return _callback(f"{'Reward' if name == 'reward' else name.upper()}Trainer")
    if source == "peft" and name == "train":
        return _callback("SFTTrainer")
    if source == "peft":
        local = Replace('load_dataset("glue", task)', f"load_dataset({data_folder('pairs')!r})")
        return [
            local,
            _metric("task"),
            *_loop(
                _inner(_PREPARED).replace("optimizer, ", "").replace("eval_dataloader,", "eval_dataloader, optimizer,"),
                12,
            ),
        ]
    if name == "gradient_accumulation_for_autoregressive_models":
        return [
            Replace('"Salesforce/wikitext", "wikitext-2-v1"', repr(data_folder("text"))),
            Replace('"HuggingFaceTB/SmolLM-360M"', repr(folder("llama")), times=0),
            Replace("max_training_samples=500", "max_training_samples=48"),
            *_loop(_PREPARED, 12, before="            grad_norm = accelerator.clip_grad_norm_("),
        ]
    prepared = (
        _inner(_PREPARED) if name in ("automatic_gradient_accumulation", "memory", "cross_validation") else _PREPARED
    )
    if name == "schedule_free":
        prepared = prepared.replace(", lr_scheduler", "")
    # Processes that average weights, not gradients, are compared now and then only.
    data = "pairs-long" if name == "local_sgd" else "pairs"
    return [*_mrpc(data), *_loop(prepared, STEP_AT.get(name, 16))]


#: Where the line of the optimizer's step begins, if not at 16.
STEP_AT = {
    "gradient_accumulation": 16,
    "automatic_gradient_accumulation": 20,
    "cross_validation": 20,
    "local_sgd": 20,
    "profiler": 20,
}


def _callback(trainer: str) -> list[Replace]:
    """One line."""
    return [Replace(f"    trainer = {trainer}(\n", f"    trainer = {trainer}(\n{_CALLBACK}")]


def _metric(task: str) -> Replace:
    return Replace(f'evaluate.load("glue", {task})', f"evaluate.load({str(METRIC)!r})")


def _mrpc(data: str) -> list[Replace]:
    """MRPC, its metric and BERT, local."""
    return [
        Replace('"nyu-mll/glue", "mrpc"', repr(data_folder(data))),
        _metric('"mrpc"'),
        Replace('"bert-base-cased"', repr(folder("bert")), times=0),
    ]


def _loop(prepared: str, step_at: int, before: str = "") -> list[Replace]:
    """The README's lines: a selector over what ``accelerate`` prepared, attached to the optimizer; its step before the
    optimizer's.

    Args:
        prepared: the last lines of ``prepare``, after which the selector is built.
        step_at: how far the optimizer's step is indented.
        before: what the selector's step goes before, if not the optimizer's.
    """
    indent = prepared[: len(prepared) - len(prepared.lstrip())]
    lines = ("from layerselect import FastSelector", "selector = FastSelector(model)", "selector.attach(optimizer)")
    built = "".join(f"{indent}{line}\n" for line in lines)
    pad = " " * step_at
    before = before or f"{pad}optimizer.step()\n"
    return [
        Replace(f"{prepared}\n", f"{prepared}\n{built}"),
        Replace(f"\n{before}", f"\n{pad}selector.step()\n{before}"),
    ]


def _inner(text: str, by: int = 4) -> str:
    return "\n".join(" " * by + line for line in text.split("\n"))
