"""Processes that are killed while they write, and processes that write the same shard: no entry is ever wrong."""

from __future__ import annotations

import os
import random
import signal
import time

from layerselect.state_cache import shard_folder
from layerselect.state_cache.store import StateStore

from tests.state_cache.entries import FACTS, FINGERPRINT
from tests.state_cache.filler import COUNT, fill, large, leftovers, read_all
from tests.state_cache.forks import needs_fork, start


@needs_fork
def test_a_process_killed_in_the_middle_of_a_write_leaves_nothing_wrong(tmp_path):
    def run(pipe):
        def half(file, buffer):
            file.write(buffer[: len(buffer) // 2])
            os.write(pipe, b"!")
            time.sleep(60)

        shard_folder._write_all = half
        fill(tmp_path, 1)

    with StateStore(tmp_path, memory=0) as store:
        store.shard(FINGERPRINT, FACTS)
    child, reads = start(run)
    assert os.read(reads, 1) == b"!"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reads)
    assert len(leftovers(tmp_path)) == 1
    assert not any(read_all(tmp_path, large))
    fill(tmp_path, 1)
    assert all(read_all(tmp_path, large))


@needs_fork
def test_processes_killed_at_any_moment_leave_nothing_wrong(tmp_path):
    chance = random.Random(0)
    for _ in range(20):
        child, reads = start(lambda pipe: fill(tmp_path, 1000))
        time.sleep(chance.uniform(0.005, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reads)
        read_all(tmp_path, large)
    assert any(read_all(tmp_path, large))


@needs_fork
def test_two_processes_fill_one_shard_while_a_third_reads(tmp_path):
    with StateStore(tmp_path) as store:
        store.shard(FINGERPRINT, FACTS)
    fillers = [start(lambda pipe: (fill(tmp_path, 8), os.write(pipe, b"!"))) for _ in range(2)]
    running, seen = {child for child, _ in fillers}, 0
    while running:
        seen += sum(read_all(tmp_path, large))
        running -= {child for child in running if os.waitpid(child, os.WNOHANG)[0]}
    for _, reads in fillers:
        with open(reads, "rb") as pipe:
            assert pipe.read() == b"!"  # it came to its end
    assert seen > COUNT and all(read_all(tmp_path, large)) and not leftovers(tmp_path)
