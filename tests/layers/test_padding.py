"""Which mask a layer's padding is read from."""

from __future__ import annotations

import torch
from layerselect.layers.padding import PaddingMasks
from torch import nn


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2)])

    def forward(self, x, attention_mask=None):
        return self.layers[0](x)


class Outer(nn.Module):
    """Hands its inner stack a mask of another form, or none."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.inner, self.form = Inner(), form

    def forward(self, x, attention_mask=None):
        prepared = {"same": attention_mask, "four": attention_mask[:, None, None], "none": None}[self.form]
        return self.inner(x, prepared)


class Wrapper(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


def found(model: nn.Module, *args, **kwargs):
    layer = next(m for m in model.modules() if isinstance(m, nn.Linear))
    masks = PaddingMasks(model, [layer])
    seen = []
    layer.register_forward_hook(lambda m, a, out: seen.append(masks.mask_for(m, out.shape[:-1])))
    model(*args, **kwargs)
    masks.close()
    assert not any(m._forward_pre_hooks for m in model.modules())
    return seen[0]


def test_the_innermost_mask_of_the_right_form():
    x = torch.randn(2, 3, 2)
    for form in ("same", "four"):
        for wrap in (lambda m: m, Wrapper):
            assert torch.equal(found(wrap(Outer(form)), x, attention_mask=MASK), MASK.bool())
            assert torch.equal(found(wrap(Outer(form)), x, MASK), MASK.bool())


def test_called_without_a_mask_there_is_no_padding():
    assert found(Outer("none"), torch.randn(2, 3, 2), MASK) is None
    assert found(Wrapper(Inner()), torch.randn(2, 3, 2)) is None


def test_a_mask_of_other_tokens_is_not_used():
    assert found(Outer("same"), torch.randn(2, 5, 2), MASK) is None


def test_a_mask_does_not_outlive_its_call():
    model = Inner()
    masks = PaddingMasks(model, [model.layers[0]])
    model(torch.randn(2, 3, 2), MASK)
    assert masks.mask_for(model.layers[0], torch.Size([2, 3])) is not None
    model(torch.randn(2, 3, 2))
    assert masks.mask_for(model.layers[0], torch.Size([2, 3])) is None
