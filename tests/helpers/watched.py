"""A selector with an optimizer whose steps are watched."""

from __future__ import annotations

import torch
from layerselect import FastSelector

from tests.helpers.models import plain, plain_loss


def build(mode="gate", rule="random:k=2", layers=4, **settings):
    model = plain(layers)
    selector = FastSelector(model, rule, mode=mode, seed=1, **settings)
    optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    return model, selector, optimizer


def one_step(model, selector, optimizer, seed=0):
    plain_loss(model, seed).backward()
    selector.step()
    optimizer.step()
    optimizer.zero_grad()


def said(caplog, message):
    return [record for record in caplog.records if message in record.getMessage()]
