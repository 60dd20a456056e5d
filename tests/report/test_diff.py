import re
from html import escape
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from layerselect.report.diff import difference, difference_html

TEXTS = st.one_of(
    st.lists(
        st.sampled_from(["a", "b", "The", "the", ",", ".", " ", "  ", "\n", "\t", "é", "\u00a0"]), max_size=14
    ).map("".join),
    st.text(max_size=20),
)


def joined(pieces, *kinds):
    return "".join(text for kind, text in pieces if kind in kinds)


@given(TEXTS, TEXTS)
@example("", "")
@example("a ", " a")
@example("a\n\nb", "a b")
@example("b c", "c")
@example("a b", "b a")
def test_nothing_is_lost(source, other):
    pieces = difference(source, other)
    assert joined(pieces, "same", "delete") == source
    assert joined(pieces, "same", "insert") == other
    assert all(text for _, text in pieces)
    kinds = [kind for kind, _ in pieces]
    assert all(kind != following for kind, following in pairwise(kinds))
    assert ("insert", "delete") not in set(pairwise(kinds))


@given(TEXTS)
def test_equal_texts_are_one_piece(text):
    assert difference(text, text) == ([("same", text)] if text else [])


@given(TEXTS, TEXTS)
def test_the_html_holds_both_texts_and_no_other_tag(source, other):
    html = difference_html(source, other)
    without_ins = re.sub(r"<ins[^>]*>.*?</ins>|</?del[^>]*>", "", html, flags=re.DOTALL)
    without_del = re.sub(r"<del[^>]*>.*?</del>|</?ins[^>]*>", "", html, flags=re.DOTALL)
    assert (without_ins, without_del) == (escape(source), escape(other))
    assert not re.search(r"<(?!/?(ins|del)\b)", html)


@pytest.mark.parametrize(
    ("source", "other", "expected"),
    [
        ("A cat sat.", "A dog sat.", [("same", "A "), ("delete", "cat"), ("insert", "dog"), ("same", " sat.")]),
        ("A cat sat.", "A cat sat, then left.", [("same", "A cat sat"), ("insert", ", then left"), ("same", ".")]),
        ("A big cat sat.", "A cat sat.", [("same", "A"), ("delete", " big"), ("same", " cat sat.")]),
        ("So cats sit.", "cats sit.", [("delete", "So "), ("same", "cats sit.")]),
        ("the end", "The end", [("delete", "the"), ("insert", "The"), ("same", " end")]),
        ("a  b", "a\nb", [("same", "a"), ("delete", "  "), ("insert", "\n"), ("same", "b")]),
        ("words", "", [("delete", "words")]),
        ("", "words", [("insert", "words")]),
    ],
)
def test_by_hand(source, other, expected):
    assert difference(source, other) == expected


def test_html_by_hand():
    assert difference_html("a <b> c", "a \"d\" & 'e' c") == (
        "a <del>&lt;b&gt;</del><ins>&quot;d&quot; &amp; &#x27;e&#x27;</ins> c"
    )
    assert difference_html("<script>x</script>", "<script>x</script>") == "&lt;script&gt;x&lt;/script&gt;"
    assert difference_html("a b", "a\nb") == 'a<del class="space"> </del><ins class="space">\n</ins>b'
