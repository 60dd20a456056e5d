"""The short form of `make fuzz`: some cases of each part that needs no models and no corpora."""

from __future__ import annotations

import itertools
import logging
import os
import random
import warnings
from typing import Any

import pytest

pytest.importorskip("tools.fuzz", reason="the tools are not beside the tests")
for needed in ("accelerate", "openpyxl", "pandas"):
    pytest.importorskip(needed)

from tools.fuzz import part_commands, part_launches, part_options, part_placements, worker  # noqa: E402

from tests.state_cache.forks import in_child, needs_fork  # noqa: E402

CASES = {part_options: 150, part_placements: 80, part_commands: 25, part_launches: 12}


@needs_fork
@pytest.mark.parametrize("part", CASES, ids=lambda part: part.__name__.rpartition("_")[2])
def test_every_case_ends_with_a_result_or_one_line(tmp_path, part):
    """In a process of its own, since a part stops the package where it would begin to train."""

    def run() -> list[list[Any]]:
        os.chdir(tmp_path)
        os.environ["HF_HUB_OFFLINE"] = "1"
        logging.disable()
        warnings.simplefilter("ignore")
        drawn = part.cases(random.Random("short 1.1"))
        ended = [[name, worker.run_case(case, limit=False)] for name, case in itertools.islice(drawn, CASES[part])]
        return [[name, found["ended"], found["failures"]] for name, found in ended]

    ended = in_child(run)
    assert [each for each in ended if each[2]] == []
    assert {"result", "refusal"} == {how for _, how, _ in ended}
