import numpy as np
import pytest
import torch
from layerselect.tasks.intent.training import class_weights, probabilities
from torch.nn import functional

COUNTS = np.array([8, 2, 0])


def test_balanced_weights_go_by_the_inverse_of_the_counts_with_mean_one_over_the_examples():
    weights = class_weights("balanced", COUNTS, 10, multi_label=False)
    assert weights[1] / weights[0] == pytest.approx(4)
    assert (weights[0] * 8 + weights[1] * 2) / 10 == pytest.approx(1)
    assert weights[2] == 1  # nothing to weigh


def test_sqrt_weights_go_by_the_square_root():
    weights = class_weights("sqrt", COUNTS, 10, multi_label=False)
    assert weights[1] / weights[0] == pytest.approx(2)
    assert (weights[0] * 8 + weights[1] * 2) / 10 == pytest.approx(1)


def test_weights_of_positive_examples_where_there_are_several_labels():
    assert class_weights("balanced", COUNTS, 10, multi_label=True).tolist() == pytest.approx([0.25, 4, 1])
    assert class_weights("sqrt", COUNTS, 10, multi_label=True).tolist() == pytest.approx([0.5, 2, 1])


def test_no_weights():
    assert class_weights("none", COUNTS, 10, multi_label=False) is None


def test_probabilities():
    logits = np.array([[0.0, np.log(3.0)]])
    assert probabilities(logits, multi_label=False)[0] == pytest.approx([0.25, 0.75])
    assert probabilities(logits, multi_label=True)[0] == pytest.approx([0.5, 0.75])


class Fixed(torch.nn.Module):
    """Says the same logits whatever it reads."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, **_):
        return type("Output", (), {"logits": self.logits})()


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_loss_is_the_weighted_one(tmp_path, multi_label):
    from layerselect.tasks.intent import ClassificationTrainer
    from layerselect.tasks.intent.heads import ClassifierHead
    from transformers import TrainingArguments

    logits, weights = torch.tensor([[0.3, -0.2, 0.9], [1.1, 0.0, -0.4]]), torch.tensor([1.0, 2.0, 0.5])
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]) if multi_label else torch.tensor([2, 1])
    trainer = ClassificationTrainer(
        Fixed(logits),
        TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"),
        head=ClassifierHead(multi_label=multi_label, class_weights=weights),
    )
    loss = trainer.compute_loss(trainer.model, {"labels": labels})
    log_p = functional.log_softmax(logits, dim=1)
    if multi_label:
        p = torch.sigmoid(logits)
        expected = -(weights * labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    else:
        expected = -(weights[2] * log_p[0, 2] + weights[1] * log_p[1, 1]) / (weights[2] + weights[1])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
