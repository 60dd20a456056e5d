"""``layerselect card``: a folder from a corpus and a model, and two cards side by side."""

from __future__ import annotations

import json
import re

import pytest
from layerselect.card import LayerCard
from layerselect.card.recommend import why_none
from layerselect.cli import main

from tests.card.made import made


@pytest.fixture
def small(corpus_path, bert_folder, tmp_path):
    """The options of a card that takes a second."""

    def options(out: str, *more: str) -> list[str]:
        return [
            "card",
            "--data",
            str(corpus_path),
            "--model",
            str(bert_folder),
            "--out",
            str(tmp_path / out),
            "--examples",
            "32",
            "--batch-size",
            "4",
            "--head-steps",
            "5",
            "--device",
            "cpu",
            "--threads",
            "1",
            *more,
        ]

    return options


def test_a_card_of_a_classifier(capsys, tmp_path, small):
    assert main(small("one")) == 0
    output = capsys.readouterr()
    card = LayerCard.load(tmp_path / "one")
    # Weights that nobody has trained may tell nothing: then no placement is shown.
    proposed = ("no placement is recommended",) if why_none(card) else ("adapters should go", "90% of the gain")
    for words in ("fresh", "like", *proposed, "card.html"):
        assert words in output.out
    assert "holds at most" in output.err
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"card.json", "card.png", "card.html", "config.json"}
    assert (tmp_path / "one" / "card.png").read_bytes().startswith(b"\x89PNG")
    assert len(card.layers) == 3 and card.held_out and card.layers[0].cost.forward_ms > 0
    assert card.data["examples"] == 32 and card.data["fit_batches"] == 5 and card.data["unit"] == "examples"
    assert card.model["fresh"] and card.settings["head_steps"] == 5
    assert json.loads((tmp_path / "one" / "config.json").read_text())["command"] == "layerselect card"


@pytest.mark.usefixtures("no_card_pages")
def test_the_same_options_give_the_same_card_and_others_are_compared(capsys, tmp_path, small):
    for out, more in (("one", []), ("again", []), ("other", ["--seed", "1"])):
        assert main(small(out, "--no-times", *more)) == 0
    one, again, other = (LayerCard.load(tmp_path / name).to_dict() for name in ("one", "again", "other"))
    assert one == again
    # The head starts from the seed, so the model is another one, too.
    assert one["data"]["fingerprint"] != other["data"]["fingerprint"]
    capsys.readouterr()
    assert main(["card", "diff", str(tmp_path / "one"), str(tmp_path / "again")]) == 0
    text = capsys.readouterr().out
    assert (
        "the same model, the same data" in text
        and "rank correlation 1.000 (95% over layers: -1.00 to 1.00)" in text
        and "of the best 1 100%" in text
    )
    assert main(["card", "diff", str(tmp_path / "one"), str(tmp_path / "other" / "card.json")]) == 0
    assert "different data" in capsys.readouterr().out


@pytest.mark.usefixtures("no_card_pages")
def test_a_card_is_what_a_run_trains_by(capsys, tmp_path, small, corpus_path, bert_folder):
    assert main(small("one", "--no-times")) == 0
    rule = f'layer-card:card="{tmp_path / "one"}";k=1'
    run = [
        "intent",
        "--data",
        str(corpus_path),
        "--model",
        str(bert_folder),
        "--out",
        str(tmp_path / "run"),
        "--max-steps",
        "2",
        "--rule",
        rule,
        "--threads",
        "1",
    ]
    assert main(run) == 0
    assert "1.0 of 3 layers" in capsys.readouterr().out
    chosen = json.loads((tmp_path / "run" / "importance.json").read_text())["rule"]["chosen"]
    assert chosen == [
        LayerCard.load(tmp_path / "one").names[layer] for layer in LayerCard.load(tmp_path / "one").place(k=1)
    ]


@pytest.mark.usefixtures("no_card_pages")
@pytest.mark.parametrize("options", [["--task", "revise", "--max-length", "32"], ["--head", "generate"]])
def test_cards_of_models_that_write(tmp_path, options):
    out = [
        "--out",
        str(tmp_path / "card"),
        "--examples",
        "16",
        "--batch-size",
        "4",
        "--no-times",
        "--head-steps",
        "2",
        "--threads",
        "1",
    ]
    assert main(["card", "--data", "demo", "--model", "demo", *out, *options]) == 0
    card = LayerCard.load(tmp_path / "card")
    assert len(card.layers) == 6 and card.coupling is not None
    assert card.data["task"] == ("revise" if "revise" in options else "intent")
    assert card.data["unit"] == ("losses" if "revise" in options else "examples")
    assert card.data["fit_units"] >= 12


def test_overwrite_replaces_cards_and_nothing_else(capsys, tmp_path, small):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert main(small("mine", "--overwrite")) == 2
    assert "is a folder that is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    made([1.0, 2.0]).save(tmp_path / "mine")
    assert main(small("mine")) == 2
    (tmp_path / "mine" / "notes.txt").unlink()
    assert main(small("mine", "--overwrite", "--no-times")) == 0
    assert len(LayerCard.load(tmp_path / "mine").layers) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "demo", "--out", "x"], "--data is missing"),
        (["--data", "demo", "--out", "x"], "--model is missing"),
        (["--data", "demo", "--model", "demo"], "--out is missing"),
        (
            ["--data", "demo", "--model", "demo", "--out", "x", "--task", "revise", "--head", "generate"],
            "--head belongs to --task intent",
        ),
        (["--data", "nowhere.csv", "--model", "demo", "--out", "x"], "nowhere.csv"),
        (["--data", "demo", "--model", "demo", "--out", "x", "--max-memory", "lots"], "--max-memory lots is no size"),
        (
            ["--data", "demo", "--model", "demo", "--out", "x", "--max-memory", "10KB"],
            "--max-memory 10 KB is less than",
        ),
        (["--data", "demo", "--model", "demo", "--out", "x", "--targets", "("], "not a regular expression"),
        (
            ["--data", "demo", "--model", "demo", "--out", "x", "--head-steps", "-1"],
            "--head-steps -1 must not be negative",
        ),
        (["diff", "nowhere", "nothing"], "cannot be read"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["card", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("layerselect: ") and message in error
    assert list(tmp_path.iterdir()) == []


def test_help_is_enough(capsys):
    with pytest.raises(SystemExit):
        main(["card", "--help"])
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for words in ("--max-memory", "--examples", "--task", "card diff", "card.json, card.png, card.html"):
        assert words in text
