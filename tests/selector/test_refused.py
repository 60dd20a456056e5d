"""Arguments and calls that a selector refuses."""

from __future__ import annotations

import pytest
from layerselect import FastSelector, LayerSelectError

from tests.helpers.models import plain, plain_loss


def test_step_out_of_place_is_refused():
    model = plain()
    with FastSelector(model, mode="observe") as selector:
        with pytest.raises(LayerSelectError, match="after loss.backward"):
            selector.step()
        plain_loss(model).backward()
        model.zero_grad()
        with pytest.raises(LayerSelectError, match="before optimizer.zero_grad"):
            selector.step()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "feeze"}, "mode='feeze'"),
        ({"score": "l1"}, "score='l1'"),
        ({"capture": "hooks"}, "capture='hooks'"),
        ({"backend": "cpp"}, "cpp"),
        ({"interval": 0}, "interval=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"probe_every": 1.5}, "probe_every=1.5"),
        ({"lag": -1}, "lag=-1"),
        ({"rule": "varience"}, "no rule 'varience'; the rules are: all, block-cyclic"),
        ({"rule": "topk:kk=2"}, "no option 'kk'; it has: k"),
        ({"rule": 3}, "rule=3"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(LayerSelectError, match=message):
        FastSelector(plain(), **arguments)
