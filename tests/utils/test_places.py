"""Output paths that somebody mistyped are one line before anything is loaded."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.utils.places import output_file, output_path
from layerselect.utils.user_paths import user_path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


NAMES = {
    "": "is empty",
    "   ": "is empty",
    ".": "the folder you stand in",
    "./": "the folder you stand in",
    "..": "the folder you stand in",
    "../..": "one above it",
    "x/..": "one above it",
    "/": "root",
    "../here": "the folder you stand in",
    "a\0b": "NUL",
    "d/" * 900 + "x": "folders deep",
    "~nobody-of-this-name": "a user that does not exist",
    "n" * 300: "a name here|too long",
    "n" * 240: "too long",
    "ä" * 120: "too long",
    "d/" * 3000: "folders deep",
    "\udce9t": "UTF-8",
}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:12]))
@pytest.mark.parametrize("check", [output_path, output_file])
def test_what_names_no_place(check, name):
    with pytest.raises(LayerSelectError, match=NAMES[name]) as refused:
        check(name)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400
    assert str(refused.value).startswith("--out ")


@pytest.mark.parametrize("name", ["run", "run/", "./run", "x/y/run", "../run", "new/../run", "rün", "a b", "-", "~"])
def test_what_names_a_place(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert output_path(name).name
    assert os.listdir() == []


def test_nothing_can_be_made_below_a_file(here):
    (here / "file").write_text("")
    for name in ("file/run", "file/x/run", "file/../run/../file/y"):
        with pytest.raises(LayerSelectError, match="which is a file|cannot be a name"):
            output_path(name)


def test_nothing_can_be_made_where_writing_is_not_allowed(here, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the superuser may write everywhere
    with pytest.raises(LayerSelectError, match="nothing may be written in"):
        output_path("run")


def test_a_circle_of_links(here):
    (here / "round").symlink_to("round")
    with pytest.raises(LayerSelectError):
        output_path("round/run")


def test_a_file_stands_in_a_folder_that_is_there(here):
    (here / "folder").mkdir()
    for name, words in (
        ("folder", "is a folder"),
        ("new/", "name of a folder"),
        ("nowhere/x.jsonl", "no folder 'nowhere'"),
    ):
        with pytest.raises(LayerSelectError, match=words):
            output_file(name)
    assert output_file("folder/x.jsonl") and output_file("/dev/null")


def test_of_a_link_a_file_is_what_it_leads_to(here):
    (here / "folder").mkdir()
    (here / "link").symlink_to("folder/x.jsonl")
    assert output_file("link") == (here / "folder" / "x.jsonl").resolve()


def test_output_stays_apart_from_input(here):
    (here / "corpus").mkdir()
    (here / "rows.jsonl").write_text("")
    for out, data in (
        ("corpus/run", "corpus"),
        ("corpus", "generic:corpus/"),
        ("run", "."),
        ("rows.jsonl", "./rows.jsonl"),
    ):
        with pytest.raises(LayerSelectError, match="choose a"):
            output_path(out, apart={"--data": data})
    (here / "run").mkdir()
    (here / "run" / "model").mkdir()
    with pytest.raises(LayerSelectError, match="--model 'run/model' lies at --out 'run' and would be replaced"):
        output_path("run", kept={"--model": "run/model"})
    with pytest.raises(LayerSelectError, match="--input 'rows.jsonl' lies at"):
        output_file("rows.jsonl", kept={"--input": "rows.jsonl"})
    for out, data in (
        ("beside", "corpus"),
        ("corpus-run", "corpus"),
        ("demo/run", "demo"),
        ("x", "a/hub-id"),
        ("x", None),
    ):
        output_path(out, apart={"--data": data})
    output_path("run/model/tuned", kept={"--model": "run/model"})


@given(st.text(max_size=40))
def test_any_text_is_a_path_or_one_line(text):
    for check in (output_path, output_file, lambda given: user_path(given, "--from")):
        try:
            check(text)
        except LayerSelectError as error:
            assert "\n" not in str(error)
