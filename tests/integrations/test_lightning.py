"""The callback in Lightning's ``Trainer``, beside the same training in a loop of one's own."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from torch import Tensor, nn

pytest.importorskip("lightning", reason="lightning is not installed")

from layerselect.integrations.lightning import SelectorCallback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy

from tests.helpers.models import plain
from tests.integrations.lightning_modules import PACKAGES, batches, loader, loss_of, module, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
RULE: dict[str, Any] = {"rule": "variance", "probe_every": 3}


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def assert_same(ours: nn.Module, selector: FastSelector, other: nn.Module, others: FastSelector) -> None:
    """Weights, scores and selections, bit for bit."""
    rows, others_rows = selector.history.arrays(), others.history.arrays()
    assert rows.keys() == others_rows.keys() and len(rows["step"]) > 0
    for name, values in rows.items():
        assert values.tobytes() == others_rows[name].tobytes(), name
    assert all(torch.equal(a, b) for a, b in zip(weights(ours), weights(other), strict=True))
    assert (
        not selector.mask.all() or selector.mode == "observe" or int(selector.frequency.sum()) < 6 * len(rows["step"])
    )


def by_hand(
    steps: int,
    *,
    accumulate: int = 1,
    clip: float | None = None,
    scaler: torch.amp.GradScaler | None = None,
    skips: tuple[int, ...] = (),
    count: int = 12,
    **options: Any,
) -> tuple[nn.Module, FastSelector]:
    """The training of :func:`module` in a loop of one's own."""
    model = plain()
    selector = FastSelector(model, **{**RULE, **options})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    selector.attach(optimizer)
    done = 0
    for number, tokens in enumerate(batches(count) * 3):
        if done == steps:
            break
        if number in skips:
            continue
        with torch.autocast("cpu", torch.float16, enabled=scaler is not None):
            loss = loss_of(model, tokens) / accumulate
        (loss if scaler is None else scaler.scale(loss)).backward()
        if (number + 1) % accumulate:
            continue
        if scaler is not None:
            scaler.unscale_(optimizer)
        selector.step(scaler)
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
        done += 1
    return model, selector


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("mode", ["freeze", "gate", "observe"])
def test_as_a_loop_of_ones_own(tmp_path, package, mode):
    callback, learner = SelectorCallback(**RULE, mode=mode), module(package)
    trainer(tmp_path, callback, package=package).fit(learner, loader())
    assert callback.selector.mode == mode and callback.selector.steps == 6
    assert_same(learner.model, callback.selector, *by_hand(6, mode=mode))
    assert all(p.requires_grad for p in learner.parameters())


@pytest.mark.parametrize("mode", ["freeze", "gate"])
def test_micro_batches_and_clipping(tmp_path, mode):
    """One step for two batches, and scores of what was there before Lightning clipped."""
    callback, learner = SelectorCallback(**RULE, mode=mode), module()
    settings = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.05}
    trainer(tmp_path, callback, **settings).fit(learner, loader())
    assert callback.selector.steps == 6
    assert_same(learner.model, callback.selector, *by_hand(6, mode=mode, accumulate=2, clip=0.05))
    assert float(callback.selector.total_norm) > 0.05


@pytest.mark.parametrize("mode", ["freeze", "gate"])
def test_a_scaler_that_skips_steps(tmp_path, mode):
    """Float16 with a scale that is too large at first: steps that the scaler skips leave the selection as it is."""
    learner, scale = module(), 2.0**20
    callback = SelectorCallback(**RULE, mode=mode)
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
    trainer(tmp_path, callback, plugins=plugin, gradient_clip_val=0.5, max_steps=12).fit(learner, loader())
    assert 0 < callback.selector.steps < 12
    hand = by_hand(12, mode=mode, clip=0.5, scaler=torch.amp.GradScaler("cpu", init_scale=scale))
    assert_same(learner.model, callback.selector, *hand)


