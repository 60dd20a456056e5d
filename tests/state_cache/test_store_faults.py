"""What can go wrong with files: damage, deletion, full and read-only disks. An entry is right or it is not there, and
nothing stops a run."""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layerselect.state_cache import shard_folder
from layerselect.state_cache.store import StateStore

from tests.state_cache.entries import FACTS, FINGERPRINT, entries, key_of, numbered, same
from tests.state_cache.filler import large, leftovers, read_all
from tests.state_cache.forks import in_child, needs_fork

KEY = key_of(1)
SIZE = numbered(0)[0].nbytes


def filled(folder, count: int) -> Path:
    with StateStore(folder, memory=0) as store:
        shard = store.shard(FINGERPRINT, FACTS)
        for number in range(count):
            shard.put(key_of(number), numbered(number))
    return Path(folder)


def file_of(folder, key: bytes) -> Path:
    return Path(shard_folder.entry_path(Path(folder) / FINGERPRINT, key))


@settings(max_examples=120)
@given(entries(), st.sampled_from(["flip", "cut", "extend", "replace"]), st.sampled_from([0, 10**6]), st.data())
def test_a_damaged_file_is_computed_again_and_replaced(parts, how, memory, data):
    with tempfile.TemporaryDirectory() as folder:
        with StateStore(folder) as store:
            store.shard(FINGERPRINT, FACTS).put(KEY, parts)
        path = file_of(folder, KEY)
        content = bytearray(path.read_bytes())
        if how == "flip":
            bit = data.draw(st.integers(0, 8 * len(content) - 1))
            content[bit // 8] ^= 1 << bit % 8
        elif how == "cut":
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        elif how == "extend":
            content += data.draw(st.binary(min_size=1, max_size=300))
        else:
            content[:] = data.draw(st.binary(max_size=300))
        path.write_bytes(content)
        with StateStore(folder, memory=memory) as store:
            shard = store.shard(FINGERPRINT, FACTS)
            assert shard.get(KEY) is None
            assert (shard.hits, shard.misses, shard.damaged) == (0, 1, 1) and not path.exists()
            shard.put(KEY, parts)
            assert same(shard.get(KEY), parts) and shard.damaged == 1
        with StateStore(folder, memory=memory) as store:
            assert same(store.shard(FINGERPRINT, FACTS).get(KEY), parts)


@settings(max_examples=30)
@given(st.sets(st.integers(0, 9)), st.booleans())
def test_deleted_files_are_entries_that_are_not_there(deleted, label_too):
    with tempfile.TemporaryDirectory() as folder:
        filled(folder, 10)
        for number in deleted:
            file_of(folder, key_of(number)).unlink()
        if label_too:
            (Path(folder) / FINGERPRINT / "shard.json").unlink()
        assert read_all(folder, count=10) == [number not in deleted for number in range(10)]


def test_an_entry_in_the_place_of_another_is_not_believed(tmp_path, caplog):
    filled(tmp_path, 3)
    os.replace(file_of(tmp_path, key_of(2)), file_of(tmp_path, KEY))
    with StateStore(tmp_path) as store:
        shard = store.shard(FINGERPRINT, FACTS)
        assert shard.get(KEY) is None and shard.damaged == 1
        assert same(shard.get(key_of(0)), numbered(0))
    assert key_of(2).hex() in caplog.text


def test_damage_is_told_once_with_file_and_reason(tmp_path, caplog):
    filled(tmp_path, 4)
    for number in range(3):
        file_of(tmp_path, key_of(number)).write_bytes(b"")
    with StateStore(tmp_path) as store:
        shard = store.shard(FINGERPRINT, FACTS)
        assert [shard.get(key_of(number)) is None for number in range(4)] == [True, True, True, False]
    assert shard.damaged == 3
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for words in (str(file_of(tmp_path, key_of(0))), "it is empty", "computed again and replaced"):
        assert words in record.getMessage()


def test_a_file_that_cannot_be_read_stays(tmp_path, monkeypatch, caplog):
    filled(tmp_path, 2)

    def no_more_files(*args, **kwargs):
        raise OSError(errno.EMFILE, "Too many open files")

    with StateStore(tmp_path) as store:
        shard = store.shard(FINGERPRINT, FACTS)
        with monkeypatch.context() as patch:
            patch.setattr(shard_folder, "open", no_more_files, raising=False)
            assert shard.get(KEY) is None and shard.damaged == 1 and "Too many open files" in caplog.text
        assert same(shard.get(KEY), numbered(1))


def test_what_killed_processes_left_is_ignored_and_removed_after_an_hour(tmp_path):
    path = file_of(filled(tmp_path, 2), KEY)
    old, new, other = (
        path.parent / name
        for name in (
            f".{path.name}.1.0123456789abcdef.partial",
            f".{path.name}.2.0123456789abcdef.partial",
            "notes.partial",
        )
    )
    for left in (old, new, other):
        left.write_bytes(path.read_bytes())
        os.utime(left, (time.time() - 3700, time.time() - (60 if left == new else 3700)))
    assert read_all(tmp_path, count=3) == [True, True, False]
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)
    with StateStore(tmp_path) as store:
        assert len(store.shard(FINGERPRINT, FACTS)) == 2


