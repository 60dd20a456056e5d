"""The model card of a trained adapter: the ``README.md`` that hubs of models show, and read in its first lines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..metrics.enough import too_few_steps

FILE = "README.md"

_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~$])")
#: What the text of a card calls the demo's model.
_DEMO = "a small model of random weights that the run made"


@dataclass(frozen=True)
class Usage:
    """How the model of a task is used.

    Attributes:
        title: what it is, in a few words.
        does: what it does, in a sentence.
        pipeline_tag: the task's name on hubs.
        input: what the model reads, in words.
        example: such an input, as the code of ``write`` makes it.
        write: a program that makes the input: ``text``, and ``second`` where the tokenizer is given two parts.
        use: a program that goes on from there: it loads the model from ``folder`` and uses it.
        elsewhere: a program that loads the model where its base model lies somewhere else; "" where ``use`` does.
        scores: the columns of the table of results: key, heading, digits.
        notes: what else whoever uses it must know.
    """

    title: str
    does: str
    pipeline_tag: str
    input: str
    example: str
    write: str
    use: str
    elsewhere: str
    scores: Sequence[tuple[str, str, int]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Held:
    """How the base model was held and computed with while it was trained, by the options of the commands."""

    dtype: str = "float32"
    quantize: str = "none"
    gradient_checkpointing: str = "none"
    device_map: str = "none"
    processes: int = 1
    sharded: bool = False

    def sentence(self, *, whole: bool) -> str:
        """What a card says of it: the type, and what else was not as usual.

        Args:
            whole: the layers' own weights were trained.
        """
        held = f"held in {self.dtype}"
        if self.quantize != "none":
            bits = "8 bits" if self.quantize == "8bit" else "4 bits (nf4, its constants quantized again)"
            held = f"held in {bits} where its layers have linear maps, and else in {self.dtype}"
        parts = [
            f"layers were computed again in the backward pass ({self.gradient_checkpointing} gradient checkpointing)"
            if self.gradient_checkpointing != "none"
            else "",
            "layers were spread over several GPUs" if self.device_map != "none" else "",
            f"{self.processes} processes trained together{', the model cut over them (FSDP2)' if self.sharded else ''}"
            if self.processes > 1
            else "",
        ]
        few = self.dtype != "float32" and not whole
        adapters = ", with adapters and new heads in float32" if few or self.quantize != "none" else ""
        return "; ".join([f"In training the base model was {held}{adapters}", *filter(None, parts)]) + "."


@dataclass(frozen=True)
class Training:
    """How an adapter came to be.

    Attributes:
        base_model: a folder, a hub id, or "" for the demo's model.
        adapter: its kind; ``none``: the layers' own weights.
        corpus: ``name``, ``fingerprint``, ``labels``, ``splits`` and ``chosen_by``, as ``config.json`` has them.
        selection: as ``importance.json`` has it.
        results: the scores of each row of the table, the trained model's last, for each split.
        versions: of the libraries.
        held: how the base model was held.
    """

    base_model: str
    adapter: str
    corpus: Mapping[str, Any]
    selection: Mapping[str, Any]
    results: Mapping[str, Mapping[str, Mapping[str, Any]]]
    versions: Mapping[str, str]
    held: Held = Held()


def write_card(folder: Path, usage: Usage, training: Training) -> None:
    """Writes the card into the folder of an adapter. Nothing in it depends on when or where the run was."""
    (folder / FILE).write_text(model_card(usage, training), encoding="utf-8")


def model_card(usage: Usage, training: Training) -> str:
    """The text of the card."""
    parts = [
        f"---\n{_front_matter(usage, training)}---",
        f"# {usage.title}",
        usage.does,
        _made_of(training),
        "## What it reads",
        usage.input,
        "This text is made by:",
        _code(usage.write),
        "For this revision the model reads:",
        _code(usage.example, "text"),
        "## How to use it",
        _code(usage.use),
        *(f"- {note}" for note in _listed(usage.notes)),
        *_elsewhere(usage),
        "## How well it does",
        *_results(usage, training),
        "## Which layers were trained",
        *_layers(training.selection),
        "## Where it comes from",
        *_origin(training),
    ]
    return "\n\n".join(parts) + "\n"


def escaped(value: object) -> str:
    """Data as it may stand in a line of Markdown: on one line, and nothing in it is a mark."""
    return _MARKS.sub(r"\\\1", " ".join(str(value).split())).replace("\\<", "&lt;").replace("\\>", "&gt;")


def _front_matter(usage: Usage, training: Training) -> str:
    whole, base = training.adapter == "none", public_name(training.base_model)
    tags = ["layerselect", "text-revision", *([] if whole else [training.adapter])]
    content: dict[str, Any] = {"library_name": "transformers" if whole else "peft", "pipeline_tag": usage.pipeline_tag}
    if base:
        content["base_model"] = base
        content["base_model_relation"] = "finetune" if whole else "adapter"
    return yaml.safe_dump({**content, "tags": tags}, sort_keys=False, allow_unicode=True)


def public_name(base_model: str) -> str:
    """How a base model is called where others read it: a hub id, or the name of its folder without the way there."""
    return Path(base_model).name if Path(base_model).is_absolute() else base_model


def _made_of(training: Training) -> str:
    base = f"`{_plain(public_name(training.base_model))}`" if training.base_model else _DEMO
    if training.adapter == "none":
        return f"The layers' own weights of {base} were trained, with `layerselect`; this folder holds the whole model."
    place = "" if training.base_model else " (it lies in the folder `base`)"
    return f"A {training.adapter} adapter for {base}{place}, trained with `layerselect`."


def _elsewhere(usage: Usage) -> list[str]:
    if not usage.elsewhere:
        return []
    return [
        "The settings of the adapter name the place where it was trained. Where this folder or its base model has "
        "moved, load the base model yourself:",
        _code(usage.elsewhere),
    ]


def _results(usage: Usage, training: Training) -> list[str]:
    parts = []
    headings = [heading for _, heading, _ in usage.scores]
    for split, rows in training.results.items():
        examples = training.corpus["splits"].get(split, {}).get("examples")
        parts.append(f"On the split {escaped(split)}{f' ({examples} examples)' if examples is not None else ''}:")
        lines = [_row(["", *headings]), _row(["---", *("---:" for _ in headings)])]
        lines += [
            _row([escaped(name), *(_number(scores.get(key), digits) for key, _, digits in usage.scores)])
            for name, scores in rows.items()
        ]
        parts.append("\n".join(lines))
    if not parts:
        parts.append("The corpus has no split to evaluate it on, so nothing is known.")
    if chosen_by := training.corpus.get("chosen_by"):
        parts.append(
            f"The split {escaped(chosen_by)} chose the step whose weights were kept, so its own scores are a little "
            "too good."
        )
    parts.append("These are the scores of one run with one seed.")
    if few := too_few_steps(training.selection["steps"]):
        parts.append(f"**{few[0].upper()}{few[1:]}.**")
    return parts


def _layers(selection: Mapping[str, Any]) -> list[str]:
    rule = dict(selection["rule"])
    name = rule.pop("name")
    options = ", ".join(f"{key}={value}" for key, value in rule.items())
    rows = zip(selection["layer_names"], selection["frequency"], selection["trained_frequency"], strict=True)
    return [
        f"In {selection['steps']} steps the rule `{_plain(name)}`{f' ({escaped(options)})' if options else ''} chose "
        f"by the score `{_plain(selection['score'])}` which layers train, in mode `{_plain(selection['mode'])}`. "
        "What lies outside the layers and was never trained before, such as a classification head, trained in every "
        "step.",
        "\n".join(
            [
                _row(["layer", "times selected", "of these with a gradient"]),
                _row(["---", "---:", "---:"]),
                *(_row([_code_cell(layer), str(selected), str(trained)]) for layer, selected, trained in rows),
            ]
        ),
    ]


def _origin(training: Training) -> list[str]:
    corpus = training.corpus
    splits = ", ".join(f"{escaped(name)} {facts['examples']}" for name, facts in corpus["splits"].items())
    made = ", ".join(f"{escaped(name)} {escaped(version)}" for name, version in training.versions.items())
    return [
        "\n".join(
            [
                f"- Corpus: {escaped(corpus['name'])}, fingerprint `{_plain(corpus['fingerprint'])}`; its texts are "
                "not in this folder.",
                f"- Examples: {splits}.",
                f"- Labels: {', '.join(escaped(label) for label in corpus['labels'])}.",
                f"- {training.held.sentence(whole=training.adapter == 'none')}",
                f"- Made with: {made}.",
                "- License: none is set. Whoever shares this folder chooses one (`license:` in the first lines), which "
                "the terms of the base model and of the corpus must allow.",
            ]
        )
    ]


def _listed(notes: Sequence[str]) -> list[str]:
    return ["\n- ".join(notes)] if notes else []


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "–"


def _plain(value: object) -> str:
    """Data as it may stand between backticks."""
    return " ".join(str(value).replace("`", "'").split())


def _code_cell(value: object) -> str:
    """Data between backticks in a table."""
    return f"`{_plain(value)}`".replace("|", "\\|")


def _code(text: str, language: str = "python") -> str:
    """A block that ends where it should, whatever the text holds."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
