"""Settings of runs that keep hidden states, and the losses that runs have logged."""

from tests.tasks.intent.test_run import lines

#: Only the highest of three layers trains, with a state cache and without.
HIGHEST = {"rule": "fixed:layers=[2]", "probe_every": 0}
NOTHING_RANDOM = {"dropout": 0.0, "lora_dropout": 0.0, "lora_rank": 4}


def kept(store, **changes):
    return {"state_cache": "cached", "cut": "2", "state_cache_store": str(store), **changes}


def losses(result):
    return [row["loss"] for row in lines(result.folder / "training.jsonl")]


def evaluated(result):
    return [row["loss"] for row in lines(result.folder / "metrics.jsonl")]
