"""Sentences by hand, and the cutting of pairs and texts against its promises on many random ones."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.tasks.revise.cutting import cut_pair, outer_space, split_sentences, split_text

ANY_TEXT = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from([*"aBc1.!?\"') \n", " ", "Mr.", "et al.", "  ", "word", "J."]), max_size=40).map("".join),
)
SENTENCES = st.lists(
    st.lists(st.sampled_from(["aa", "bb", "cc", "dd", "ee"]), min_size=1, max_size=5).map(
        lambda w: " ".join(w).capitalize() + "."
    ),
    max_size=8,
)


def words(*texts):
    return sum(len(text.split()) for text in texts)


def at_most(number):
    return lambda *texts: words(*texts) <= number


@pytest.mark.parametrize(
    "sentences",
    [
        ["He came. ", "She left! ", "Why?"],
        ['"He came." ', "She left.) ", "“Why?” ", "So."],
        ["He came . ", "She left ... ", "Why ?! ", "So"],
        ["Dr. Smith met J. R. Jones of the U.S. Navy, e.g. at sea, cf. Fig. 3. ", "Then he left."],
        ["Smith et al. propose it (see No. 7 of vol. 2). ", "The answer is no. ", "It works."],
        ['"Why?" he asked. ', "It was approx.\t3 m. ", "So. ", "Yes."],
        ["A title\n", "The text. ", "1. The first\n\n", "2. The second"],
        ["  It costs 3.5 dollars.Really.\n ", "Yes. . . and no.  "],
        ["In 1999. ", "Then."],
        ["\n\nHe came.\n", "She left. \n"],
        ["... he came. ", "So."],
        ["no end"],
        [" "],
        [],
    ],
)
def test_sentences(sentences):
    assert split_sentences("".join(sentences)) == sentences


@given(ANY_TEXT)
def test_sentences_joined_are_the_text(text):
    pieces = split_sentences(text)
    assert "".join(pieces) == text
    assert all(piece.strip() for piece in pieces) or (text and not text.strip() and pieces == [text])


@pytest.mark.parametrize("text", [".", "a. ", "Mr. ", " ", "\n", '"', "x", '."', ". "])
def test_strange_texts_take_no_time_to_speak_of(text):
    """A search that goes back and forth would take hours."""
    text = f"He said. {text * 300_000}"
    assert "".join(split_sentences(text)) == text


@given(ANY_TEXT, st.integers(1, 9))
def test_the_pieces_of_a_text_fit_and_joined_are_the_text(text, limit):
    pieces = split_text(text, at_most(limit))
    assert "".join(pieces) == text
    assert all(words(piece) <= limit for piece in pieces)


@given(ANY_TEXT, st.integers(1, 9))
def test_a_piece_within_a_word_fits_too(text, limit):
    pieces = split_text(text, lambda piece: len(piece) <= limit)
    assert "".join(pieces) == text
    assert all(len(piece.strip()) <= limit for piece in pieces)


@given(SENTENCES, st.integers(5, 12))
def test_sentences_that_fit_alone_stay_whole(sentences, limit):
    pieces = split_text(" ".join(sentences), at_most(limit))
    assert [sentence for piece in pieces for sentence in split_sentences(piece)] == split_sentences(" ".join(sentences))
    # And as many as fit are together.
    for piece, following in itertools.pairwise(pieces):
        assert words(piece) + words(split_sentences(following)[0]) > limit


def test_a_text_is_cut_where_it_must_be():
    text = "One two. Three four five six seven. Eight. "
    assert split_text(text, at_most(9)) == [text]
    assert split_text(text, at_most(7)) == ["One two. Three four five six seven. ", "Eight. "]
    assert split_text(text, at_most(3)) == ["One two. ", "Three four five ", "six seven. Eight. "]
    assert split_text("abcdef gh", lambda piece: len(piece) <= 4) == ["abcd", "ef ", "gh"]
    assert split_text("", at_most(1)) == []
    assert split_text(" \n", lambda piece: False) == [" \n"]
    with pytest.raises(LayerSelectError, match="no room for a single character"):
        split_text("abc", lambda piece: False)


def test_white_space_around_a_piece():
    assert outer_space("\n a b \t") == ("\n ", "a b", " \t")
    assert outer_space("  ") == ("", "", "  ")
    assert outer_space("") == ("", "", "")


OLD = "The cat sat. It was red. Dogs bark. Birds sing. The end came soon."


def test_a_pair_that_fits_is_left_alone():
    pair = cut_pair(f" {OLD} ", OLD, at_most(100))
    assert (pair.before, pair.after, pair.cut, pair.kept_sentences, pair.sentences) == (f" {OLD} ", OLD, False, 5, 5)


def test_the_sentences_with_most_changes_are_kept():
    new = "The cat sat. It was red. Dogs howl. Birds sang. The end came late."
    pair = cut_pair(OLD, new, at_most(16))
    assert (pair.before, pair.after) == (
        "Dogs bark. Birds sing. The end came soon.",
        "Dogs howl. Birds sang. The end came late.",
    )
    assert (pair.cut, pair.kept_sentences, pair.sentences) == (True, 3, 5)


def test_of_equals_the_earliest_is_kept():
    new = "The cat sat. It was blue. Dogs bark. Birds sang. The end came soon."
    pair = cut_pair(OLD, new, at_most(12))
    assert (pair.before, pair.after) == ("The cat sat. It was red.", "The cat sat. It was blue.")
    assert pair.kept_sentences == 2


def test_an_unchanged_pair_keeps_its_beginning():
    pair = cut_pair(OLD, OLD, at_most(12))
    assert pair.before == pair.after == "The cat sat. It was red."


@pytest.mark.parametrize("turned", [False, True])
def test_sentences_that_one_side_lacks(turned):
    shorter = "The cat sat. It was red. Birds sing. The end came soon."
    sides = (shorter, OLD) if turned else (OLD, shorter)
    pair = cut_pair(*sides, at_most(10))
    assert {pair.before, pair.after} == {"It was red. Dogs bark.", "It was red."}
    pair = cut_pair(*(("", OLD) if turned else (OLD, "")), at_most(6))
    assert {pair.before, pair.after} == {"The cat sat. It was red.", ""}
    assert (pair.kept_sentences, pair.sentences) == (2, 5)


def test_replaced_sentences_are_paired_by_their_words():
    """All sentences changed, and one new in front: paired in order, each would face its neighbour's revision."""
    old = "The cat sat down. A dog barked loudly."
    new = "Once upon time. The cat sat up. A dog barked softly."
    pair = cut_pair(old, new, at_most(11))
    assert (pair.before, pair.after) == ("The cat sat down.", "Once upon time. The cat sat up.")
    assert pair.sentences == 3


