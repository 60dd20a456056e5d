"""``layerselect state-cache``: what is listed, what is removed, and what is never touched."""

from __future__ import annotations

import json
import os
import time

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.cli import main
from layerselect.state_cache import inventory
from layerselect.state_cache.inventory import list_shards, remove_shards
from layerselect.state_cache.store import StateStore

ONE, OTHER = "ab12cd34ef56" + "0" * 20, "ab99" + "1" * 28


def fill(folder, fingerprint, count, **options):
    with StateStore(folder, **options) as store:
        shard = store.shard(fingerprint, {"model": "models/Small[LM]", "cut": 7, "layers": 9, "dtype": "bfloat16"})
        for number in range(count):
            shard.put(bytes([number]) * 16, (torch.full((10, 25), float(number)),))


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    fill(folder, ONE, 3)
    fill(folder, OTHER, 1)
    fill(folder, ONE, 2, precision="half")
    return folder


@pytest.fixture
def state_cache(capsys, monkeypatch):
    """Runs the command: exit status, the lines on stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments):
        status = main(["state-cache", *map(str, arguments)])
        output = capsys.readouterr()
        return status, [line.strip() for line in output.out.splitlines()], output.err

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_shards_are_listed_with_sizes_and_last_use(state_cache, store):
    os.utime(store / OTHER / "shard.json", (time.time() - 3 * 86400 - 60,) * 2)
    status, lines, _ = state_cache("ls", "--store", store)
    rows = [line.split() for line in lines if line.startswith("ab")]
    assert status == 0
    assert rows == [
        ["ab12cd34ef56", "Small[LM]", "7", "9", "bfloat16", "3", *rows[0][6:8], "just", "now"],
        ["ab12cd34ef56-half", "Small[LM]", "7", "9", "bfloat16", "2", *rows[1][6:8], "just", "now"],
        ["ab99" + "1" * 8, "Small[LM]", "7", "9", "bfloat16", "1", *rows[2][6:8], "3", "d", "ago"],
    ]
    labels = [(store / name / "shard.json").stat().st_size for name in (ONE, f"{ONE}-half", OTHER)]
    exact, half = 192 + 10 * 25 * 4, 192 + 10 * 25 * 2
    shards = list_shards(store)
    assert [s.bytes for s in shards] == [3 * exact + labels[0], 2 * half + labels[1], exact + labels[2]]
    assert lines[-1] == f"6 entries, {sum(s.bytes for s in shards) / 1000:.3g} KB in {store}"
    assert abs(shards[0].created - time.time()) < 60 and [shard.precision for shard in shards] == [
        "exact",
        "half",
        "exact",
    ]


def test_an_empty_store_is_said_to_be_empty(state_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERSELECT_CACHE", str(tmp_path))
    for arguments in (["ls"], ["rm", "--all"]):
        assert state_cache(*arguments)[:2] == (0, [f"the state store in {tmp_path / 'states'} is empty"])
    fill(tmp_path / "states", ONE, 1)
    assert any(line.startswith("ab12cd34ef56") for line in state_cache("ls")[1])


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"facts": 3, "created": "x"}', '{"facts": {}, "created": "x"}', "\xff"]
)
def test_a_damaged_label_is_a_shard_that_little_is_known_of(state_cache, store, text):
    (store / ONE / "shard.json").write_text(text, encoding="latin-1")
    _, lines, _ = state_cache("ls", "--store", store)
    (row,) = [line.split() for line in lines if line.startswith("ab12cd34ef56 ")]
    assert row[1:6] == ["unknown"] * 4 + ["3"]
    assert list_shards(store)[0].created is None
    (store / ONE / "shard.json").unlink()
    assert list_shards(store)[0].last_used is None
    assert [
        line.endswith("unknown") for line in state_cache("ls", "--store", store)[1] if line.startswith("ab12cd34ef56 ")
    ] == [True]
    assert state_cache("rm", "ab12cd34ef56", "--store", store)[0] == 0 and ONE not in names(store)


def test_removing_says_what_was_freed(state_cache, store):
    size = list_shards(store)[0].bytes
    status, lines, _ = state_cache("rm", "ab12cd34ef56", "--store", store)
    assert (status, lines) == (
        0,
        [f"removed ab12cd34ef56: 3 entries, {size / 1000:.3g} KB", f"freed {size / 1000:.3g} KB in {store}"],
    )
    assert names(store) == [f"{ONE}-half", OTHER]
    assert state_cache("rm", "ab99", "ab9", "--store", store)[1][0].startswith("removed ab9911111111: 1 entry, ")
    assert state_cache("rm", "--all", "--store", store)[0] == 0
    assert names(store) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ab"], "'ab' means several shards"),
        (["ab99", "cd"], "there is no shard 'cd'"),
        ([""], "there is no shard ''"),
        (["../store"], "there is no shard '../store'"),
        ([], "give the ids of the shards to remove"),
        (["ab99", "--all"], "give the ids of the shards to remove"),
    ],
)
def test_without_a_clear_order_nothing_is_removed(state_cache, store, arguments, words):
    status, lines, error = state_cache("rm", *arguments, "--store", store)
    assert (status, lines) == (2, []) and words in error and error.count("\n") == 1
    assert names(store) == [ONE, f"{ONE}-half", OTHER] and len(list_shards(store)) == 3
    assert sum(shard.entries for shard in list_shards(store)) == 6


def test_a_file_is_no_store(state_cache, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert state_cache("ls", "--store", tmp_path / "file")[0] == 2


def test_nothing_but_what_the_store_wrote_is_ever_removed(store, tmp_path):
    outside = tmp_path / "outside"
    fill(outside, ONE, 2)
    before = sorted(path for path in outside.rglob("*"))
    foreign = [
        store / "notes.txt",
        store / "photos" / "00" / ("0" * 32 + ".entry"),
        store / ("c" * 32) / "thesis.tex",
        store / ("d" * 32) / "00" / "thesis.tex",
        store / OTHER / "notes.txt",
        store / OTHER / "00" / "notes.entry",
        store / OTHER / "extra" / ("0" * 32 + ".entry"),
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (store / ("e" * 32)).symlink_to(outside / ONE)
    (store / ONE / "ee").symlink_to(outside / ONE / "00")
    link = store / ONE / "00" / ("f" * 32 + ".entry")
    link.symlink_to(outside / ONE / "shard.json")
    (store / ("f" * 32)).mkdir()
    removed = remove_shards(store, (), everything=True)
    assert [shard.fingerprint for shard in removed] == [ONE, ONE, OTHER]
    assert all(path.read_text() == "mine" for path in foreign)
    assert (store / ("f" * 32)).is_dir() and (store / ("e" * 32)).is_symlink() and (store / ONE / "ee").is_symlink()
    assert link.is_symlink()
    assert sorted(path for path in outside.rglob("*")) == before
    assert all(not path.is_symlink() for path in outside.rglob("*"))
    left = {path for path in store.rglob("*") if path.is_file() and not path.is_symlink()}
    assert left == set(foreign) | {path for path in left if (store / ("e" * 32)) in path.parents}


def test_files_that_cannot_be_removed_are_an_error(store, monkeypatch):
    monkeypatch.setattr(inventory, "remove_file", lambda path: False)
    with pytest.raises(LayerSelectError, match="4 files in .*could not be removed"):
        remove_shards(store, [ONE])


def test_half_written_files_go_with_their_shard(store):
    path = store / ONE / "00" / f".{'0' * 32}.entry.17.{'0' * 16}.partial"
    path.write_bytes(b"x" * 5000)
    (found,) = [shard for shard in list_shards(store) if shard.folder.name == ONE]
    assert found.entries == 3 and found.bytes > 8000
    remove_shards(store, [ONE])
    assert ONE not in names(store)


def test_a_store_goes_on_after_its_shard_was_removed(store):
    with StateStore(store, memory=0) as open_store:
        shard = open_store.shard(ONE, {})
        remove_shards(store, [ONE])
        key = bytes(16)
        assert shard.get(key) is None
        shard.put(key, (torch.ones(3),))
        assert torch.equal(shard.get(key)[0], torch.ones(3)) and len(shard) == 1
    (found,) = [shard for shard in list_shards(store) if shard.folder.name == ONE]
    assert found.entries == 1 and found.facts == {}
    fill(store, ONE, 0)
    assert json.loads((store / ONE / "shard.json").read_text())["facts"]["cut"] == 7
