"""Folds LoRA or DoRA into the weights of the model under it, and writes the whole model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import LayerSelectError
from ...models.adapter_files import META, find_adapter
from ...models.merged_card import write_merged_card
from ...models.saved_adapter import save_adapted
from ...utils.folders import new_folder
from ...utils.saved_files import read_json
from ...utils.saved_schema import Fields, Text
from ..intent.predict import Predictor
from ..intent.word_scores import WordScores
from ..revise.rewrite import Rewriter

#: Of ``layerselect.json``, what is written anew; the rest is the task's own.
_OF_ANY_TASK = (
    *("schema", "task", "adapter", "base_model", "identity", "embedding_rows", "fingerprint", "dtype", "quantize"),
)
_META = Fields({"task": Text(of=("intent", "revise")), "adapter": Text()})
_MERGED = ("lora", "dora")


@dataclass(frozen=True)
class Merged:
    """What was written.

    Attributes:
        task: what the model does, ``intent`` or ``revise``.
        adapter: the kind that was folded in.
        base_model: the model that it was trained on.
        parameters: how many weights the whole model has.
        word_scores: a regression on the text, which was copied, has a part in its answers.
    """

    folder: Path
    task: str
    adapter: str
    base_model: str
    parameters: int
    word_scores: bool = False


def merge_adapter(
    folder: str | Path, out: str | Path, *, model: str | Path | None = None, dtype: str | None = None
) -> Merged:
    """Writes the model with its adapter folded in. ``transformers`` loads the folder by itself, and ``predict`` and
    ``rewrite`` take it as an adapter that is a whole model.

    The sums are made in the type in which the weights are held. A model that was trained on quantized weights is merged
    into those that were not, so its answers differ by what quantization rounded.

    Args:
        folder: of a run, or its ``adapter`` folder.
        out: the folder that the model becomes.
        model: where the base model lies now, if it has moved.
        dtype: how the weights are held, see :class:`~layerselect.models.holding.Holding`; ``None``: as in the training.

    Raises:
        LayerSelectError: there is no adapter, its base model is missing or another one, the adapter cannot be folded
            into weights, or ``out`` is not free.
    """
    path = find_adapter(folder)
    meta = read_json(path / META, _META, advice="train again")
    kind, base = meta["adapter"], str(meta.get("base_model", ""))
    if kind == "none":
        raise LayerSelectError(f"{str(path)!r} holds a whole model, whose own weights were trained: use it as it is")
    if kind not in _MERGED:
        raise LayerSelectError(
            f"{str(path)!r} holds a {kind} adapter, which computes something between the layers' maps: only "
            f"{' and '.join(_MERGED)} can be folded into weights"
        )
    network, tokenizer, word_scores = _loaded(path, meta["task"], model, dtype)
    merged = network.merge_and_unload(safe_merge=True)
    with new_folder(out) as scratch:
        save_adapted(
            scratch,
            merged,
            tokenizer,
            task=meta["task"],
            base_model=base,
            kind="none",
            fingerprint=str(meta.get("fingerprint") or ""),
            more={name: value for name, value in meta.items() if name not in _OF_ANY_TASK},
        )
        if word_scores is not None:
            word_scores.save(scratch)
        write_merged_card(scratch, path, base_model=base, kind=kind, task=meta["task"])
    return Merged(
        Path(out), meta["task"], kind, base, sum(p.numel() for p in merged.parameters()), word_scores is not None
    )


def _loaded(path: Path, task: str, model: str | Path | None, dtype: str | None) -> tuple[Any, Any, WordScores | None]:
    """The model with its adapter, the tokenizer, and what is added to the model's logits, if anything is."""
    if task == "intent":
        predictor = Predictor.load(path, model=model, dtype=dtype, quantize="none")
        return predictor.model, predictor.encoder.tokenizer, predictor.word_scores
    rewriter = Rewriter.load(path, model=model, dtype=dtype, quantize="none")
    return rewriter.model, rewriter.tokenizer, None
