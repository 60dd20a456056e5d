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


def test_a_speed_says_how_long_it_takes(typed, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    timed = [*typed, "--gpu", "1GB", "--speed", "0.001", "--steps", "1000"]
    assert main(timed) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "time: of 1,000 steps, where the card does 0.001 x 10^12" in " ".join(out.split()) and "step:" not in out
    assert main([*timed, "--json"]) == 0
    rows = {(row["way"], row["checkpointing"]): row for row in json.loads(capsys.readouterr().out)["rows"]}
    # Two layers of 32 x 32, 32 x 16 (two maps each) and 32 x 64 (three), forward and, for the gradients of inputs, once
    # more; LoRA of rank 16 on them three times; a head of 5 classes, of which its own gradient is a third time.
    layers = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    lora, head = 2 * (2 * 64 + 2 * 48 + 3 * 96) * 16, 5 * 32
    norms = 5 * 32
    each = 2 * (layers + lora + norms) + lora + 3 * head
    assert rows["all", False]["operations"] == pytest.approx(2 * each * 2 * 8, rel=0.02)
    assert rows["all", False]["seconds"] == pytest.approx(rows["all", False]["operations"] / 1e9)
    assert rows["top-half", False]["operations"] / rows["all", False]["operations"] == pytest.approx(
        rows["top-half", False]["arithmetic"]
    )


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
        (["--steps", "10"], "--steps 10 says nothing of time without --speed"),
        (["--speed", "0"], "--speed 0.0 must be above 0"),
    ],
)
def test_bad_input_is_one_line_and_a_code(typed, more, words, capsys):
    assert main([*typed, *more]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert words in said[-1] and said[-1].startswith("layerselect: ")
