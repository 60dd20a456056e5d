"""The generator's prompts, word for word, and what is read back from what it writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerselect.tasks.revise.prompts import CUE, NOTHING, read_completion, tidy, write_completion, write_prompt


def test_one_intention():
    assert write_prompt("He go .", ["fluency"]) == (
        "Revise the original text. Intention of the revision: fluency.\nOriginal: He go .\nRevised:"
    )


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (["clarity", "fluency"], "clarity and fluency"),
        (["clarity", "fluency", "style"], "clarity, fluency and style"),
        (["style", "clarity", "style"], "style and clarity"),
    ],
)
def test_several_intentions(names, written):
    assert write_prompt("a", names) == (
        f"Revise the original text. Intentions of the revision: {written}.\nOriginal: a\nRevised:"
    )


def test_no_intention_is_a_plain_request():
    assert write_prompt("He go .") == "Revise the original text.\nOriginal: He go .\nRevised:"


def test_insertions_and_deletions():
    assert write_prompt(" \n", ["clarity"]).splitlines()[1] == f"Original: {NOTHING}"
    assert write_completion("") == NOTHING
    for written in (NOTHING, f" {NOTHING}\n", "( nothing )"):
        assert read_completion(written) == ""
    assert read_completion("nothing (nothing)") == "nothing (nothing)"


def test_white_space_is_tidied():
    assert tidy("  a  b\t c \n\n d\n") == "a b c\nd"
    assert write_completion(" a  b ") == "a b"
    assert " a b\n" in write_prompt(" a  b ")


@given(st.text())
def test_what_is_written_is_read_back(text):
    if "".join(text.split()) != NOTHING:
        assert read_completion(f" {write_completion(text)}") == tidy(text)
    assert tidy(tidy(text)) == tidy(text)
    assert write_prompt(text).endswith(f"\n{CUE}")
