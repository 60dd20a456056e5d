"""The model card of a model into whose weights an adapter was folded: the adapter's, with what has changed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from .model_card import FILE, public_name

_SECTION = re.compile(r"^## ", re.MULTILINE)
_PIPELINES = {"intent": "text-classification", "revise": "text-generation"}
_USES = {
    "intent": "layerselect predict --adapter FOLDER --input new.jsonl",
    "revise": "layerselect rewrite --adapter FOLDER < draft.txt",
}
#: Of the adapter's card, what is about loading an adapter.
_LEFT_OUT = "How to use it"


def write_merged_card(folder: Path, adapter: Path, *, base_model: str, kind: str, task: str) -> None:
    """Writes the card of a merged model.

    Args:
        folder: takes the card.
        adapter: whose card says what the model reads, how well it does and which layers were trained, if it has one.
        base_model: the model under the adapter; ``""``: the demo's.
        kind: of the adapter.
        task: what the model does.
    """
    base = public_name(base_model)
    content: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": _PIPELINES[task]}
    if base:
        content |= {"base_model": base, "base_model_relation": "finetune"}
    front = yaml.safe_dump({**content, "tags": ["layerselect", "text-revision"]}, sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---",
        "# A model with its adapter folded in",
        f"A {kind} adapter that was trained with `layerselect` was folded into the weights of its model: "
        "`transformers` loads this folder by itself, and no adapter is left.",
        "## How to use it",
        f"```bash\n{_USES[task]}\n```",
        *_kept(adapter / FILE),
    ]
    (folder / FILE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _kept(card: Path) -> list[str]:
    """The sections of an adapter's card that are true of the merged model, too."""
    if not card.is_file():
        return []
    sections = _SECTION.split(card.read_text(encoding="utf-8"))[1:]
    return [f"## {text.strip()}" for text in sections if not text.startswith(_LEFT_OUT)]
