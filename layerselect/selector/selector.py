"""``FastSelector``: measures the layers of a model while it trains and decides which of them to train."""

from __future__ import annotations

import logging
import weakref
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import _backend
from ..core.base import Outcome, StepInputs
from ..core.history import DEFAULT_ROWS
from ..core.history_file import check_history
from ..core.scaling import Accelerator, GradScale, Scaling, of_accelerator, read_scaling
from ..core.schedule import Schedule
from ..core.scores import SCORE_FORMS
from ..distributed.agreement import Agreement
from ..distributed.engines import check_engine, put_shards_back
from ..distributed.foreign_engines import explain_missing
from ..errors import LayerSelectError
from ..layers.find import LayeredParameters, LayerSpec, all_stacks, split_parameters
from ..layers.hints import check_is_module
from ..layers.ranks import Ranks
from ..layers.registrations import Registrations
from ..modes.compiled import CompileWatch, is_compiled
from ..modes.freeze import LayerFreezer
from ..modes.nonfinite import not_finite
from ..modes.optimizers import check_parameters, unwrap_optimizer
from ..modes.resolve import resolve_capture, resolve_lag, resolve_mode
from ..modes.seen_gradients import SeenGradients
from ..modes.state_reset import check_on_freeze
from ..rules import EXCLUDED, Rule, make_rule
from ..state_cache import DEFAULT_CUT, StateStore
from ..state_cache.selection import CacheSelection
from ..utils.arguments import check_choice, check_parameters_are_dense, check_texts
from ..utils.renamed import OF_SELECTOR, takes_old_names
from .attachment import Attachment, needs_gates
from .backward_plan import BackwardPlan
from .budgeted import check_budget, with_budget
from .clipping import Clipping, norm_to_clip
from .copied import CopiedSelector
from .holdings import Holdings, register, take_over, unregister
from .readings import Readings
from .saved import Saved
from .upkeep import Upkeep, parameters_by_layer
from .user_flags import UserFlags
from .worth import ranks_of

logger = logging.getLogger(__name__)


