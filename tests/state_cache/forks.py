"""Runs a part of a test in a process of its own, which may be limited, lose its rights or be killed."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import torch

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def start(run: Callable[[int], Any]) -> tuple[int, int]:
    """Starts ``run`` with the end of a pipe to write to; its process and the end of the pipe to read from."""
    reads, writes = os.pipe()
    child = os.fork()
    if child:
        os.close(writes)
        return child, reads
    try:
        os.close(reads)
        torch.set_num_threads(1)  # the other threads did not come along
        run(writes)
    finally:
        os._exit(0)


def in_child(run: Callable[[], Any]) -> Any:
    """What ``run`` returns (JSON values) when it is run in a process of its own."""

    def report(pipe: int) -> None:
        try:
            answer = {"result": run()}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        with open(pipe, "w") as file:
            json.dump(answer, file)

    child, reads = start(report)
    with open(reads) as file:
        answer = json.load(file)
    os.waitpid(child, 0)
    assert "error" not in answer, answer["error"]
    return answer["result"]