def test_white_space_is_no_change():
    pair = cut_pair("The  cat sat. It was red. ", "The cat sat.  It was blue.", at_most(6))
    assert (pair.before, pair.after) == ("It was red.", "It was blue.")


def test_a_long_sentence_is_cut_at_words_around_its_changes():
    old = "Short one. Alpha beta gamma delta epsilon zeta"
    pair = cut_pair(old, old.replace("delta", "Delta"), lambda before, after: len(before + after) <= 30)
    assert (pair.before, pair.after) == ("gamma delta", "gamma Delta")
    assert (pair.cut, pair.kept_sentences, pair.sentences) == (True, 1, 2)


def test_a_long_word_is_cut():
    pair = cut_pair("abcdefgh", "abcdefgH", lambda before, after: len(before + after) <= 6)
    assert (pair.before, pair.after) == ("fgh", "fgH")


def test_nothing_fits():
    with pytest.raises(LayerSelectError, match="no room for a single character"):
        cut_pair(OLD, OLD, lambda before, after: False)


@given(SENTENCES, SENTENCES, st.integers(2, 20))
def test_what_is_kept_fits_and_stands_in_the_pair(old, new, limit):
    before, after = " ".join(old), " ".join(new)
    pair = cut_pair(before, after, at_most(limit))
    assert words(pair.before, pair.after) <= limit
    assert pair.before in before and pair.after in after
    assert pair.cut == (words(before, after) > limit)
    assert pair.kept_sentences <= pair.sentences
    if before != after:
        assume(pair.cut)
        assert pair.before.split() != pair.after.split()
