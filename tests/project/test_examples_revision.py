"""examples/revision_generation.py runs from the corpus to a revision, with the demo's model and a saved one."""

import math

from tests.helpers.tiny_intent import corpus_file
from tests.project.test_examples import load_example


def test_it_transfers_trains_and_writes(tmp_path, capsys):
    result = load_example("revision_generation").main("demo", "demo", None, 12, tmp_path)
    assert sum(result["losses"][-3:]) < sum(result["losses"][:3])
    assert 0 <= result["ratio"] <= 1
    assert "alignment ratio" in capsys.readouterr().out


def test_it_takes_a_saved_model(tmp_path, llama_folder):
    result = load_example("revision_generation").main(str(corpus_file(tmp_path)), str(llama_folder), None, 4, tmp_path)
    assert len(result["losses"]) == 4
    assert all(map(math.isfinite, result["losses"]))
