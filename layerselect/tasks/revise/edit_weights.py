"""How much each token of a revision counts in the loss: the changed ones may count more than the copied ones.

Of a revision most tokens are those of its source, and a model that only copies has a low loss. The edit-weighted
objective of Junczys-Dowmunt et al. (NAACL 2018, "Approaching Neural Grammatical Error Correction as a Low-Resource
Machine Translation Task", section 3.3) lets the tokens of edits weigh more.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...data.edits import opcodes


def edit_weights(source: Sequence[int], revision: Sequence[int], weight: float) -> list[float]:
    """Of each token of ``revision``, ``weight`` where it belongs to an edit of ``source`` and 1 elsewhere.

    What an edit puts in belongs to it. Where one only leaves out, the token behind it does: there the model must not go
    on copying. Both texts are closed by the end token, so that an edit at the end has one, too.

    Args:
        source, revision: token ids.
        weight: finite and positive.
    """
    weights = [1.0] * len(revision)
    for tag, _, _, start, end in opcodes(source, revision):
        if tag != "equal":
            weights[start : max(end, start + 1)] = [weight] * len(weights[start : max(end, start + 1)])
    return weights
