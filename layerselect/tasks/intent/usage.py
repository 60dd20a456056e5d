"""How a trained predictor is used, for its model card."""

from __future__ import annotations

from dataclasses import asdict

from ...models.model_card import Usage
from ..text.usage import loading, loading_elsewhere, writing
from ..text.verbalizer import Verbalizer
from .dataset import Encoder

#: A revision for the card; the corpus stays where it is.
EXAMPLE = {
    "before": "The bakers buys flour.",
    "after": "The bakers buy flour.",
    "before_context": "It is early.",
    "after_context": "They begin.",
}
_SCORES = (("macro_f1", "macro-F1", 3), ("macro_auprc", "macro-AUPRC", 3), ("accuracy", "accuracy", 3))
_WORDS = {
    "pair": "The text before and the text after the revision, as the two parts of a pair.",
    "plain": "An instruction that names the intentions, with the text before and the text after the revision.",
    "contextual": "An instruction that names the intentions, with the text before and the text after the revision and "
    "what stands around it.",
    "edits": "The words around what was changed, with [ removed ] and { added } words marked; in front of them, if the "
    "format's `summary` is on, the kind of the edit in a few words.",
}


def usage_of(
    encoder: Encoder,
    *,
    kind: str,
    base_model: str,
    multi_label: bool,
    words: Verbalizer | None = None,
    word_scores: bool = False,
) -> Usage:
    """The predictor's usage.

    Args:
        kind: of its adapter.
        base_model: see :func:`layerselect.models.saved_adapter.save_adapted`.
        words: what it writes; ``None`` where it has a classification head.
        word_scores: a regression on the text has a part in its answers.
    """
    several = "each of several intentions" if multi_label else "one intention"
    label = "what a revision of a text is for"
    ends = " The model writes the intention behind it." if words else ""
    return Usage(
        title="A predictor of revision intentions",
        does=f"It says {label}: {several} out of {len(encoder.labels)}.",
        pipeline_tag="text-generation" if words else "text-classification",
        input=f"{_WORDS[encoder.form.name]} At most {encoder.max_length} tokens of it are read.{ends}",
        example=_example(encoder),
        write=_write(encoder),
        use="\n".join(
            [
                loading(kind, writes=words is not None),
                writing(words.longest)
                if words
                else _classifying(encoder, multi_label=multi_label, word_scores=word_scores),
            ]
        ),
        elsewhere=loading_elsewhere(kind, base_model, writes=words is not None),
        scores=_SCORES,
        notes=_notes(words, word_scores=word_scores),
    )


def _example(encoder: Encoder) -> str:
    if encoder.writes:
        return encoder.form.prompt(EXAMPLE, encoder.labels, encoder.separator or " ")
    text, second = encoder.form.write(EXAMPLE, encoder.labels)
    return text if second is None else text + (encoder.separator or "\n") + second


def _write(encoder: Encoder) -> str:
    form = ", ".join(f"{name}={value!r}" for name, value in asdict(encoder.form).items())
    row = {key: value for key, value in EXAMPLE.items() if encoder.form.name == "contextual" or "context" not in key}
    lines = [
        "from layerselect.tasks.text.formats import InputFormat",
        "",
        f"labels = {list(encoder.labels)!r}",
        f"form = InputFormat({form})",
        f"row = {row!r}",
    ]
    if encoder.writes:
        lines.append(f"text = form.prompt(row, labels, {encoder.separator or ' '!r})")
    else:
        lines.append("text, second = form.write(row, labels)")
        if encoder.separator is not None:
            lines += ["if second is not None:", f"    text, second = text + {encoder.separator!r} + second, None"]
    return "\n".join(lines)


def _classifying(encoder: Encoder, *, multi_label: bool, word_scores: bool) -> str:
    probabilities = "sigmoid()" if multi_label else "softmax(dim=0)"
    logits, first = "model(**inputs).logits[0]", []
    if word_scores:
        logits = "torch.from_numpy(word_scores.joined(model(**inputs).logits.numpy(), word_scores([row])))[0]"
        first = [
            "from layerselect.tasks.intent.word_scores import WordScores",
            f"word_scores = WordScores.load(folder, {len(encoder.labels)}, multi_label={multi_label})",
        ]
    lines = [
        *first,
        f'inputs = tokenizer(text, second, truncation=True, max_length={encoder.max_length}, return_tensors="pt")',
        "with torch.no_grad():",
        f"    scores = {logits}.{probabilities}",
        "found = {model.config.id2label[number]: round(score, 3) for number, score in enumerate(scores.tolist())}",
        "print(found)",
    ]
    return "\n".join(lines)


def _notes(words: Verbalizer | None, *, word_scores: bool) -> list[str]:
    notes = [
        "`layerselect predict --adapter . --input revisions.jsonl` does all of this for a file.",
    ]
    if word_scores:
        notes.append(
            "The model's own logits are not its answer. A logistic regression on the text, which lies beside it, has a "
            "part in that. `word_scores.json` lists words and runs of letters of its training split."
        )
    if words:
        notes.append(
            "The scores above compare how likely the model is to write each label, as `layerselect predict` does; what "
            "it writes freely may be something else."
        )
    return notes