def test_batches_that_are_left_out(tmp_path):
    callback, learner = SelectorCallback(**RULE), module(skips=(0, 3))
    trainer(tmp_path, callback, max_steps=-1, max_epochs=1).fit(learner, loader())
    assert callback.selector.steps == 10
    assert_same(learner.model, callback.selector, *by_hand(10, skips=(0, 3)))


@pytest.mark.parametrize("manual", ["one", "two"])
def test_manual_optimization(tmp_path, manual):
    """Two optimizers that step after the same backward pass are one step of the selector."""
    callback, learner = SelectorCallback(**RULE), module(manual=manual)
    trainer(tmp_path, callback, max_steps=-1, max_epochs=1).fit(learner, loader())
    assert callback.selector.steps == 12
    assert_same(learner.model, callback.selector, *by_hand(12))


def test_optimizers_with_backward_passes_of_their_own_are_refused(tmp_path):
    callback, learner = SelectorCallback(**RULE), module(manual="alternating")
    with pytest.raises(LayerSelectError, match="as in a GAN"):
        trainer(tmp_path, callback).fit(learner, loader())
    assert all(p.requires_grad for p in learner.parameters())


def test_several_optimizers_under_a_scaler_are_refused(tmp_path):
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(LayerSelectError, match="2 optimizers under a GradScaler"):
        trainer(tmp_path, SelectorCallback(), plugins=plugin).fit(module(manual="two"), loader())


# ------------------------------------------------------------------ checkpoints


def saved(folder: Path, *callbacks: Any) -> str:
    """The checkpoint of the fourth step, at the end of an epoch, of a run of six."""
    keeper = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=4)
    trainer(folder, *callbacks, keeper, enable_checkpointing=True).fit(module(), loader(4))
    return str(folder / "step=4.ckpt")