class FastSelector(Readings, Saved, Upkeep):
    """Measures each layer's gradient norm inside the backward pass and chooses which layers to train.

    ::

        selector = FastSelector(model)
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=2e-4)
        selector.attach(optimizer)
        for batch in loader:
            model(**batch).loss.backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()

    A step of the selector belongs between the last ``backward()`` of an optimizer step and
    ``optimizer.step()``: the selection it makes governs that very ``optimizer.step()``. Under gradient
    accumulation the scores are those of the accumulated gradient.

    Where several processes train, give it the model as ``DistributedDataParallel`` or ``fully_shard`` made it, and call
    :meth:`step` in every process, when the gradients are averaged (not under ``no_sync()``). All processes then measure
    the averaged gradient and choose the same layers; the state is the same in all, and one of them saves it.

    Args:
        model: any module that has trainable parameters in a stack of layers.
        rule: a :class:`~layerselect.rules.Rule`, or a name with options (see :func:`~layerselect.rules.make_rule`).
        budget: what a step may cost, in (0, 1] of the step that trains all layers. ``rule`` then chooses among what
            fits: by :class:`~layerselect.CostAware`, or, with ``state_cache``, above the cut that fits. Without it
            nothing is bounded. It saves in mode ``freeze`` only; :attr:`step_cost` says what was reached.
        layers: where the layers are, if structure alone does not tell (see
            :func:`~layerselect.layers.find.split_parameters`).
        score: ``"l2"``, ``"rms"`` or ``"sqrt_sum"`` (see :mod:`layerselect.core.scores`).
        mode: ``"observe"`` measures and decides, no more. ``"gate"`` computes all gradients and keeps the optimizer
            away from unselected layers. ``"freeze"`` computes only the gradients of selected layers, and with gradient
            checkpointing recomputes only the blocks from the lowest of them up. ``"auto"`` freezes in a single eager
            process and gates elsewhere.
        interval: how many steps there are from one selection to the next.
        warmup: how many steps train all layers before the first selection.
        probe_every: in ``"freeze"``, how many steps there are from one probe to the next. In a probe all layers get
            gradients for one step, which refreshes the scores of frozen layers. 0 never probes.
        lag: in ``"freeze"``, how many steps old the selection is that decides which gradients are computed. ``None``
            is 0 on the CPU, where the host knows the selection at once, and 1 on a device, so that the host
            never waits for the step it has just launched.
        on_freeze: in ``"freeze"``, whether the optimizer keeps its state of a layer that stops training (``"keep"``) or
            forgets it after the last step that used it (``"reset"``). With ``"reset"`` the optimizer's memory follows
            the selection, and a layer that returns starts as a fresh parameter. With ``lag``, and on a device, a layer
            stops when the host no longer lets it take gradients.
        capture: ``"backward"`` measures a layer as soon as its last gradient is in. ``"step"`` measures all layers in
            :meth:`step`. ``"auto"`` takes the first where it can.
        backend: ``"native"`` is the compiled core, ``"torch"`` is plain PyTorch, ``"auto"`` takes the first where it
            can.
        seed: seed of a rule that is given by name and draws at random.
        state_cache: in ``"freeze"``, ``"cached"`` keeps for each example the hidden states that enter the *cut*, so
            that the layers below it are computed once and skipped from then on
            (:class:`~layerselect.state_cache.StateCache`). Those layers never train, and the selection is made among
            the layers above. ``"auto"`` does so where it is faster (:func:`~layerselect.state_cache.worth_caching`).
            ``"none"`` never does.
        cut: how many layers are below the cut; or a rule, or the name of one, whose lowest layer is the cut. A rule
            that reads scores gets those of the first steps, in which no layer is updated; ``cost-aware`` reads none
            and cuts as deep as its budget allows (:class:`~layerselect.state_cache.Cut`). ``"rule"`` is the rule of the
            selection itself; nothing is below the cut unless this rule always selects the same layers.
        state_cache_store: the :class:`~layerselect.state_cache.StateStore` that keeps the states. ``None`` keeps them
            for this selector alone, in memory as far as it reaches.
        history: how many of the last steps :attr:`history` keeps, in memory and in saved states; or the path of a file
            to which every step is appended (:func:`~layerselect.core.history_file.read_history`). The file survives a
            killed process, and a resumed run continues it. Where several processes train, the first one writes it.

    Raises:
        LayerSelectError: no layers, no trainable parameters in them, or an argument out of range.
    """

    @takes_old_names(OF_SELECTOR, "FastSelector")
    def __init__(
        self,
        model: nn.Module,
        rule: str | Rule = "variance",
        *,
        budget: float | None = None,
        layers: LayerSpec = None,
        score: str = "l2",
        mode: str = "auto",
        interval: int = 1,
        warmup: int = 0,
        probe_every: int = 20,
        lag: int | None = None,
        on_freeze: str = "keep",
        capture: str = "auto",
        backend: str = "auto",
        seed: int = 0,
        state_cache: str = "none",
        cut: int | str | Rule = DEFAULT_CUT,
        state_cache_store: StateStore | None = None,
        history: int | str | Path = DEFAULT_ROWS,
    ) -> None:
        check_texts(
            score=score, mode=mode, on_freeze=on_freeze, capture=capture, backend=backend, state_cache=state_cache
        )
        check_choice("score", score, SCORE_FORMS)
        check_history(history)
        check_budget(budget)
        self._keep_history = history
        schedule = Schedule(warmup=warmup, interval=interval, probe_every=probe_every)
        check_is_module(model)
        check_engine(model)
        put_shards_back(model)
        self.mode: str = resolve_mode(mode, model)
        rule, cut = with_budget(rule, cut, budget, caches=state_cache != "none", mode=self.mode, seed=seed)
        if self.mode != "observe":
            take_over(model.parameters())
        self._model = model
        self._found: LayeredParameters = split_parameters(model, layers)
        check_parameters_are_dense(self._all_parameters())
        self._flags = UserFlags(model, self._found, layers)
        self._registrations = Registrations()
        self._device = self._found.layers[0][0][1].device
        self.layer_sizes: list[int] = [sum(p.numel() for _, p in layer) for layer in self._found.layers]
        self.layer_names: list[str] = self._found.names
        self.num_layers: int = len(self.layer_names)
        self._may_gate = mode == "auto" and state_cache == "none"
        self._asked_capture = capture
        self.capture: str = resolve_capture(capture, model)
        self.backend: str = _backend.resolve(backend, self._device)
        self.lag: int = resolve_lag(lag, self._device)
        check_on_freeze(on_freeze, self.mode)
        self.on_freeze = on_freeze
        self.score = score
        ours = set(map(id, self._found.modules))
        self._freezer = LayerFreezer(
            self._found.modules,
            parameters_by_layer(self._found),
            others=[block for stack in all_stacks(model) for block in stack if id(block) not in ours],
            compiled=is_compiled(model),
        )
        self._cache = CacheSelection(
            state_cache, cut, state_cache_store, self._view(), rule, mode=self.mode, backend=self.backend, seed=seed
        )
        # The steps in which the layers are watched select nothing.
        self.schedule = replace(schedule, warmup=warmup + self._cache.watched)
        self._clipping = Clipping()
        self._seen = SeenGradients()
        shapes = [[p.shape for _, p in layer] for layer in self._found.layers]
        self._agreement = Agreement(model, self.layer_names, shapes)
        self._attachment: Attachment | None = None
        self._closed = False
        self._captured = False
        self._warned_without_optimizer = False
        self._watch: CompileWatch | None = None
        self._frozen_layers = [False] * self.num_layers
        self._step = 0
        self._plan = BackwardPlan(
            self._freezer,
            self.schedule,
            num_layers=self.num_layers,
            lag=self.lag,
            device=self._device,
            has_outer=bool(self._found.outer),
        )
        self._rule = self._prepared(rule)
        self._seed = seed
        self._holdings = Holdings()
        self._finalizer = weakref.finalize(self, self._holdings.let_go)
        self._finalizer.atexit = False
        try:
            self._build_core()
            self._start(model)
        except BaseException:
            self._finalizer()
            self._rule.close()  # where nobody held it yet
            raise
        register(self)
        logger.info(
            "%d layers, %d outer parameters, mode %s, capture %s, backend %s, rule %s",
            self.num_layers,
            len(self._found.outer),
            self.mode,
            self.capture,
            self.backend,
            self._rule.name,
        )

    @property
    def rule(self) -> Rule:
        """The rule in force; it may be replaced between two steps."""
        return self._rule

    @rule.setter
    def rule(self, rule: str | Rule) -> None:
        self._check_open()
        new = self._prepared(make_rule(rule, seed=self._seed))
        if new is not self._rule:
            self._rule.close()
        self._rule = new
        if self._captured:
            logger.warning(
                "a step of the selector was captured in a CUDA graph, which goes on with the old rule: capture anew"
            )
        self._holdings.hold("rule", new.close)
        self._plan.forget_drawn()
        if self.mode == "freeze":
            self._plan.prepare(self._rule, self._step)

    def attach(self, *optimizers: torch.optim.Optimizer) -> None:
        """Ties the optimizers to the selection: unselected layers keep weights and state bit for bit.

        Call it once, with all optimizers, after they are built; calling it again replaces the earlier ones.

        Raises:
            LayerSelectError: a trainable parameter is in none of them, or one is of a kind that cannot leave
                parameters out (``LBFGS``). An optimizer of one's own that moves parameters without a gradient is
                refused in one of its first steps.
        """
        self._check_open()
        plain = [unwrap_optimizer(optimizer, governs=self.mode != "observe") for optimizer in optimizers]
        if not plain:
            raise LayerSelectError("attach() was called without an optimizer")
        self._follow_replaced_parameters()
        self._follow_users_flags(plain)
        check_parameters(plain, [pair for pair in self._all_parameters() if pair[1].requires_grad])
        self._tie(plain)

    def step(self, grad_scale: GradScale | Accelerator = None) -> None:
        """Closes the step: finishes the scores, applies the rule, updates mask, frequency and history.

        Args:
            grad_scale: the ``accelerate.Accelerator`` in use: nothing happens before the last micro-batch. Or the
                ``torch.amp.GradScaler`` in use, before ``scaler.step()`` and before or after ``scaler.unscale_()``; or
                a factor by which the gradients are too large (a number or a Tensor []).
                Scores and norms are those of the gradients divided by it. With it, a step in which a gradient is not
                finite, or for which the scaler has found one, counts as one that the optimizer skips: it leaves
                selection, scores, frequency, counters, history, rule and what takes gradients next untouched (see
                :attr:`steps` for what the host of a device knows of it). Whoever gives a factor has to skip such a step
                of the optimizer, too.

        Raises:
            LayerSelectError: no parameter has a gradient, which means that it was called before ``backward()``
                or after ``zero_grad()``; the rule returned something that is not a mask; or ``grad_scale`` is not what
                it should be (see :func:`~layerselect.core.scaling.read_scaling`).
        """
        self._check_open()
        steps_now, grad_scale = of_accelerator(grad_scale)
        if not steps_now:
            return
        self._follow_replaced_parameters()
        self._follow_users_flags(self._optimizers)
        self._engine.check()
        self._look_for_a_capture()
        self._look_for_a_compiler()
        if self.mode == "freeze":
            self._freezer.stepped()
            # Frozen layers took none: what is there was left by zero_grad(set_to_none=False), and would be stepped on.
            self._freezer.drop_gradients(self._freezer.active)
        scaling = read_scaling(grad_scale, self._optimizers, self._device)
        preselected = self._plan.preselected(self._rule, self._step)
        outcome = self._core.step(
            StepInputs(self._rule, preselected, self._freezer.active, scaling, self._cache.first_layer)
        )
        if outcome is Outcome.NO_GRADIENT:
            raise LayerSelectError(explain_missing(self._model, self._all_parameters(), taken=self._core.taken))
        if self._attachment is not None:
            self._attachment.selector_stepped(grad_scale)
        if outcome is Outcome.CLOSED:
            self._advance(scaling if self._core.decides_on_device else None)
        if self._attachment is not None:
            self._attachment.measured(grad_scale)
        self._clipping.allow(self._found)
        self._seen.note([p for _, p in layer] for layer in self._found.layers)
        self._agreement.compare(self.mask)

    def _advance(self, skipping: Scaling | None) -> None:
        """What follows from a step that was closed, or that a device may have skipped, for which there is
        ``skipping``.
        """
        state = self._core.state
        status = state["status"]
        if skipping is not None:
            status = status.masked_fill(skipping.skips(self.total_norm), EXCLUDED)
        if not self.schedule.warms_up_in(self._step):
            self._rule.after_step(state["scores"], status)
        self._step += 1
        if self.mode == "freeze":
            if not self._core.decides_on_device:
                self._freezer.drop_gradients(self.mask.tolist())
            self._cache.observe(state["scores"], status, self._freezer)
            self._step = self._plan.closed(state["wanted"], state["step"], self._step, may_skip=skipping is not None)
            self._plan.prepare(self._rule, self._step)
        if self._attachment is None and needs_gates(self.mode, self._core) and not self._warned_without_optimizer:
            self._warned_without_optimizer = True
            logger.warning("the selector holds no optimizer, so it changes no step: call selector.attach(optimizer)")

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Clips the gradients by their norm, as ``torch.nn.utils.clip_grad_norm_(selector.trainable_parameters(),
        max_norm)`` does in the same place, but with the norm that :meth:`step` has measured: no gradient is read for
        it.

        In ``observe`` and ``gate`` that is the norm of all gradients, those of unselected layers included; in
        ``freeze`` of those that are left: the selected layers' and the outer ones'. In ``gate`` and ``freeze`` a layer
        whose gradient is not finite does not count, and spoils no other: it is not selected, and no step sees its
        gradients (:attr:`total_norm` says that there was one). Where the gradients are still scaled (see ``grad_scale``
        of :meth:`step`) it is the norm they will have once they are not. Scores do not change.

        Args:
            max_norm: what the norm is to be at most.

        Returns:
            float64 [], on the device: the norm before clipping. Nothing waits for it.

        Raises:
            LayerSelectError: it was not called once in a step, after :meth:`step`; or ``max_norm`` is negative.
        """
        self._check_open()
        norm = norm_to_clip(self._core, self._found, self.mode)
        as_measured = [] if self._attachment is None else self._attachment.clipping()
        on_device = self._core.decides_on_device
        spare = [] if self.mode == "observe" else not_finite(self._core.state, on_device=on_device)
        self._clipping.clip(self._found, max_norm, norm, spare)
        if self._attachment is not None:
            self._attachment.clipped(as_measured)
        return norm

    def rank_pattern(self, budget: float, *, by: str = "scores", most: int | None = None) -> Ranks:
        """Ranks of LoRA, in proportion to what was measured, for the next training. Nothing changes here.

        Args:
            budget: parameters of all adapters together; or, up to 1, a fraction of those that LoRA of rank 16 on the
                same maps has.
            by: ``"scores"``: the mean score of each layer over the recorded steps in which it took a gradient.
                ``"frequency"``: how often it was selected. ``"maps"``: the mean score of each layer, times the share of
                each map in it (:meth:`scores_by_map`).
            most: of one map.

        Returns:
            ``rank_pattern``, ``alpha_pattern`` and ``target_modules`` for ``peft.LoraConfig``;
            :meth:`~layerselect.layers.ranks.Ranks.lora_config` makes one. What the budget leaves is less than one
            rank of the smallest map. Where some maps have LoRA now, only these get ranks. The call waits for the
            device.

        Raises:
            LayerSelectError: nothing was measured, or the budget is too small for one rank.
        """
        return ranks_of(self, list(zip(self.layer_names, self._found.modules, strict=True)), budget, by=by, most=most)

    def close(self) -> None:
        """Removes every hook and restores every ``requires_grad`` and checkpoint function it changed. May be called
        twice.
        """
        if not self._closed:
            self._closed = True
            unregister(self)
            self._finalizer()

    def __enter__(self) -> FastSelector:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[CopiedSelector], tuple[()]]:
        """A copy belongs to no model, as the copy of a model is free of its selector."""
        return CopiedSelector, ()

    def _check_open(self) -> None:
        if self._closed:
            raise LayerSelectError("the selector was closed: build a new one")
