"""Lightning: one callback in a ``Trainer`` of ``lightning.pytorch`` or ``pytorch_lightning``."""

from __future__ import annotations

import importlib
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.amp.grad_scaler import GradScaler

from ..errors import LayerSelectError
from ..selector.selector import FastSelector
from ..utils.renamed import OF_SELECTOR, with_new_names
from .logs import facts_of, scores_of
from .selector_options import check_options, check_resume, options_for

__all__ = ["SelectorCallback"]

logger = logging.getLogger(__name__)

_INSTEAD = (
    "use strategy='ddp', or ModelParallelStrategy with fully_shard (FSDP2) where the model does not fit one device"
)
#: Strategies in whose hands no parameter keeps a gradient of its own, and why.
_REFUSED = {
    "DeepSpeedStrategy": "DeepSpeed keeps and steps gradients in buffers of its own",
    "FSDPStrategy": "FSDP1 flattens the parameters of many layers into one",
}


def _callbacks() -> tuple[type, ...]:
    """The class ``Callback`` of each package that is installed. They are the same code under two names, and a Trainer
    of either one may be given ours.
    """
    names = [name for name in ("lightning", "pytorch_lightning") if find_spec(name) is not None]
    if not names:
        raise ModuleNotFoundError("this module needs Lightning: pip install 'layerselect[lightning]'", name="lightning")
    places = {"lightning": "lightning.pytorch"}
    return tuple(importlib.import_module(places.get(name, name)).Callback for name in names)


if TYPE_CHECKING:
    _Callback = object
else:
    _Callback = type("_Callback", _callbacks(), {"__doc__": "Both packages' class."})


