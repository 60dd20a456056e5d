"""What the model reads of a revision: four ways to put (before, after, context) into text.

``plain`` and ``contextual`` are the two instructions of IR-Tuning (Liu & Litman, arXiv 2510.00268) in our own
words. ``edits`` marks the changed words inside a window of their context: small models do not find an edit in
two nearly equal sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...data.edits import changed_words, find_edits, likeness, split_words
from ...errors import LayerSelectError

#: Around removed and added words. Four different characters that tokenizers of all kinds keep apart.
MARKS = ("[", "]", "{", "}")

#: What the instructions end with; a model that writes the label writes it behind this.
CUE = "Intention:"


#: So many tokens hold what a format writes of nearly every revision of a sentence, in IteraTeR and in ArgRewrite.
TOKENS = {"edits": 64, "pair": 256, "plain": 256, "contextual": 384}


@dataclass(frozen=True)
class InputFormat:
    """How revisions are written for the model; saved with a trained adapter, since prediction must repeat it.

    Attributes:
        name: ``pair``, ``plain``, ``contextual`` or ``edits``.
        window: ``edits``: words of context kept on each side of an edit.
        gap: ``edits``: edits with at most this many common words between them are shown as one.
        cap: ``edits``: of a longer removed or added run of words the middle is left out, until this many remain.
        summary: ``edits``: put words in front that say what kind of edit it is (see :func:`summarise_edits`).
    """

    name: str = "edits"
    window: int = 4
    gap: int = 1
    cap: int = 12
    summary: bool = True

    def __post_init__(self) -> None:
        if self.name not in _WRITERS:
            raise LayerSelectError(f"there is no input format {self.name!r}; the formats are: {', '.join(_WRITERS)}")
        if self.window < 0 or self.gap < 0:
            raise LayerSelectError(f"window={self.window} and gap={self.gap} of the format must not be negative")
        if self.cap < 2:
            raise LayerSelectError(f"cap={self.cap} of the format must be at least 2")

    def prompt(self, row: Mapping[str, Any], labels: Sequence[str] = (), separator: str = "\n") -> str:
        """The text after which a model is to write the label: as :meth:`write`, in one part, and closed by ``CUE``."""
        text, second = self.write(row, labels)
        text = text if second is None else text + separator + second
        return text if text.endswith(CUE) else f"{text}\n{CUE}"

    def write(self, row: Mapping[str, Any], labels: Sequence[str] = ()) -> tuple[str, str | None]:
        """The text for one revision, and its second part where the format has two.

        Args:
            row: ``before``, ``after`` and, for ``contextual``, ``before_context`` and ``after_context``.
            labels: the possible intentions, named by the instructions.
        """
        return _WRITERS[self.name](self, row, labels)


def available_formats() -> list[str]:
    """The names of the formats."""
    return list(_WRITERS)


def mark_edits(before: str, after: str, *, window: int = 4, gap: int = 1, cap: int = 12) -> str:
    """The words around the edits of a revision, with ``[ removed ]`` and ``{ added }`` marked.

    Everything more than ``window`` words away from an edit is replaced by ``...``, and so is the middle of a run of
    more than ``cap`` changed words. A revision that
    changes no word gives the first words of its text, unmarked.
    """
    old, new = split_words(before), split_words(after)
    edits = find_edits(old, new, gap)
    out: list[str] = []
    position = 0
    for number, edit in enumerate(edits):
        common = old[position : edit.before_start]
        if len(common) > (2 * window if number else window):
            common = [*(common[:window] if number else []), "...", *common[len(common) - window :]]
        out += common
        if edit.before_start < edit.before_end:
            out += [MARKS[0], *_shortened(old[edit.before_start : edit.before_end], cap), MARKS[1]]
        if edit.after_start < edit.after_end:
            out += [MARKS[2], *_shortened(new[edit.after_start : edit.after_end], cap), MARKS[3]]
        position = edit.before_end
    rest = old[position:]
    kept = window if edits else 2 * window
    return " ".join(out + (rest if len(rest) <= kept else [*rest[:kept], "..."]))


def summarise_edits(before: str, after: str) -> str:
    """The kind of a revision in a few words: ``replace 1 1 spelling``, ``insert 0 8``, ``delete 3 0``.

    What is done, how many words are removed and added (in steps), and, where it is plain to see, that only
    punctuation or upper and lower case changed, or how alike the removed and the added words are.
    """
    removed, added = changed_words(before, after)
    operation = "replace" if removed and added else "delete" if removed else "insert" if added else "same"
    parts = [operation, _step(len(removed)), _step(len(added))]
    out, into = " ".join(removed), " ".join(added)
    if out + into and not any(character.isalnum() for character in out + into):
        parts.append("punctuation")
    elif removed and out.lower() == into.lower():
        parts.append("case")
    elif removed and added:
        share = likeness(out.lower(), into.lower())
        few = max(len(removed), len(added)) < 4
        parts.append("spelling" if share > 0.7 and few else "similar" if share > 0.6 else "different")
    return " ".join(parts)


def _shortened(words: list[str], cap: int) -> list[str]:
    return words if len(words) <= cap else [*words[: cap - cap // 2], "...", *words[-(cap // 2) :]]


def _step(count: int) -> str:
    """Small numbers as they are, larger ones by the highest of 5, 8, 16 and 32 that they reach."""
    return str(count) if count < 5 else str(max(step for step in (5, 8, 16, 32) if step <= count))


def _pair(_: InputFormat, row: Mapping[str, Any], __: Sequence[str]) -> tuple[str, str | None]:
    return _clean(row["before"]), _clean(row["after"])


def _edits(form: InputFormat, row: Mapping[str, Any], _: Sequence[str]) -> tuple[str, str | None]:
    text = mark_edits(row["before"], row["after"], window=form.window, gap=form.gap, cap=form.cap)
    if form.summary:
        text = f"{summarise_edits(row['before'], row['after'])} : {text}"
    return text, None


def _plain(_: InputFormat, row: Mapping[str, Any], labels: Sequence[str]) -> tuple[str, str | None]:
    return _instruction(row, labels, context=False), None


def _contextual(_: InputFormat, row: Mapping[str, Any], labels: Sequence[str]) -> tuple[str, str | None]:
    return _instruction(row, labels, context=True), None


def _instruction(row: Mapping[str, Any], labels: Sequence[str], *, context: bool) -> str:
    names = f" Possible intentions: {', '.join(labels)}." if labels else ""
    lines = [f"Identify the intention of the revision that turned the original text into the revised text.{names}"]
    before, after = _clean(row["before"]) or "(nothing)", _clean(row["after"]) or "(nothing)"
    if context:
        around = [_clean(row.get(key) or "") for key in ("before_context", "after_context")]
        for name, text in zip(("Text before it", "Text after it"), around, strict=True):
            if text:
                lines.append(f"{name}: {text}")
    lines += [f"Original: {before}", f"Revised: {after}", CUE]
    return "\n".join(lines)


def _clean(text: str) -> str:
    return " ".join(text.split())


_WRITERS: dict[str, Callable[[InputFormat, Mapping[str, Any], Sequence[str]], tuple[str, str | None]]] = {
    "pair": _pair,
    "plain": _plain,
    "contextual": _contextual,
    "edits": _edits,
}
