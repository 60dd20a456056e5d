"""``layerselect plan``, as it is typed."""

from __future__ import annotations

import json

import pytest
from layerselect.cli.main import main

_LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


@pytest.fixture
def typed(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(_LLAMA))
    return ["plan", "--model", str(tmp_path / "model"), "--batch-size", "2", "--max-length", "8", "--quantize", "4bit"]


def test_the_table_fits_eighty_columns_and_says_what_fits(typed, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*typed, "--gpu", "1GB"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for word in ("top-half", "cost-aware", "cached", "batch", "checkpointing", "yes"):
        assert word in out


def test_without_a_card_nothing_is_said_of_what_fits(typed, capsys):
    assert main([*typed, "--device", "cpu"]) == 0
    assert "fits" not in capsys.readouterr().out


def test_json_has_every_row_in_bytes(typed, capsys):
    assert main([*typed, "--gpu", "1GB", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {row["way"] for row in plan["rows"]} == {"all", "ir", "top-half", "cost-aware", "cached"}
    assert all(row["fits"] and row["largest_batch"] > 2 and row["peak"] > row["weights"] for row in plan["rows"])


def test_a_page_is_written_beside_the_table(typed, tmp_path, capsys):
    pytest.importorskip("jinja2")
    page = tmp_path / "plan.html"
    assert main([*typed, "--gpu", "1GB", "--page", str(page)]) == 0
    assert "Peak memory" in page.read_text()
    assert str(page) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--gpu", "many"], "--gpu"),
        (["--optim", "lomo"], "--optim lomo"),
        (["--head", "generate", "--task", "revise", "--model", "/nowhere"], "/nowhere"),
        (["--page", "."], "--page"),
    ],
)
def test_bad_input_is_one_line_and_a_code(typed, more, words, capsys):
    assert main([*typed, *more]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert words in said[-1] and said[-1].startswith("layerselect: ")
