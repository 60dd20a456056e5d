"""The stages of a run add up to the time on the wall."""

from __future__ import annotations

import pytest
from layerselect.tasks.run import stages as stages_module
from layerselect.tasks.run.stages import Stages


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stages_module.time, "perf_counter", lambda: now[0])
    return now


def test_every_second_belongs_to_one_stage(clock):
    told = []
    stages = Stages(lambda kind, record: told.append((kind, record["name"])))
    for name, seconds in (("loading", 3.0), ("training", 10.0)):
        stages.begin(name)
        clock[0] += seconds
    with stages.within("evaluation"):
        clock[0] += 2.0
        with stages.within("writing"):
            clock[0] += 0.5
        clock[0] += 1.0
    clock[0] += 4.0
    stages.begin("writing")
    clock[0] += 1.0
    assert stages.seconds() == {"loading": 3.0, "training": 14.0, "evaluation": 3.0, "writing": 1.5}
    assert sum(stages.seconds().values()) == clock[0] - 100.0
    assert [name for _, name in told] == [
        "loading",
        "training",
        "evaluation",
        "writing",
        "evaluation",
        "training",
        "writing",
    ]


def test_a_stage_that_fails_is_ended_too(clock):
    stages = Stages()
    stages.begin("training")
    with pytest.raises(OSError), stages.within("writing"):
        clock[0] += 2.0
        raise OSError
    clock[0] += 1.0
    assert stages.seconds() == {"training": 1.0, "writing": 2.0}


def test_before_the_first_stage_nothing_counts(clock):
    stages = Stages()
    clock[0] += 5.0
    with stages.within("loading"):
        clock[0] += 1.0
    clock[0] += 5.0
    assert stages.seconds() == {"loading": 1.0}
