import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.tasks.text.formats import InputFormat, available_formats, mark_edits, summarise_edits

ROW = {
    "before": "He  go home .",
    "after": "He goes home .",
    "before_context": "It is late.",
    "after_context": "",
}


def test_pair():
    assert InputFormat("pair").write(ROW) == ("He go home .", "He goes home .")


def test_plain_names_the_labels_and_both_texts():
    text, second = InputFormat("plain").write(ROW, ["fluency", "style"])
    assert second is None
    assert text == (
        "Identify the intention of the revision that turned the original text into the revised text. "
        "Possible intentions: fluency, style.\nOriginal: He go home .\nRevised: He goes home .\nIntention:"
    )


def test_contextual_adds_the_text_around_where_there_is_some():
    text, _ = InputFormat("contextual").write(ROW)
    assert "\nText before it: It is late.\nOriginal: He go home .\n" in text
    assert "Text after it" not in text


def test_a_prompt_ends_where_the_label_is_to_be_written():
    plain = InputFormat("plain").write(ROW, ["style"])[0]
    assert InputFormat("plain").prompt(ROW, ["style"]) == plain
    assert InputFormat("pair").prompt(ROW, separator=" => ") == "He go home . => He goes home .\nIntention:"
    assert InputFormat("edits", summary=False).prompt(ROW) == "He [ go ] { goes } home .\nIntention:"


def test_an_empty_side_is_said_in_words():
    assert "\nOriginal: (nothing)\n" in InputFormat("plain").write({"before": " ", "after": "New."})[0]


def test_edits():
    assert InputFormat().write(ROW) == ("replace 1 1 similar : He [ go ] { goes } home .", None)
    assert InputFormat(summary=False).write(ROW)[0] == "He [ go ] { goes } home ."


@pytest.mark.parametrize(
    ("before", "after", "marked"),
    [
        ("a b c d e f", "a b c X d e f", "... c { X } d ..."),
        ("a b c d e f", "a b d e f", "... b [ c ] d ..."),
        ("a b c", "a b c", "a b ..."),
        ("", "New text", "{ New text }"),
        ("p a b c d e q", "P a b c d e Q", "[ p ] { P } a ... e [ q ] { Q }"),
        ("p a b q", "P a b Q", "[ p ] { P } a b [ q ] { Q }"),
        ("p a q", "P a Q", "[ p a q ] { P a Q }"),
        ("x", "1 2 3 4 5 6 7", "[ x ] { 1 2 ... 6 7 }"),
    ],
)
def test_marks_and_window(before, after, marked):
    assert mark_edits(before, after, window=1, gap=1, cap=4) == marked


@pytest.mark.parametrize(
    ("before", "after", "summary"),
    [
        ("He go .", "He goes .", "replace 1 1 similar"),
        ("recieve it", "receive it", "replace 1 1 spelling"),
        ("a really b", "a b", "delete 1 0"),
        ("a", "a b c d e f g", "insert 0 5"),
        ("a b", "a, b", "insert 0 1 punctuation"),
        ("the end", "The end", "replace 1 1 case"),
        ("cat", "elephants", "replace 1 1 different"),
        ("same", "same", "same 0 0"),
        ("", " ".join("abcdefgh" * 5), "insert 0 32"),
    ],
)
def test_summary(before, after, summary):
    assert summarise_edits(before, after) == summary


TEXT = st.lists(st.sampled_from("abcdef.,"), max_size=12).map(" ".join)


@given(TEXT, TEXT, st.integers(0, 2))
def test_nothing_is_lost_where_the_window_holds_the_whole_text(before, after, gap):
    words = mark_edits(before, after, window=50, gap=gap, cap=100).split()

    def without(opening, closing):
        kept, inside = [], False
        for word in words:
            if word in (opening, closing):
                inside = word == opening
            elif not inside:
                kept.append(word)
        return [word for word in kept if word not in "[]{}"]

    assert without("{", "}") == before.split()
    assert without("[", "]") == after.split()


def test_errors_repeat_the_value():
    with pytest.raises(LayerSelectError, match="no input format 'xml'.*pair, plain, contextual, edits"):
        InputFormat("xml")
    with pytest.raises(LayerSelectError, match="window=-1"):
        InputFormat(window=-1)
    with pytest.raises(LayerSelectError, match="cap=1"):
        InputFormat(cap=1)
    assert available_formats() == ["pair", "plain", "contextual", "edits"]