@pytest.mark.parametrize("mode", ["freeze", "gate"])
@pytest.mark.parametrize("rule", ["variance", "random:k=2"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, mode, rule):
    options = {**RULE, "mode": mode, "rule": rule}
    path = saved(tmp_path, SelectorCallback(**options))
    callback, learner = SelectorCallback(**options), module()
    trainer(tmp_path, callback, max_steps=9, max_epochs=3).fit(learner, loader(4), ckpt_path=path)
    assert callback.selector.steps == 9
    assert_same(learner.model, callback.selector, *by_hand(9, count=4, **options))


def test_a_checkpoint_without_a_selector(tmp_path):
    path = saved(tmp_path)
    with pytest.raises(LayerSelectError, match=r"holds no selector.*resume='fresh'"):
        trainer(tmp_path, SelectorCallback()).fit(module(), loader(4), ckpt_path=path)
    callback = SelectorCallback(resume="fresh")
    trainer(tmp_path, callback).fit(module(), loader(4), ckpt_path=path)
    assert callback.selector.steps == 2


def test_a_selector_of_another_rule_is_refused(tmp_path):
    path = saved(tmp_path, SelectorCallback(rule="topk:k=2"))
    learner = module()
    with pytest.raises(LayerSelectError, match="saved with rule"):
        trainer(tmp_path, SelectorCallback(rule="variance")).fit(learner, loader(4), ckpt_path=path)
    assert all(p.requires_grad for p in learner.parameters())


def test_what_an_evaluation_loads_is_no_beginning(tmp_path):
    """A fit after it begins anew; and a fit after a fit does."""
    callback = SelectorCallback(**RULE)
    path = saved(tmp_path, callback)
    again, learner = trainer(tmp_path, callback), module()
    learner.validation_step = lambda batch: None
    again.validate(learner, loader(), ckpt_path=path)
    again.fit(module(), loader())
    assert callback.selector.steps == 6
    assert torch.load(path, weights_only=True)["callbacks"]["SelectorCallback"]["selector"]["step"] == 4


# ------------------------------------------------------------------ loggers


class Kept(Logger):
    """Keeps what it is told."""

    name, version = "kept", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.setdefault(step, {}).update(metrics)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to keep."""


@pytest.mark.parametrize("manual", [None, "two"])
def test_what_is_logged(tmp_path, manual):
    logger, callback = Kept(), SelectorCallback(rule="topk:k=2", mode="gate")
    settings = {"logger": logger, "log_every_n_steps": 2, "accumulate_grad_batches": 1 if manual else 2}
    trainer(tmp_path, callback, max_steps=-1, max_epochs=1, **settings).fit(module(manual=manual), loader())
    rows = {step: row for step, row in logger.rows.items() if "layerselect/num_trained" in row}
    assert list(rows) == ([1, 3, 5, 7, 9, 11] if manual else [1, 3, 5])
    history = callback.selector.history.arrays()
    for step, row in rows.items():
        assert row["layerselect/num_trained"] == 2
        assert row["layerselect/lowest_trained"] == history["mask"][step].nonzero()[0][0]
        scores = [row[f"layerselect/score/{layer}"] for layer in range(6)]
        assert scores == pytest.approx(history["scores"][step].tolist(), rel=1e-6)


@pytest.mark.parametrize(("options", "names"), [({"log": False}, 0), ({"log_scores": False}, 3), ({}, 9)])
def test_what_is_not_logged(tmp_path, options, names):
    logger = Kept()
    settings = {"logger": logger, "log_every_n_steps": 1, "max_steps": 2}
    trainer(tmp_path, SelectorCallback(**RULE, **options), **settings).fit(module(), loader())
    assert sum(name.startswith("layerselect/") for name in logger.rows.get(0, {})) == names


# ------------------------------------------------------------------ ends and refusals


@pytest.mark.parametrize("raised", [RuntimeError("stop"), KeyboardInterrupt()])
def test_a_training_that_is_broken_off_leaves_the_model_as_it_was(tmp_path, raised):
    callback, learner = SelectorCallback(rule="topk:k=1", mode="freeze"), module(raises=raised)
    with pytest.raises((RuntimeError, SystemExit)):
        trainer(tmp_path, callback).fit(learner, loader())
    assert callback.selector.steps == 2
    assert all(p.requires_grad for p in learner.parameters())
    with pytest.raises(LayerSelectError, match="closed"):
        callback.selector.step()


@pytest.mark.parametrize("name", ["DeepSpeedStrategy", "FSDPStrategy"])
def test_strategies_that_keep_the_gradients_are_refused(tmp_path, name):
    """By what they are called, before they begin: neither of them runs here."""
    strategy = type("OfAUser", (type(name, (SingleDeviceStrategy,), {}),), {})("cpu")
    with pytest.raises(LayerSelectError, match=rf"{name}: .*: use strategy='ddp', or ModelParallelStrategy with"):
        trainer(tmp_path, SelectorCallback(), strategy=strategy).fit(module(), loader())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rul": "variance"}, "did you mean 'rule'"),
        ({"mode": "frozen"}, "mode='frozen'"),
        ({"mode": "freeze", "state_cache": "cached"}, "state_cache='cached' caches passes of the module"),
        ({"resume": "maybe"}, "resume='maybe'"),
        ({"logs": True}, "did you mean 'log'"),
        ({"model": None}, "the model is the Trainer's"),
    ],
)
def test_options_are_checked_at_once(options, said):
    with pytest.raises(LayerSelectError, match=said):
        SelectorCallback(**options)


def test_it_can_be_sent_to_another_process():
    """As strategies that start processes send it."""
    callback = pickle.loads(pickle.dumps(SelectorCallback(rule="topk:k=1")))
    assert callback.selector is None and callback.state_dict() == {}


def test_a_trainer_takes_it_without_a_list(tmp_path):
    for package in PACKAGES:
        assert trainer(tmp_path, package=package, callbacks=SelectorCallback()).callbacks
