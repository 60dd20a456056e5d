"""Alignment of texts: as difflib gives it, and bounded where difflib's time grows faster than the square."""

from __future__ import annotations

import random
from difflib import SequenceMatcher

import pytest
from layerselect.data import edits as words
from layerselect.tasks.text.formats import summarise_edits


def rebuilt(old, new, steps):
    """The new text out of the old one and the steps, which must go on from one another."""
    found, i, j = [], 0, 0
    for tag, i1, i2, j1, j2 in steps:
        assert (i1, j1) == (i, j)
        found += old[i1:i2] if tag == "equal" else new[j1:j2]
        i, j = i2, j2
    assert (i, j) == (len(old), len(new))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_texts_of_usual_length_are_aligned_as_difflib_does(seed):
    draw = random.Random(seed)
    old = [draw.choice("abcdefghij") for _ in range(draw.randrange(60))]
    new = [
        word if draw.random() < 0.8 else draw.choice("abcxyz")
        for word in old
        for _ in range(draw.choice((0, 1, 1, 1, 2)))
    ]
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    assert words.opcodes(old, new) == matcher.get_opcodes()
    assert words.likeness(old, new) == matcher.ratio()


@pytest.mark.parametrize("most", [0, 50, 400, 10_000])
def test_beyond_the_bound_the_steps_still_lead_from_one_text_to_the_other(monkeypatch, most):
    monkeypatch.setattr(words, "MOST_COMPARED", most)
    draw = random.Random(most)
    middle = [str(draw.randrange(40)) for _ in range(80)]
    old = ["same", "front", *middle, "the", "end"]
    new = ["same", "front", *draw.sample(middle, 70), "the", "end"]
    steps = words.opcodes(old, new)
    assert rebuilt(old, new, steps) == new
    assert steps[0][:3] == ("equal", 0, 2)
    assert steps[-1][0] == "equal"


@pytest.mark.parametrize("kind", ["another order", "one word", "two words"])
def test_what_long_texts_cost_is_bounded(monkeypatch, kind):
    looked = 0
    real = SequenceMatcher.find_longest_match

    def counted(self, low=0, high=None, new_low=0, new_high=None):
        nonlocal looked
        looked += sum(1 + len(self.b2j.get(word, ())) for word in self.a[low:high])
        return real(self, low, high, new_low, new_high)

    monkeypatch.setattr(SequenceMatcher, "find_longest_match", counted)
    monkeypatch.setattr(words, "MOST_COMPARED", 200_000)
    draw = random.Random(1)
    old = {"another order": [f"w{n}" for n in range(1200)], "one word": ["a"] * 1200, "two words": ["a", "b"] * 600}[
        kind
    ]
    new = [*draw.sample(old, len(old)), "c"]
    assert rebuilt(old, new, words.opcodes(old, new)) == new
    assert summarise_edits(" ".join(old), " ".join(new)).split()[0] in ("replace", "insert")
    assert looked <= 3 * 200_000  # of the words, of the characters, and of the words again in the summary
