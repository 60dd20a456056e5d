"""What a step costs: the formula by hand, and the counts of models whose sizes are known."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layerselect import FastSelector, LayerSelectError
from layerselect.costs.counted import LayerCosts, count_costs
from layerselect.layers.find import split_parameters
from layerselect.rules import ModelView
from torch import nn

from tests.helpers.models import hugging_face, plain, with_lora

# As measured on a 6-layer MiniLM: .39 + .085 x depth + .010 x trained layers.
MINI_LM = LayerCosts((0.0,) * 6, (0.085,) * 6, (0.010,) * 6, rest=0.39)


def view_of(model: nn.Module) -> ModelView:
    found = split_parameters(model)
    return ModelView(model, found.names, found.modules, found.layers, torch.device("cpu"))


def test_minilm_by_hand():
    whole = 0.39 + 6 * 0.095  # .96
    assert MINI_LM.whole == pytest.approx(whole)
    for mask, cost in (
        ([0, 0, 0, 0, 0, 0], 0.39),
        ([0, 0, 0, 0, 0, 1], 0.39 + 0.085 + 0.010),
        ([0, 0, 0, 1, 0, 1], 0.39 + 3 * 0.085 + 2 * 0.010),
        ([1, 0, 0, 0, 0, 0], 0.39 + 6 * 0.085 + 0.010),
        ([1, 1, 1, 1, 1, 1], whole),
    ):
        assert MINI_LM.step_cost(torch.tensor(mask, dtype=torch.bool)) == pytest.approx(cost / whole, rel=1e-12)
    assert MINI_LM.least() == pytest.approx(0.485 / 0.96)
    assert MINI_LM.table().tolist() == pytest.approx(
        [0.90 / 0.96, 0.815 / 0.96, 0.73 / 0.96, 0.645 / 0.96, 0.56 / 0.96, 0.475 / 0.96, 0.39 / 0.96]
        + [0.01 / 0.96] * 6
    )


def test_what_trains_below_makes_every_pass_cross_the_layers_above():
    costs = LayerCosts((1.0,) * 4, (10.0, 20.0, 30.0, 40.0), (1.0,) * 4, rest=6.0, crossed_from=2)
    assert costs.whole == 114.0
    assert [costs.depth_cost(d) * 114 for d in range(5)] == pytest.approx([110, 100, 80, 80, 80])
    assert costs.step_cost([False, False, False, True]) * 114 == pytest.approx(81)


positive = st.floats(0, 1e3)


@given(st.data())
def test_a_smaller_selection_never_costs_more(data):
    length = data.draw(st.integers(1, 8))
    columns = [tuple(data.draw(st.lists(positive, min_size=length, max_size=length))) for _ in range(3)]
    crossed_from = data.draw(st.one_of(st.none(), st.integers(0, length - 1)))
    costs = LayerCosts(*columns, rest=data.draw(st.floats(1e-3, 1e3)), crossed_from=crossed_from)
    mask = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    fewer = [
        flag and keep
        for flag, keep in zip(mask, data.draw(st.permutations([True] + [False] * (length - 1))), strict=True)
    ]
    assert costs.step_cost(fewer) <= costs.step_cost(mask) * (1 + 1e-12) <= 1 + 1e-9
    assert costs.step_cost([True] * length) == pytest.approx(1.0)
    assert LayerCosts.from_dict(json.loads(json.dumps(costs.to_dict()))) == costs
    # The formula of the module's docstring, over again.
    lowest = min([i for i, flag in enumerate(mask) if flag] + [length if crossed_from is None else crossed_from])
    forward, through, own = columns
    expected = costs.rest + sum(forward) + sum(through[lowest:]) + sum(own[i] for i in range(length) if mask[i])
    assert costs.step_cost(mask) == pytest.approx(expected / (costs.rest + sum(forward) + sum(through) + sum(own)))


def test_from_measured_steps():
    costs = LayerCosts.from_steps([3.0, 2.9, 2.0, 1.5])
    assert [costs.step_cost([i >= d for i in range(4)]) for d in range(4)] == pytest.approx([1, 2.9 / 3, 2 / 3, 0.5])
    assert costs.step_cost([False, True, False, False]) == costs.step_cost([False, True, True, True])
    for bad in ([1.0, 1.1], [], [1.0, 0.0], [-1.0], ["a"], 3, [1.0, float("nan")]):
        with pytest.raises(LayerSelectError, match="costs"):
            LayerCosts.from_steps(bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1.0,), (1.0, 2.0), (1.0,)), "input_gradient has 2 numbers and forward 1"),
        (((1.0,), (-1.0,), (1.0,)), "input_gradient holds -1.0"),
        (((float("inf"),), (1.0,), (1.0,)), "forward holds inf"),
        (((0.0,), (1.0,), (1.0,)), "must cost something"),
        (((), (), (), 1.0), "must cost something"),
        (((1.0,), (1.0,), (1.0,), 0.0, 1), "crossed_from=1 is none of the 1 layers"),
    ],
)
def test_costs_that_make_no_sense(arguments, message):
    with pytest.raises(LayerSelectError, match=message):
        LayerCosts(*arguments)
    with pytest.raises(LayerSelectError, match="are not those of layers"):
        LayerCosts.from_dict({"forward": [1.0], "depth": 3})


def test_counts_of_a_plain_stack():
    """Blocks of a norm (32), 16 x 32 + 32 and 32 x 16 + 16; an embedding before them, a head of 16 x 64 + 64 behind."""
    block, head = 32 + 544 + 528, 16 * 64 + 64
    costs = count_costs(view_of(plain(3)))
    assert costs == LayerCosts((block,) * 3, (block,) * 3, (block,) * 3, rest=3 * head, crossed_from=0)
    # Without the embedding nothing trains before the blocks.
    model = plain(3)
    model.embed.requires_grad_(False)
    assert count_costs(view_of(model)).crossed_from is None
    model.head.requires_grad_(False)
    assert count_costs(view_of(model)).rest == 2 * head


def test_counts_of_adapters():
    """LoRA of rank 2 on seven maps of 16 and 32 wide: the frozen weights and the adapters run, the adapters train."""
    base = hugging_face("llama")
    frozen = sum(p.numel() for p in base.model.layers[0].parameters())
    model = with_lora(base)
    own = [
        sum(p.numel() for p in layer.parameters() if p.requires_grad) for layer in model.base_model.model.model.layers
    ]
    head = 64 * 16 + 16  # and the final norm, both frozen
    costs = count_costs(view_of(model))
    assert costs.weight_gradient == tuple(own)
    assert costs.forward == costs.input_gradient == tuple(frozen + n for n in own)
    assert costs.rest == 2 * head and costs.crossed_from is None


def test_blocks_without_adapters_count_with_what_they_stand_between():
    """Layers 1 and 3 of 4: block 0 only runs forward, block 2 is crossed if layer 1 trains, so it belongs to layer
    3.
    """
    model = with_lora(hugging_face("llama"), layers_to_transform=[1, 3], target_modules=["q_proj"])
    blocks = model.base_model.model.model.layers
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    costs = count_costs(view_of(model))
    assert costs.forward == (sizes[1], sizes[3])
    assert costs.input_gradient == (sizes[1], sizes[2] + sizes[3])
    assert costs.rest == sizes[0] + sizes[2] + 2 * (64 * 16 + 16)


def test_a_checkpointed_block_runs_forward_once_more():
    model = with_lora(hugging_face("llama"))
    plainly = count_costs(view_of(model))
    model.base_model.model.gradient_checkpointing_enable()
    costs = count_costs(view_of(model))
    assert costs.input_gradient == tuple(2 * c for c in plainly.input_gradient)
    assert (costs.forward, costs.weight_gradient, costs.rest) == (
        plainly.forward,
        plainly.weight_gradient,
        plainly.rest,
    )


def test_an_encoder_and_a_decoder_are_one_chain():
    model = hugging_face("t5")
    model.requires_grad_(False)
    for stack in (model.encoder, model.decoder):
        stack.block.requires_grad_(True)
    assert count_costs(view_of(model)).crossed_from is None
    # The encoder's last norm stands behind two layers: the decoder's two are crossed for its sake.
    model.encoder.final_layer_norm.requires_grad_(True)
    costs = count_costs(view_of(model))
    assert costs.crossed_from == 2
    assert costs.input_gradient[2] == costs.forward[2] + 16
    assert costs.depth_cost(2) == costs.depth_cost(4)


def test_what_several_layers_share_always_trains():
    model = plain(3)
    model.embed.requires_grad_(False)
    alone = count_costs(view_of(model))
    model.blocks[2][3].weight = model.blocks[1][3].weight
    costs = count_costs(view_of(model))
    assert costs.crossed_from == 1
    assert costs.rest == alone.rest + 2 * 512
    assert costs.weight_gradient == (1104, 1104 - 512, 1104 - 512)


def test_what_is_frozen_at_the_moment_counts_as_what_it_is():
    """A rule that is put in force later sees a model of which layers are frozen."""
    model = plain()
    model.embed.requires_grad_(False)
    with FastSelector(model, "cost-aware:budget=0.9", mode="freeze") as selector:
        before = selector.rule.layer_costs
        selector.rule = "fixed:layers=[5]"
        assert selector.trained() == [5]
        selector.rule = "cost-aware:budget=0.9"
        assert selector.rule.layer_costs == before
