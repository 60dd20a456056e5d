"""Trainings of a Trainer that are broken off, and whether the model is as it was found."""

from __future__ import annotations

import pytest
from layerselect.integrations.transformers import SelectorCallback
from transformers import Trainer, TrainerCallback

from tests.integrations.trainers import build, dataset

ADAPTED = 4 * 14  # four layers, seven linear maps, two matrices each


class CtrlC(TrainerCallback):
    """Raises in the given event of the third step (of the first, where events have no step)."""

    def __init__(self, event: str, error: type[BaseException] = KeyboardInterrupt) -> None:
        def interrupt(args, state, control, **kwargs):
            if state.global_step >= 2 or event in ("on_evaluate", "on_train_begin"):
                raise error("stop")

        setattr(self, event, interrupt)


class Interrupted(Trainer):
    """Ctrl-C in the middle of the third step."""

    where = "forward"

    def training_step(self, model, inputs, num_items_in_batch=None):
        if self.state.global_step == 2:
            layer = model.get_submodule("base_model.model.model.layers.3.mlp")
            if self.where == "forward":
                handle = layer.register_forward_hook(self._interrupt)
            else:
                handle = layer.register_full_backward_hook(self._interrupt)
            try:
                return super().training_step(model, inputs, num_items_in_batch)
            finally:
                handle.remove()
        return super().training_step(model, inputs, num_items_in_batch)

    def _interrupt(self, *_):
        raise KeyboardInterrupt


def hooks_on(model):
    """How many hooks there are on the modules and the parameters, and which modules have a forward pass of their
    own.
    """
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_backward_pre_hooks",
        "_forward_hooks_always_called",
    )
    on_modules = sum(len(vars(module).get(kind) or ()) for module in model.modules() for kind in kinds)
    on_parameters = sum(
        len(p._post_accumulate_grad_hooks or ()) + len(p._backward_hooks or ()) for p in model.parameters()
    )
    return on_modules, on_parameters, [name for name, module in model.named_modules() if "forward" in vars(module)]


def flags_of(model):
    return {name: p.requires_grad for name, p in model.named_parameters()}


def gradients_of(model):
    """The parameters that one backward pass of nobody's training reaches."""
    model.train()
    model.zero_grad()
    tokens = dataset()[0]["input_ids"][None]
    model(input_ids=tokens, labels=tokens).loss.backward()
    found = [name for name, p in model.named_parameters() if p.grad is not None]
    model.zero_grad()
    return found


def assert_as_found(model, found):
    flags, hooks = found
    assert flags_of(model) == flags
    assert hooks_on(model) == hooks
    assert len(gradients_of(model)) == ADAPTED


def interrupted(tmp_path, mode, *, event=None, kind=Trainer, **changes):
    """A Trainer whose training was interrupted, its callback, and what its model looked like before."""
    callback = SelectorCallback(rule="fixed:layers=[3]", mode=mode)
    others = [CtrlC(event)] if event else []
    trainer = build(tmp_path, callback, *others, kind=kind, save_strategy="no", **changes)
    found = flags_of(trainer.model), hooks_on(trainer.model)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    for other in others:
        trainer.remove_callback(other)
    return trainer, callback, found