class SelectorCallback(_Callback):
    """Selects layers in a Lightning ``Trainer``.

    ::

        trainer = lightning.Trainer(callbacks=[SelectorCallback(rule="variance")])
        trainer.fit(module, loader)

    When training begins, the module is wrapped for its strategy, the optimizers are there and a checkpoint has been
    loaded. The callback then builds a selector over the whole module and attaches the optimizers. It closes the
    selector's step before each real step of the optimizer: once for all micro-batches of ``accumulate_grad_batches``,
    before Lightning clips (``gradient_clip_val``), and with the scaler of ``precision="16-mixed"``. A batch that
    ``training_step`` leaves out by returning ``None`` is left out here, too.

    **Manual optimization** works with one optimizer, and with several that all step after the same backward pass.
    Optimizers that step after backward passes of their own, as in a GAN, are refused.

    **Strategies**: one device, DDP, and ``ModelParallelStrategy`` with ``fully_shard`` (FSDP2). DeepSpeed and FSDP1 are
    refused. With ``mode="freeze"``, DDP has to be ``"ddp_find_unused_parameters_true"``. ``ModelParallelStrategy``
    resumes only where every parameter has a state in the optimizer: give ``warmup=1``.

    **Logs.** At every step that Lightning logs (``log_every_n_steps``), the loggers get ``layerselect/num_trained``,
    ``layerselect/lowest_trained`` (-1: none), ``layerselect/threshold`` where the rule cuts scores,
    ``layerselect/kept_share`` and ``layerselect/step_cost`` where it has a budget, and ``layerselect/score/0``,
    ``layerselect/score/1`` and so on, the last score of each layer measured so far.

    **Checkpoints** of Lightning hold the selector in the state of the callback. ``trainer.fit(..., ckpt_path=...)``
    continues from there.

    Args:
        log: whether the loggers are told of the selection.
        log_scores: whether they get a value for each layer.
        resume: what to do where training resumes from a checkpoint of a run that had no selector: ``"refuse"``, or
            ``"fresh"``, with which the selector begins anew at that step.
        options: arguments of :class:`~layerselect.FastSelector` as keywords, without ``state_cache``: it caches passes
            of the module itself, which Lightning does not call.

    Attributes:
        selector: the selector; ``None`` before training begins. It is closed when training ends, also by an exception
            (its scores and history stay readable).

    Raises:
        LayerSelectError: an argument that no selector has, or a value that none takes.
        LayerSelectError: from ``trainer.fit``: the strategy or the optimizers are refused, the selector cannot be
            built, or the checkpoint to resume from holds no selector, or one of another model or rule.
    """

    def __init__(self, *, log: bool = True, log_scores: bool = True, resume: str = "refuse", **options: Any) -> None:
        check_resume(resume)
        self.selector: FastSelector | None = None
        self._options = with_new_names(options, OF_SELECTOR, "SelectorCallback")
        check_options(self._options, owner="SelectorCallback", of_owner=("log", "log_scores", "resume"))
        if self._options.get("state_cache", "none") != "none":
            raise LayerSelectError(
                f"state_cache={self._options['state_cache']!r} caches passes of the module that a selector is over, "
                "and Lightning calls its training_step instead: build FastSelector(self.model, ...) over the model "
                "inside, and call its step() in on_before_optimizer_step"
            )
        self._log, self._log_scores, self._resume = log, log_scores, resume
        self._loaded: dict[str, Any] | None = None  # from the checkpoint that training resumes from
        self._backward = False  # a backward pass has ended since the selector's last step
        self._stepped: set[int] = set()  # the optimizers that have stepped since then
        self._new = False  # the selector has stepped in this batch

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._loaded = None
        if stage != "fit":
            return
        for kind in _kinds(trainer):
            if kind in _REFUSED:
                raise LayerSelectError(
                    f"{kind}: {_REFUSED[kind]}, so no layer can be measured or left out of a step: {_INSTEAD}"
                )

    def state_dict(self) -> dict[str, Any]:
        return {} if self.selector is None else {"selector": self.selector.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._loaded = state_dict  # there is no selector yet

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._end()  # a training of which we were not told that it has ended
        loaded, self._loaded = self._loaded, None
        if loaded is None and trainer.ckpt_path is not None:
            if self._resume == "refuse":
                raise LayerSelectError(
                    f"the checkpoint {trainer.ckpt_path} holds no selector: the run that saved it had none, and "
                    f"SelectorCallback(resume='fresh') begins one at its step {trainer.global_step}"
                )
            logger.warning(
                "%s holds no selector: one begins anew at step %d, as resume='fresh' says",
                trainer.ckpt_path,
                trainer.global_step,
            )
        if len(trainer.optimizers) > 1 and _scaler(trainer) is not None:
            raise LayerSelectError(
                f"this module has {len(trainer.optimizers)} optimizers under a GradScaler, whose scale Lightning "
                "changes after each of them, so their gradients cannot be measured together: use "
                "precision='bf16-mixed', or one optimizer with several groups of parameters"
            )
        # Lightning compiles the methods of the module and not the module.
        compiled = getattr(pl_module, "_compiler_ctx", None) is not None
        model: nn.Module = trainer.model
        self.selector = FastSelector(model, **options_for(self._options, compiled=compiled))
        self.selector.attach(*trainer.optimizers)
        if loaded is not None:
            self.selector.load_state_dict(loaded["selector"])
            logger.info("the selector continues from %s at step %d", trainer.ckpt_path, self.selector.steps)
        elif "ModelParallelStrategy" in _kinds(trainer) and not self.selector.schedule.warmup:
            logger.warning(
                "ModelParallelStrategy resumes from a checkpoint only if the optimizer holds a state of every "
                "parameter, and a layer that was never selected has none: with warmup=1 all train in the first step"
            )

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._new = False

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self._backward = True

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        # Gradients are unscaled by now and not yet clipped.
        if self._is_next(optimizer, len(trainer.optimizers), automatic=pl_module.automatic_optimization):
            self._running().step(grad_scale=_scaler(trainer))
            self._new = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not (self._new and self._log and trainer.loggers and trainer._logger_connector.should_update_logs):
            return
        facts = facts_of(self._running())
        if self._log_scores:
            facts |= scores_of(self._running())
        pl_module.log_dict(facts, on_step=True, on_epoch=False, batch_size=1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._end()

    def _is_next(self, optimizer: Any, optimizers: int, *, automatic: bool) -> bool:
        """Whether the selector has to step before this optimizer does: before the first one after a backward pass."""
        if automatic and not self._backward:
            return False  # training_step has returned None
        if self._stepped and id(optimizer) not in self._stepped and not self._backward:
            self._stepped.add(id(optimizer))
            return False
        if self._stepped and len(self._stepped) < optimizers:
            raise LayerSelectError(
                f"the {optimizers} optimizers of this module do not all step after the same backward pass, as in a "
                "GAN, and the callback's selector measures all layers in one: do without the callback, build a "
                "FastSelector for each network, and call its step() before its optimizer's"
            )
        self._stepped, self._backward = {id(optimizer)}, False
        return True

    def _running(self) -> FastSelector:
        if self.selector is None:
            raise LayerSelectError("the selector is built when training begins, and it has not begun")
        return self.selector

    def _end(self) -> None:
        self._backward, self._stepped, self._new = False, set(), False
        if self.selector is not None:
            self.selector.close()


def _kinds(trainer: Any) -> list[str]:
    """The names of the strategy's class and of those it derives from."""
    return [kind.__name__ for kind in type(trainer.strategy).__mro__]


def _scaler(trainer: Any) -> GradScaler | None:
    """The scaler of ``precision="16-mixed"``."""
    scaler: GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
    return scaler
