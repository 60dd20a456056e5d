"""Saved files with what nobody meant in them: one sentence, with the file, the place in it and what to do."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.utils.saved_files import (
    DamagedFile,
    inside,
    read_bytes,
    read_json,
    read_json_lines,
    read_tensors,
)
from layerselect.utils.saved_json import parse_json
from layerselect.utils.saved_schema import Fields, Items, Mapped, Mismatch, Number, Text, Whole
from layerselect.utils.saved_tensors import Numbers
from safetensors.torch import save_file

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON, st.booleans())
def test_what_was_written_is_read(value, ascii_only):
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


NO_JSON = {
    "other bytes than UTF-8": (b'{"a": "\xff"}', "byte 7 is not of a text in UTF-8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "byte 0 is not"),
    "half of a character in bytes": (b'"\xed\xa0\x80"', "byte 1 is not"),
    "half of a character, escaped": (b'{"a": ["\\ud800"]}', "half of a character"),
    "half of a character as a name": (b'{"\\uDC00": 1}', "half of a character"),
    "lists a thousand deep": (b"[" * 1000 + b"]" * 1000, "nested more than 100 deep"),
    "objects a hundred thousand deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested more than 100 deep"),
    "lists 101 deep": (b"[" * 102 + b"]" * 102, "nested more than 100 deep"),
    "an integer of thousands of digits": (b'{"steps": ' + b"9" * 5000 + b"}", "a number of 5000 digits"),
    "ten to the four hundredth": (b"1" + b"0" * 400, "a number of 401 digits"),
    "NaN": (b'{"a": NaN}', "holds NaN, which is no number"),
    "an infinity": (b"[-Infinity]", "holds -Infinity"),
    "a float that none can hold": (b"[1e999]", "holds 1e999"),
    "a name twice": (b'{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
    "nothing": (b"", "no JSON"),
    "a part": (b'{"a": [1, 2', "no JSON"),
    "two values": (b"{} {}", "no JSON"),
    "zeros": (b"\0" * 100, "no JSON"),
}


@pytest.mark.parametrize("kind", NO_JSON)
def test_what_is_no_json_of_ours_is_one_sentence(tmp_path, kind):
    content, words = NO_JSON[kind]
    path = tmp_path / "facts.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFile) as refusal:
        read_json(path, advice="make it again")
    said = str(refusal.value)
    assert said.startswith(f"{str(path)!r} is damaged (") and words in said and said.endswith("): make it again")
    assert "\n" not in said and len(said) < 400


def test_texts_with_other_line_separators_are_one_record(tmp_path):
    path = tmp_path / "log.jsonl"
    texts = ["a\u2028b", "c\u2029d", "e\x85f", "g\x0bh\x0ci", "j\x1ck\x1dl\x1em", "n\ro"]
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")
    records, broken = read_json_lines(path, Fields({"text": Text()}), advice="-")
    assert [record["text"] for record in records] == texts and broken is None


def test_other_line_ends_and_empty_lines_are_read(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\n\n{"a": 3}')
    assert [record["a"] for record in read_json_lines(path, advice="-")[0]] == [1, 2, 3]


@pytest.mark.parametrize("tail", [b'{"a": 2', b'{"a"', b"\xc3", b'{"a": 2, "b": "x', b"\0\0\0\0"])
def test_the_last_line_of_a_killed_run_is_dropped_and_said(tmp_path, tail):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n' + tail)
    records, broken = read_json_lines(path, Mapped(), advice="-", torn=True)
    assert records == [{"a": 1}] and broken
    with pytest.raises(DamagedFile, match="line 2: "):
        read_json_lines(path, Mapped(), advice="-")


@pytest.mark.parametrize("line", [b'{"a": 2', b"null", b'{"a": "x"}', b'{"a": 1e999}', b'{"a": 1, "a": 2}', b"\xff"])
def test_a_broken_line_in_the_middle_is_never_dropped(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    with pytest.raises(DamagedFile, match="line 2: "):
        read_json_lines(path, Fields({"a": Number()}), advice="-", torn=True)


WRONG = {
    "null for an object": (None, "is null and must be an object"),
    "a list for an object": ([], "is [] and must be an object"),
    "lacking": ({}, "holds no 'steps'"),
    "a text for a number": ({"steps": "4"}, "steps is '4' and must be a whole number"),
    "true for a number": ({"steps": True}, "steps is True and must be a whole number"),
    "a fraction": ({"steps": 1.5}, "steps is 1.5 and must be a whole number"),
    "a negative count": ({"steps": -1}, "steps is -1 and must be from 0"),
    "an absurd count": ({"steps": 10**39}, "steps is a number of some 39 digits and must be from 0"),
    "another length": ({"steps": 1, "pair": [1.0]}, "pair has 1 items and must have 2"),
    "a number out of range": ({"steps": 1, "pair": [0.5, 1e300]}, "pair[1] is 1e+300 and must be from -1 to 1"),
    "deeper": ({"steps": 1, "names": {"a b": [3]}}, "names.'a b'[0] is 3 and must be a text"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_the_place_of_a_wrong_value_is_named(tmp_path, kind):
    value, words = WRONG[kind]
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(value))
    shape = Fields(
        {"steps": Whole()}, optional={"pair": Items(Number(-1, 1), length=2), "names": Mapped(Items(Text()))}
    )
    with pytest.raises(DamagedFile) as refusal:
        read_json(path, shape, advice="make it again")
    assert f"({words}" in str(refusal.value)


def test_what_is_no_file_is_neither_waited_for_nor_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, "/dev/zero", "a\0b", tmp_path / "away", tmp_path / ("x" * 300)):
        for read in (read_bytes, read_json, read_json_lines, read_tensors):
            with pytest.raises(LayerSelectError) as refusal:
                read(place, advice="give a file")
            assert "\n" not in str(refusal.value)
    (tmp_path / "long").write_bytes(b" " * 100)
    with pytest.raises(DamagedFile, match="has 100 bytes, and at most 99 are read"):
        read_json(tmp_path / "long", advice="-", most=99)


def test_names_that_lead_out_of_their_folder_are_refused(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "in").write_bytes(b"")
    (tmp_path / "out").write_bytes(b"")
    (home / "link").symlink_to(tmp_path / "out")
    (home / "circle").symlink_to(home / "circle")
    (home / "sub").symlink_to(tmp_path)
    for name in ("../out", str(tmp_path / "out"), "sub/out", "link", "circle", "", "a/../../out", "..\\out", "a\0b"):
        with pytest.raises(DamagedFile, match="folder"):
            inside(home, name, source=home / "index.json", advice="-")
    assert inside(home, "in", source=home, advice="-") == home / "in"


def test_links_of_the_hubs_cache_stay_inside(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0f"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (tmp_path / "models--a--b" / "blobs" / "1a").write_bytes(b"")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1a")
    assert inside(snapshot, "model.safetensors", source=snapshot, advice="-").exists()


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_tensors_of_another_rank_or_type_are_refused(tmp_path, framework):
    path = tmp_path / "a.safetensors"
    kind = Fields({"a": Numbers("float", (2, None), low=0.0, infinite=False)})
    for tensor in (
        torch.ones(2),
        torch.ones(2, 3, 1),
        torch.ones(3, 2),
        torch.ones(2, 3, dtype=torch.int64),
        torch.ones(2, 3) > 0,
        torch.full((2, 3), float("inf")),
        torch.full((2, 3), -1.0),
        torch.ones(2, 3, dtype=torch.complex64),
        torch.ones(()),
    ):
        save_file({"a": tensor}, path)
        with pytest.raises(DamagedFile, match="a |'a'"):
            read_tensors(path, kind, advice="-", framework=framework)
    save_file({"a": torch.tensor([[1.0, float("nan")], [0.0, 2.0]])}, path)
    assert np.isnan(np.asarray(read_tensors(path, kind, advice="-", framework=framework)["a"])).sum() == 1


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, b"\xff" * 64, b"\x10\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0{}trailing"]
)
def test_what_is_no_safetensors_is_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedFile):
        read_tensors(path, advice="-")


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2, device="meta"),
        torch.eye(2).to_sparse(),
        torch.ones(2).to_mkldnn(),
        torch.ones(2, dtype=torch.complex64),
        torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
        [1.0, 2.0],
        None,
        np.array(["a", "b"]),
    ],
)
def test_tensors_without_plain_numbers_fit_no_description(value):
    with pytest.raises(Mismatch) as problem:
        Numbers("float", (2,)).check(value, "scores")
    assert str(problem.value).startswith("scores is ") and "\n" not in str(problem.value)


def test_a_text_is_cut_into_lines_at_line_ends_only():
    from layerselect.cli.rewrite import _LINE_ENDS

    lines = ["a\u2028b\n", "c\x85d\r\n", "\r\n", "e\x0cf\r", "\n", "g\x1ch"]
    assert [line for line in _LINE_ENDS.split("".join(lines)) if line] == [
        "a\u2028b\n",
        "c\x85d\r\n",
        "\r\n",
        "e\x0cf\r\n",
        "g\x1ch",
    ]
    assert [line for line in _LINE_ENDS.split("a\rb\rc") if line] == ["a\r", "b\r", "c"]
