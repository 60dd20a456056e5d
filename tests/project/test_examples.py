"""The examples run and do what they say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def load_example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plain_loop_learns_and_selects():
    losses, selector = load_example("plain_loop").train(steps=40)
    assert sum(losses[-5:]) / 5 < 0.95 * sum(losses[:5]) / 5
    frequency = selector.frequency.tolist()
    assert len(frequency) == 8
    assert 0 < sum(frequency) < 8 * 40


def test_layer_card_puts_adapters_where_the_card_says():
    example = load_example("layer_card")
    card, adapted, losses = example.main(layers=2, steps=60, known_steps=150)
    assert card.held_out and len(card.layers) == 4
    trained = {
        int(re.search(r"\.layers\.(\d+)\.", name)[1]) for name, p in adapted.named_parameters() if p.requires_grad
    }
    assert trained == set(card.place(k=2))
    assert sum(losses[-5:]) / 5 < 0.7 * sum(losses[:5]) / 5


def test_kept_states_are_computed_once():
    losses, selector = load_example("kept_states").train(epochs=4, examples=128)
    assert losses[-1] < 0.95 * losses[0]
    assert selector.cut == 4 and selector.state_cache is not None
    # 128 examples, of which one at most is drawn twice.
    assert (
        120 < selector.state_cache.filled <= 128 and selector.state_cache.filled + selector.state_cache.read == 4 * 128
    )
