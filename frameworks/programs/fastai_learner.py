"""fastai: a callback that closes the selector's step, with fastai's own optimizer or torch's: ``fastai_learner
own|torch``.
"""

from __future__ import annotations

import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import Adam, OptimWrapper
from layerselect import FastSelector
from torch.utils.data import DataLoader

from ..tiny import Plain, tokens_of


class Select(Callback):
    def __init__(self, mode: str) -> None:
        self.mode = mode

    def before_fit(self) -> None:
        self.selector = FastSelector(self.learn.model, "topk:k=2", mode=self.mode, probe_every=3)
        self.selector.attach(getattr(self.learn.opt, "opt", self.learn.opt))

    def before_step(self) -> None:
        self.selector.step()


def main(optimizer: str, *, mode: str) -> None:
    tokens = torch.cat([tokens_of(step) for step in range(8)])
    loader = DataLoader(list(zip(tokens, tokens.roll(-1, 1), strict=True)), batch_size=8)
    learner = Learner(
        DataLoaders(loader, loader),
        Plain(),
        loss_func=lambda logits, goal: torch.nn.functional.cross_entropy(logits.flatten(0, 1), goal.flatten()),
        opt_func=Adam if optimizer == "own" else lambda params, **how: OptimWrapper(params, torch.optim.AdamW, **how),
        cbs=[Select(mode)],
    )
    learner.remove_cb(ProgressCallback)
    learner.fit(1, 1e-3)
