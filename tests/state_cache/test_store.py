"""The store: what was put comes back, from memory, from disk, in another run, and within the bounds that were given."""

from __future__ import annotations

import gc
import json
import os
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layerselect import LayerSelectError
from layerselect.state_cache.store import StateStore, default_folder

from tests.state_cache.entries import FACTS, FINGERPRINT, entries, key_of, keys, numbered, same

SIZE = numbered(0)[0].nbytes


def shard_of(store: StateStore):
    return store.shard(FINGERPRINT, FACTS)


def entry_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.entry"))


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where stores without a folder spill to."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@settings(max_examples=60)
@given(st.dictionaries(keys(), entries(), min_size=1, max_size=5), st.sampled_from([0, 60, 10**6]))
def test_every_entry_comes_back_to_the_bit(content, memory):
    with tempfile.TemporaryDirectory() as folder:
        for place in (folder, None):
            with StateStore(place, memory=memory) as store:
                shard = shard_of(store)
                for key, parts in content.items():
                    assert shard.get(key) is None and key not in shard
                    shard.put(key, parts)
                for key, parts in content.items():
                    assert same(shard.get(key), parts) and key in shard
                assert len(shard) == len(content)
                assert store.bytes_in_memory == shard.bytes_in_memory <= memory
                assert (shard.hits, shard.misses, shard.damaged) == (len(content), len(content), 0)
        with StateStore(folder, memory=memory) as store:  # another run
            shard = shard_of(store)
            assert len(shard) == len(content)
            assert all(same(shard.get(key), parts) for key, parts in content.items() for _ in range(2))


def test_the_files_are_where_they_are_said_to_be(tmp_path):
    with StateStore(tmp_path) as store:
        shard = shard_of(store)
        shard.put(key_of(3), numbered(3))
    name = key_of(3).hex()
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [
        f"{FINGERPRINT}/{name[:2]}/{name}.entry",
        f"{FINGERPRINT}/shard.json",
    ]
    assert shard.bytes_on_disk == entry_files(tmp_path)[0].stat().st_size
    label = json.loads((tmp_path / FINGERPRINT / "shard.json").read_text())
    assert label["facts"] == FACTS and label["fingerprint"] == FINGERPRINT and abs(label["created"] - time.time()) < 60


def test_what_is_in_memory_is_not_read_again(tmp_path):
    with StateStore(tmp_path) as store:
        shard_of(store).put(key_of(1), numbered(1))
    with StateStore(tmp_path) as store:
        shard = shard_of(store)
        assert same(shard.get(key_of(1)), numbered(1))
        for path in entry_files(tmp_path):
            path.unlink()
        assert same(shard.get(key_of(1)), numbered(1))


def test_memory_is_filled_first_come_first_kept_by_all_shards_together(tmp_path):
    with StateStore(tmp_path, memory=3 * SIZE) as store:
        one, other = shard_of(store), store.shard("f" * 32, {})
        one.put(key_of(0), numbered(0))
        for number in range(1, 10):
            (one if number % 2 else other).put(key_of(number), numbered(number))
            assert store.bytes_in_memory == one.bytes_in_memory + other.bytes_in_memory <= 3 * SIZE
        assert (one.bytes_in_memory, other.bytes_in_memory) == (2 * SIZE, SIZE)
        for path in entry_files(tmp_path):
            path.unlink()
        assert [n for n in range(10) if one.get(key_of(n)) is not None] == [0, 1]
        assert [n for n in range(10) if other.get(key_of(n)) is not None] == [2]
        one.close()
        assert store.bytes_in_memory == SIZE
        other.put(key_of(11), numbered(11))
        assert store.bytes_in_memory == 2 * SIZE


