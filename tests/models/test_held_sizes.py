"""A configuration that names more than the weights beside it hold is refused before anything of that size is built."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.models.held_sizes import Held, check_layers, no_larger_than
from layerselect.models.load import load_classifier
from layerselect.models.tokenizers import load_tokenizer
from torch import nn

HUGE = 2**31


@pytest.fixture
def folder(tmp_path: Path, bert_folder: Path) -> Path:
    shutil.copytree(bert_folder, tmp_path / "model")
    return tmp_path / "model"


def _change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("load", [lambda f: load_classifier(f, ["a", "b"], multi_label=False), load_tokenizer])
@pytest.mark.parametrize("count", [10**6, HUGE])
def test_layers_that_no_weights_can_fill(folder, load, count):
    _change(folder, num_hidden_layers=count)
    with pytest.raises(LayerSelectError, match=f"num_hidden_layers = {count}, which is more than the weights"):
        load(folder)


@pytest.mark.parametrize("name", ["vocab_size", "max_position_embeddings", "intermediate_size", "type_vocab_size"])
@pytest.mark.parametrize("size", [10**8, HUGE])
def test_tables_that_no_weights_can_fill(folder, name, size):
    _change(folder, **{name: size})
    tracemalloc.start()
    with pytest.raises(
        LayerSelectError, match="describes a model of more than .* values, and the weights beside it are"
    ):
        load_classifier(folder, ["a", "b"], multi_label=False)
    assert tracemalloc.get_traced_memory()[1] < 1e8
    tracemalloc.stop()


@pytest.mark.parametrize(
    "config",
    [
        {"text_config": {"num_hidden_layers": HUGE}},
        {"a": {"b": {"n_layer": 5000}}},
        {"depths": [2, HUGE]},
        {"encoder_layers": 1001},
        {"num_blocks": HUGE},
    ],
)
def test_every_way_to_say_how_many_layers(config):
    with pytest.raises(LayerSelectError, match="more than the weights beside it can fill \\(40 tensors\\)"):
        check_layers(config, Held(40, 1), "here")


def test_numbers_that_are_no_layers_and_layers_that_are_there():
    check_layers({"vocab_size_per_layer": HUGE, "layer_types": ["a"] * 9, "num_hidden_layers": 1000}, Held(40, 1), "x")
    check_layers({"num_hidden_layers": 4000, "depth": True, "n_layers": None}, Held(4000, 1), "x")


def test_more_modules_than_a_model_of_such_files_has_and_nothing_stays_behind():
    with (
        pytest.raises(LayerSelectError, match="more than 10050 modules, and the weights beside it are 1 tensors"),
        no_larger_than(Held(1, 4), "here"),
    ):
        nn.ModuleList(nn.Identity() for _ in range(HUGE))
    with no_larger_than(None, "there"):
        nn.ModuleList(nn.Identity() for _ in range(10_100))
    with no_larger_than(Held(1, 4), "here"), torch.device("meta"):
        nn.Linear(10_000, 10_000, bias=False)
    with pytest.raises(LayerSelectError, match="values"), no_larger_than(Held(1, 4), "here"), torch.device("meta"):
        nn.Linear(10_000, 10_002, bias=False)
    nn.ModuleList(nn.Identity() for _ in range(10_100))