def fail_at(monkeypatch, where: str) -> list[str]:
    """From now on the disk is full; the list gets a line for each attempt to write."""
    attempts = []

    def full(*args, **kwargs):
        attempts.append(where)
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_halfway(file, buffer):
        file.write(buffer[: len(buffer) // 2])
        full()

    def full_for_writers(path, mode, **options):
        return full() if "x" in mode else open(path, mode, **options)

    if where == "open":
        monkeypatch.setattr(shard_folder, "open", full_for_writers, raising=False)
    elif where == "write":
        monkeypatch.setattr(shard_folder, "_write_all", full_halfway)
    else:
        monkeypatch.setattr(shard_folder.os, where, full)
    return attempts


@pytest.mark.parametrize("where", ["open", "write", "replace", "makedirs"])
def test_on_a_full_disk_the_store_goes_on_in_memory(where, tmp_path, monkeypatch, caplog):
    filled(tmp_path, 3)
    with StateStore(tmp_path, memory=2 * SIZE) as store:
        shard = store.shard(FINGERPRINT, FACTS)
        attempts = fail_at(monkeypatch, where)
        for number in range(3, 8):
            shard.put(key_of(number), numbered(number))
        assert shard.bytes_on_disk == 0
        found = [shard.get(key_of(number)) for number in range(8)]
        assert all(parts is None or same(parts, numbered(number)) for number, parts in enumerate(found))
        assert all(parts is not None for parts in found[:5])
        assert any(parts is None for parts in found[5:])
        assert len(attempts) == 1 and store.bytes_in_memory == 2 * SIZE
    (record,) = caplog.records
    for words in (str(tmp_path), "No space left on device", "does not fit into memory is computed again"):
        assert words in record.getMessage()
    assert not leftovers(tmp_path)


def test_a_full_temporary_folder_is_no_end_either(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with StateStore(memory=SIZE) as store:
        shard = store.shard(FINGERPRINT, FACTS)
        for number in range(3):
            shard.put(key_of(number), numbered(number))
        assert [shard.get(key_of(number)) is not None for number in range(3)] == [True, False, False]
    assert len(caplog.records) == 1 and "No such file or directory" in caplog.text


def test_a_file_where_the_folder_should_be(tmp_path, caplog):
    place = tmp_path / "store"
    place.write_text("mine")
    with StateStore(place, memory=SIZE) as store:
        shard = store.shard(FINGERPRINT, FACTS)
        for number in range(3):
            assert shard.get(key_of(number)) is None
            shard.put(key_of(number), numbered(number))
        assert [shard.get(key_of(number)) is not None for number in range(3)] == [True, False, False]
        assert shard.damaged == 0
    assert len(caplog.records) == 1 and place.read_text() == "mine"


def test_a_shard_that_is_removed_under_a_writer_is_made_again(tmp_path, monkeypatch, caplog):
    filled(tmp_path, 1)
    real = os.replace

    def replace(*args):
        monkeypatch.setattr(shard_folder.os, "replace", real)
        shutil.rmtree(tmp_path)
        real(*args)

    with StateStore(tmp_path, memory=0) as store:
        shard = store.shard(FINGERPRINT, FACTS)
        monkeypatch.setattr(shard_folder.os, "replace", replace)
        shard.put(KEY, numbered(1))
        assert same(shard.get(KEY), numbered(1)) and shard.get(key_of(0)) is None
    assert not caplog.records


@needs_fork
def test_a_real_limit_on_the_length_of_files(tmp_path, caplog):
    def run():
        caplog.clear()
        with StateStore(tmp_path, memory=2 * SIZE) as store:
            shard = store.shard(FINGERPRINT, FACTS)
            shard.put(key_of(0), numbered(0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            shard.put(key_of(1), large(1))
            shard.put(key_of(2), numbered(2))
            shard.put(key_of(3), numbered(3))
            found = [shard.get(key_of(number)) for number in range(4)]
            assert same(found[0], numbered(0)) and same(found[2], numbered(2))
            assert found[1] is None and found[3] is None
        return [record.getMessage() for record in caplog.records]

    (message,) = in_child(run)
    assert "File too large" in message
    assert not leftovers(tmp_path) and read_all(tmp_path, count=4) == [True, False, False, False]


@needs_fork
def test_a_store_that_may_only_be_read_is_read(caplog):
    with tempfile.TemporaryDirectory() as folder:
        filled(folder, 2)
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)

        def run():
            caplog.clear()
            if not os.geteuid():
                os.seteuid(65534)
            with StateStore(folder, memory=SIZE) as store:
                shard = store.shard(FINGERPRINT, FACTS)
                assert not caplog.records  # it is only read so far
                assert [same(shard.get(key_of(number)), numbered(number)) for number in range(2)] == [True, True]
                for number in range(2, 5):
                    shard.put(key_of(number), numbered(number))
                assert all(shard.get(key_of(number)) is None for number in range(2, 5))
                store.shard("f" * 32, FACTS).put(KEY, numbered(1))
            return [record.getMessage() for record in caplog.records]

        (message,) = in_child(run)
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o755)
    assert folder in message and "Permission denied" in message
