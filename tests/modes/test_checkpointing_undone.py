"""What is left of a selector where a model has gradient checkpointing: nothing, in it or in its copies."""

from __future__ import annotations

import copy
import gc
import io
import weakref

import pytest
import torch
from layerselect import FastSelector
from layerselect.layers.find import split_parameters
from layerselect.modes.checkpointing import CheckpointBoundary, SelectiveCheckpoint
from torch import nn

from tests.helpers.checkpointed import (
    FAMILIES,
    FUNCTION,
    assert_same,
    backward,
    build,
    disable,
    enable,
    recomputed,
)
from tests.helpers.models import PlainStack, plain_loss


def attributes(model: nn.Module) -> list:
    return [
        (
            vars(m).get(FUNCTION),
            vars(m).get("gradient_checkpointing"),
            *map(dict, (m._forward_hooks, m._forward_pre_hooks)),
        )
        for m in model.modules()
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_close_leaves_the_model_as_found(family):
    model = enable(build(family), True)
    before, expected = attributes(model), backward(model)
    blocks = split_parameters(model).modules
    for mode in ("observe", "gate"):
        with FastSelector(model, "fixed:layers=[3]", mode=mode):
            assert attributes(model) == before
    selector = FastSelector(model, "fixed:layers=[3]", mode="freeze")
    assert attributes(model) != before
    backward(model)
    selector.close()
    assert attributes(model) == before
    with recomputed(blocks) as calls:
        assert_same(backward(model), expected)
    assert len(calls) == 4

    selector = FastSelector(model, "fixed:layers=[3]", mode="freeze")
    disable(model)
    switched_off = [row[:2] for row in attributes(model)]
    selector.close()
    assert [row[:2] for row in attributes(model)] == switched_off


def test_a_copy_of_the_model_has_no_selector():
    model = enable(build("llama"), True)
    expected = backward(model)
    with FastSelector(model, "fixed:layers=[3]", mode="freeze"):
        twin = copy.deepcopy(model)
        backward(model)
        backward(twin)  # must not wrap anything either
    assert not any(isinstance(vars(m).get(FUNCTION), SelectiveCheckpoint) for m in twin.modules())
    for parameter, other in zip(twin.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(other.requires_grad)
    with recomputed(split_parameters(twin).modules) as calls:
        assert_same(backward(twin), expected)
    assert len(calls) == 4
    plain = PlainStack()
    with FastSelector(plain, "fixed:layers=[5]", mode="freeze"):
        buffer = io.BytesIO()
        torch.save(plain, buffer)
        buffer.seek(0)
        restored = torch.load(buffer, weights_only=False)
    assert torch.equal(plain_loss(restored), plain_loss(plain))


def test_the_hooks_do_not_keep_the_model_alive():
    model = build("llama")
    boundary = CheckpointBoundary(enable(model, False), split_parameters(model).modules)
    backward(model)
    alive = weakref.ref(model.base_model.model.model.layers[0].mlp.down_proj.base_layer.weight)
    gc.collect()
    gc.disable()
    try:
        del model
        assert alive() is None
    finally:
        gc.enable()
    boundary.close()