def test_without_a_folder_only_what_does_not_fit_is_written_and_removed_at_the_end(temporary):
    store = StateStore(memory=2 * SIZE)
    shard = shard_of(store)
    shard.put(key_of(0), numbered(0))
    shard.put(key_of(1), numbered(1))
    assert not list(temporary.iterdir())
    for number in range(2, 6):
        shard.put(key_of(number), numbered(number))
    assert len(entry_files(temporary)) == 4 and len(shard) == 6
    assert all(same(shard.get(key_of(number)), numbered(number)) for number in range(6))
    store.close()
    assert not list(temporary.iterdir()) and store.bytes_in_memory == 0
    assert shard.get(key_of(0)) is None and key_of(0) not in shard and len(shard) == 0
    shard.put(key_of(0), numbered(0))
    assert shard.get(key_of(0)) is None and not list(temporary.iterdir())
    store.close()


def test_a_store_that_nobody_closed_removes_its_temporary_folder(temporary):
    store = StateStore(memory=0)
    shard = shard_of(store)
    shard.put(key_of(1), numbered(1))
    del store
    gc.collect()
    assert same(shard.get(key_of(1)), numbered(1))  # the shard still needs it
    del shard
    gc.collect()
    assert not list(temporary.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_does_not_remove_its_parents_temporary_folder(temporary):
    store = StateStore(memory=0)
    shard = shard_of(store)
    shard.put(key_of(1), numbered(1))
    child = os.fork()
    if not child:
        store.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert same(shard.get(key_of(1)), numbered(1))
    store.close()
    assert not list(temporary.iterdir())


def test_half_precision_rounds_once_and_keeps_what_it_cannot_hold(tmp_path):
    rounded = (
        torch.tensor([0.1, -65504.0, 65519.0, float("inf"), float("nan")]),
        torch.randn(3, 4, dtype=torch.float64),
    )
    too_large = (torch.tensor([0.1, 65520.0]), torch.tensor([0.1]))
    brain = (torch.tensor([1e38, 0.5], dtype=torch.bfloat16),)
    for _ in ("written", "read"):
        with StateStore(tmp_path, precision="half") as store:
            shard = shard_of(store)
            for number, parts in enumerate((rounded, too_large, brain)):
                if shard.get(key_of(number)) is None:
                    shard.put(key_of(number), parts)
            assert same(shard.get(key_of(0)), tuple(part.half() for part in rounded))
            assert same(shard.get(key_of(1)), too_large)
            assert same(shard.get(key_of(2)), brain)
    with StateStore(tmp_path) as store:
        assert shard_of(store).get(key_of(0)) is None  # another shard
    assert {path.name for path in tmp_path.iterdir()} == {FINGERPRINT, f"{FINGERPRINT}-half"}


def test_what_the_caller_does_with_its_tensors_later_changes_nothing():
    batch = torch.zeros(2, 8, 4)
    with StateStore() as store:
        shard = shard_of(store)
        shard.put(key_of(1), (batch[0, :3],))
        batch += 1
        (part,) = shard.get(key_of(1))
        assert not part.any() and part.untyped_storage().nbytes() == part.nbytes == shard.bytes_in_memory
        part.requires_grad_()
        assert not shard.get(key_of(1))[0].requires_grad


@pytest.mark.parametrize("place", ["memory", "folder"])
def test_an_entry_that_a_reader_wrote_to_is_not_returned(place, tmp_path, caplog):
    with StateStore(tmp_path if place == "folder" else None) as store:
        shard = shard_of(store)
        shard.put(key_of(1), numbered(1))
        shard.get(key_of(1))[0][1].mul_(2)
        found = shard.get(key_of(1))
        assert same(found, numbered(1)) if place == "folder" else found is None
        assert shard.damaged == 1 and "has written to it" in caplog.text
        shard.put(key_of(1), numbered(1))
        assert same(shard.get(key_of(1)), numbered(1))
        assert shard.bytes_in_memory == SIZE


def test_entries_made_and_read_in_inference_mode_can_be_trained_on(tmp_path):
    for memory in (0, 10**6):
        with StateStore(tmp_path, memory=memory) as store:
            shard = shard_of(store)
            with torch.inference_mode():
                shard.put(key_of(memory), (torch.ones(2, 4),))
                shard.get(key_of(memory))
            (part,) = shard.get(key_of(memory))
            weight = torch.ones(4, requires_grad=True)
            (part * weight).sum().backward()
            assert weight.grad is not None


def test_an_entry_in_memory_is_not_put_again(tmp_path):
    with StateStore(tmp_path) as store:
        shard = shard_of(store)
        shard.put(key_of(1), numbered(1))
        shard.put(key_of(1), numbered(2))
        assert same(shard.get(key_of(1)), numbered(1)) and shard.bytes_in_memory == SIZE
        assert shard.bytes_on_disk == sum(path.stat().st_size for path in entry_files(tmp_path))


def test_opening_a_shard_notes_the_use_and_keeps_the_first_label(tmp_path):
    label = tmp_path / FINGERPRINT / "shard.json"
    StateStore(tmp_path).shard(FINGERPRINT, FACTS)
    before = label.read_text()
    os.utime(label, (1, 1))
    store = StateStore(tmp_path)
    assert store.shard(FINGERPRINT, {"model": "other"}) is store.shard(FINGERPRINT, {})
    assert label.read_text() == before and abs(label.stat().st_mtime - time.time()) < 60
    for damaged in ("{", "[]", '{"fingerprint": "0"}', "\0"):
        label.write_text(damaged)
        StateStore(tmp_path).shard(FINGERPRINT, FACTS)
        assert json.loads(label.read_text())["facts"] == FACTS


def test_a_closed_shard_makes_room_for_a_new_one(tmp_path):
    with StateStore(tmp_path, memory=SIZE) as store:
        first = shard_of(store)
        first.put(key_of(1), numbered(1))
        first.close()
        second = shard_of(store)
        assert second is not first and store.bytes_in_memory == 0
        assert same(second.get(key_of(1)), numbered(1)) and store.bytes_in_memory == SIZE


def test_a_thread_reads_ahead_while_others_put(tmp_path):
    wrong, count = [], 120
    with StateStore(tmp_path, memory=20 * SIZE) as store:
        shard = shard_of(store)

        def fill():
            for number in range(count):
                shard.put(key_of(number), numbered(number))

        def read():
            for _ in range(3):
                for number in range(count):
                    found = shard.get(key_of(number))
                    if found is not None and not same(found, numbered(number)):
                        wrong.append(number)

        threads = [threading.Thread(target=target) for target in (fill, fill, read, read)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert store.bytes_in_memory == shard.bytes_in_memory == SIZE * len(shard._held) == 20 * SIZE
        assert shard.hits + shard.misses == 2 * 3 * count and shard.damaged == 0 and len(shard) == count


@pytest.mark.parametrize("memory", ["much", -1, "2XB", True, 1.5])
def test_a_memory_that_is_no_size_is_refused(memory):
    with pytest.raises(LayerSelectError, match="^memory=.*such as 4GB"):
        StateStore(memory=memory)


def test_memory_and_precision_are_read():
    assert [StateStore(memory=memory).memory for memory in (0, "0", "1KiB", 5)] == [0, 0, 1024, 5]
    with pytest.raises(LayerSelectError, match="precision='int8' is unknown: give one of exact, half"):
        StateStore(precision="int8")


@pytest.mark.parametrize(
    "fingerprint", ["", "abc", "../../0123456789", "0123456789ABCDEF", "0123456789-half", "0" * 8 + "/"]
)
def test_a_fingerprint_that_is_none_names_no_folder(fingerprint, tmp_path):
    with pytest.raises(ValueError, match="hexadecimal"):
        StateStore(tmp_path / "store").shard(fingerprint, {})
    assert not list(tmp_path.iterdir())


def test_where_the_store_is_by_default(monkeypatch, tmp_path):
    for name in ("LAYERSELECT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "layerselect" / "states"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_folder() == tmp_path / "x" / "layerselect" / "states"
    monkeypatch.setenv("LAYERSELECT_CACHE", "~/own")
    assert default_folder() == tmp_path / "own" / "states"
