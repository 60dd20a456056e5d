"""A model card is text that holds data: names of corpora, labels and splits come from anywhere."""

import re

import pytest
import yaml
from layerselect.models.model_card import Held, Training, Usage, escaped, model_card, public_name

ODD = "a|b `c` *d* <script>\n# e --- ```"


def card(**changes):
    usage = Usage(
        title="A thing",
        does="It does.",
        pipeline_tag="text-classification",
        input="A text.",
        example=f"one ```\n{ODD}",
        write="text = 'a'",
        use="print(text)",
        elsewhere="",
        scores=[("f1", "F1", 3)],
    )
    training = {
        "base_model": "org/name",
        "adapter": "lora",
        "corpus": {
            "name": ODD,
            "fingerprint": "abc",
            "labels": ["x", ODD],
            "splits": {"train": {"examples": 4}, ODD: {"examples": 2}},
            "chosen_by": ODD,
        },
        "selection": {
            "layer_names": ["model.a|b", "model.b"],
            "frequency": [1, 2],
            "trained_frequency": [1, 1],
            "steps": 3,
            "rule": {"name": "topk", "k": 1},
            "mode": "freeze",
            "score": "l2",
        },
        "results": {ODD: {"baseline": {"f1": None}, "trained model": {"f1": 0.5}}},
        "versions": {"layerselect": "1"},
    }
    return model_card(usage, Training(**{**training, **changes}))


def cells(line):
    return re.split(r"(?<!\\)\|", line)[1:-1]


def test_odd_names_leave_the_tables_and_blocks_whole():
    text = card()
    outside = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.M | re.S)
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    assert {len(cells(row)) for row in rows} == {2, 3}
    assert "<script>" not in outside
    assert [line for line in outside.splitlines() if line.startswith("#")] == [
        "# A thing",
        "## What it reads",
        "## How to use it",
        "## How well it does",
        "## Which layers were trained",
        "## Where it comes from",
    ]
    assert "| baseline | – |" in text
    assert "| trained model | 0.500 |" in text
    assert "| `model.b` | 2 | 1 |" in text


@pytest.mark.parametrize(
    ("base", "shown"),
    [
        ("org/name", "org/name"),
        ("bert-base-uncased", "bert-base-uncased"),
        ("/home/me/models/tiny: 1 #x", "tiny: 1 #x"),
    ],
)
def test_the_first_lines_are_yaml(base, shown):
    front = yaml.safe_load(card(base_model=base).split("---\n")[1])
    assert front["base_model"] == shown == public_name(base)
    assert front["library_name"] == "peft"
    assert front["base_model_relation"] == "adapter"
    assert {"layerselect", "lora"} <= set(front["tags"])
    assert "/home" not in card(base_model=base)


def test_a_whole_model_of_the_demo():
    text = card(base_model="", adapter="none")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "transformers"
    assert "base_model" not in front
    assert "the whole model" in text


def test_no_split_to_evaluate_on():
    assert "nothing is known" in card(results={})


def origin(**changes):
    return card(**changes).partition("## Where it comes from")[2]


def test_how_the_base_was_held_where_it_was_as_usual_is_its_type_alone():
    assert "- In training the base model was held in float32.\n" in origin()
    assert "held in bfloat16.\n" in origin(held=Held("bfloat16"), adapter="none")


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ({"dtype": "bfloat16"}, "held in bfloat16, with adapters and new heads in float32."),
        ({"quantize": "8bit"}, "held in 8 bits where its layers have linear maps, and else in float32, with adapters"),
        ({"quantize": "4bit", "dtype": "float16"}, "held in 4 bits (nf4, its constants quantized again) where"),
        ({"gradient_checkpointing": "reentrant"}, "in float32; layers were computed again in the backward pass "),
        ({"gradient_checkpointing": "nonreentrant"}, "(nonreentrant gradient checkpointing)."),
        ({"device_map": "auto"}, "in float32; layers were spread over several GPUs."),
        ({"processes": 4, "device_map": "auto"}, "several GPUs; 4 processes trained together."),
        ({"processes": 2, "sharded": True}, "; 2 processes trained together, the model cut over them (FSDP2)."),
    ],
)
def test_how_the_base_was_held(held, says):
    assert says in origin(held=Held(**held))


def test_escaped_text_is_one_line():
    assert escaped("a\n|b_") == r"a \|b\_"


@pytest.mark.parametrize(("steps", "says"), [(1, True), (19, True), (20, False), (400, False)])
def test_a_short_training_says_that_its_scores_are_not_to_be_compared(steps, says):
    selection = {
        "layer_names": ["a"],
        "frequency": [1],
        "trained_frequency": [1],
        "steps": steps,
        "rule": {"name": "topk", "k": 1},
        "mode": "freeze",
        "score": "l2",
    }
    assert ("Too few steps to compare" in card(selection=selection)) == says
