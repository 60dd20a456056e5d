"""Heads: the loss that trains, the loss and logits of an evaluation."""

import numpy as np
import pytest
import torch
from layerselect.models.load import load_causal_lm
from layerselect.tasks.intent import Collator
from layerselect.tasks.intent.heads import LabelWordHead
from layerselect.tasks.intent.training import probabilities
from layerselect.tasks.text.verbalizer import Verbalizer

from tests.helpers.tiny_intent import LABELS

PROMPTS = ["The river leaves", "My sister", "A fox follows the market"]


@pytest.fixture(scope="module")
def loaded(llama_folder):
    return load_causal_lm(llama_folder)


def batch_of(loaded, head, targets):
    """The prompts and the words of their labels, as the trainer is given them."""
    items = [
        {**loaded.tokenizer(prompt), "labels": target.numpy()} for prompt, target in zip(PROMPTS, targets, strict=True)
    ]
    batch = Collator(loaded.tokenizer, head.words)(items)
    torch.testing.assert_close(batch.pop("labels"), targets)
    return batch


def expected(loaded, head, answer, prompt):
    """log P(answer | prompt) from one unpadded sequence."""
    ids, tokens = loaded.tokenizer(prompt)["input_ids"], head.words.tokens_of(answer)
    with torch.no_grad():
        log_p = loaded.model(torch.tensor([ids + tokens])).logits[0].double().log_softmax(-1)
    return sum(log_p[len(ids) - 1 + n, token].item() for n, token in enumerate(tokens))


def test_one_label(loaded):
    weights = torch.tensor([1.0, 2.0, 0.5])
    head = LabelWordHead(Verbalizer(loaded.tokenizer, LABELS), class_weights=weights)
    targets = torch.tensor([2, 0, 1])
    batch = batch_of(loaded, head, targets)
    table = np.array([[expected(loaded, head, (label,), p) for label in range(3)] for p in PROMPTS])
    nll = -table[range(3), targets]
    wanted = (nll * weights[targets].numpy()).sum() / weights.sum().item()
    losses, logits = head.evaluate(loaded.model, batch, targets)
    assert losses.tolist() == pytest.approx(nll.tolist(), rel=1e-5)
    assert head.weights(targets).tolist() == weights[targets].tolist()
    assert head.loss(loaded.model, batch, targets).item() == pytest.approx(wanted, rel=1e-5)
    shares = np.exp(table) / np.exp(table).sum(axis=1, keepdims=True)
    assert probabilities(logits.numpy(), multi_label=False) == pytest.approx(shares, rel=1e-4)
    prompts = {name: batch[name] for name in ("input_ids", "attention_mask")}  # what prediction has
    torch.testing.assert_close(head.logits(loaded.model, prompts), logits)


def test_several_labels(loaded):
    """Answers are sets; the second row's set is not among them, but has a loss like every other."""
    weights = torch.tensor([1.0, 3.0, 0.5])
    answers = [(0,), (1,), (2,), (0, 2)]
    head = LabelWordHead(Verbalizer(loaded.tokenizer, LABELS, answers), class_weights=weights)
    targets = torch.tensor([[1.0, 0, 1], [1, 1, 0], [0, 1, 0]])
    batch = batch_of(loaded, head, targets)
    truth, each = [(0, 2), (0, 1), (1,)], np.array([0.75, 2.0, 3.0])
    nll = np.array([-expected(loaded, head, answer, p) for answer, p in zip(truth, PROMPTS, strict=True)])
    losses, logits = head.evaluate(loaded.model, batch, targets)
    assert losses.tolist() == pytest.approx(nll.tolist(), rel=1e-5)
    assert head.weights(targets).tolist() == pytest.approx(each.tolist())
    wanted = (nll * each).sum() / each.sum()
    assert head.loss(loaded.model, batch, targets).item() == pytest.approx(wanted, rel=1e-5)
    p = np.exp([[expected(loaded, head, answer, prompt) for answer in answers] for prompt in PROMPTS])
    p /= p.sum(axis=1, keepdims=True)
    wanted = np.stack([p[:, 0] + p[:, 3], p[:, 1], p[:, 2] + p[:, 3]], axis=1)
    assert probabilities(logits.numpy(), multi_label=True) == pytest.approx(wanted, rel=1e-4)


def test_without_weights_the_loss_is_the_mean(loaded):
    head = LabelWordHead(Verbalizer(loaded.tokenizer, LABELS))
    targets = torch.tensor([0, 0, 1])
    batch = batch_of(loaded, head, targets)
    nll = [-expected(loaded, head, (int(t),), p) for t, p in zip(targets, PROMPTS, strict=True)]
    assert head.loss(loaded.model, batch, targets).item() == pytest.approx(np.mean(nll), rel=1e-5)
