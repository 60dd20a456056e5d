"""Mode ``freeze`` with gradient checkpointing, against models frozen by hand without checkpointing."""

from __future__ import annotations

import copy
import gc
import io
import logging
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from layerselect import FastSelector
from layerselect.layers.find import split_parameters
from layerselect.modes.checkpointing import CheckpointBoundary, SelectiveCheckpoint
from layerselect.utils.saved_activations import saved_activation_bytes
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.helpers.models import VOCABULARY, PlainStack, hugging_face, language_loss, plain_loss, with_lora

KINDS = pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
FUNCTION = "_gradient_checkpointing_func"
FAMILIES = ("llama", "gemma3", "gpt2", "bert", "t5")


def build(family: str, adapter: str = "lora", frozen_embedding: bool = True) -> nn.Module:
    """In training mode, so with dropout where the family has it."""
    model = hugging_face(family)
    for module in model.modules():
        if hasattr(module, "config"):
            module.config.use_cache = False  # checkpointing forbids it, and a cache changes layouts and so the rounding
    if adapter == "lora":
        model = with_lora(model)
    elif frozen_embedding:
        for name, parameter in model.named_parameters():
            # Positions too, and what stands between T5's two stacks.
            if any(part in name for part in ("embed", "shared", "wte", "wpe", "encoder.final")):
                parameter.requires_grad_(False)
    return model.train()


def enable(model: nn.Module, reentrant: bool) -> nn.Module:
    """By its name in transformers 5.2, or its older one."""
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": reentrant})
    return model


def disable(model: nn.Module) -> None:
    name = "activation" if hasattr(model, "activation_checkpointing_disable") else "gradient"
    getattr(model, f"{name}_checkpointing_disable")()


def frozen_by_hand(model: nn.Module, trained: list[int]) -> nn.Module:
    for index, layer in enumerate(split_parameters(model).layers):
        for _, parameter in layer:
            parameter.requires_grad_(index in trained)
    return model


def backward(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model.zero_grad()
    language_loss(model, seed).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@contextmanager
def recomputed(blocks: list[nn.Module]) -> Iterator[Counter]:
    """Counts, by its position, each block's forward calls inside a backward pass."""
    calls: Counter = Counter()

    def note(index: int, module: nn.Module, args: tuple) -> None:
        if torch._C._current_graph_task_id() != -1:
            calls[index] += 1

    # The first module inside the block: hooks on the block itself may stand outside the checkpoint.
    first = [next(m for m in block.modules() if not list(m.children())) for block in blocks]
    handles = [module.register_forward_pre_hook(partial(note, i)) for i, module in enumerate(first)]
    yield calls
    for handle in handles:
        handle.remove()


@KINDS
@pytest.mark.parametrize(
    ("adapter", "trained"), [("lora", [3]), ("lora", [1, 2]), ("lora", [0, 1, 2, 3]), ("full", [1, 2])], ids=str
)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_and_recomputation(family, adapter, trained, reentrant):
    plain = frozen_by_hand(build(family, adapter), trained)
    if family == "t5" and reentrant:
        # What the decoder's blocks ask of the encoder is summed block by block, which rounds otherwise.
        enable(plain, reentrant)
    expected = backward(plain)
    model = enable(build(family, adapter), reentrant)
    blocks = split_parameters(model).modules
    with FastSelector(model, f"fixed:layers={trained}", mode="freeze"), recomputed(blocks) as calls:
        assert_same(backward(model), expected)
    assert calls == dict.fromkeys(range(min(trained), 4), 1)


def test_an_encoder_decoder_recomputes_the_decoder_where_the_encoder_trains():
    model = enable(build("t5"), False)
    blocks = split_parameters(model).modules
    for trained, expected in (([1], [1, 2, 3]), ([2], [2, 3]), ([0, 3], [0, 1, 2, 3])):
        with FastSelector(model, f"fixed:layers={trained}", mode="freeze"), recomputed(blocks) as calls:
            backward(model)
        assert sorted(calls) == expected
    # Its cross attention makes a constant require a gradient where it is checkpointed. A frozen block below is not.
    outputs: list[bool] = []
    blocks[2].register_forward_hook(lambda module, args, output: outputs.append(output[0].requires_grad))
    with FastSelector(model, "fixed:layers=[3]", mode="freeze"):
        backward(model)
    backward(model)
    assert outputs == [False, True]


def test_layers_without_adapters_below_are_not_recomputed_either():
    model = hugging_face("llama")
    model = enable(with_lora(model, target_modules=["q_proj", "v_proj"], layers_to_transform=[2, 3]).train(), True)
    blocks = list(model.base_model.model.model.layers)
    with FastSelector(model, "fixed:layers=[1]", mode="freeze") as selector, recomputed(blocks) as calls:
        assert selector.num_layers == 2
        assert len(backward(model)) == 4
    assert calls == {3: 1}


@KINDS
def test_saved_bytes_are_those_of_a_model_set_up_by_hand(reentrant):
    trained = [2, 3]

    def saved(model: nn.Module) -> int:
        return saved_activation_bytes(model, lambda: language_loss(model))

    by_hand = frozen_by_hand(enable(build("llama"), reentrant), trained)
    everything = saved(enable(build("llama"), reentrant))
    unaided = saved(by_hand)
    by_hand.base_model.model.disable_input_require_grads()
    blocks = by_hand.base_model.model.model.layers
    for block in blocks[:2]:
        block.gradient_checkpointing = False
    if reentrant:
        blocks[1].register_forward_hook(lambda module, args, output: output.requires_grad_(True))
    without_checkpointing = saved(frozen_by_hand(build("llama"), trained))
    model = enable(build("llama"), reentrant)
    with FastSelector(model, f"fixed:layers={trained}", mode="freeze"):
        ours = saved(model)
        # A block of this size saves far more than its input.
        assert ours == saved(by_hand) < min(unaided, everything, without_checkpointing)
    assert saved(model) == everything


def test_no_layer_trains():
    model = enable(build("bert"), True)  # whose head has adapters too
    blocks = split_parameters(model).modules
    with (
        FastSelector(model, "threshold:gamma=1e9", mode="freeze", probe_every=0) as selector,
        recomputed(blocks) as calls,
    ):
        backward(model)
        assert calls == {0: 1, 1: 1, 2: 1, 3: 1}
        selector.step()
        assert selector.trained() == []
        calls.clear()
        assert all(".predictions." in name for name in backward(model))
        assert not calls


def test_checkpointing_may_be_switched_at_any_time():
    model = build("llama")
    blocks = split_parameters(model).modules
    expected = backward(frozen_by_hand(build("llama"), [1, 3]))
    with FastSelector(model, "fixed:layers=[1, 3]", mode="freeze") as selector, recomputed(blocks) as calls:
        for reentrant in (True, False, True):
            enable(model, reentrant)
            assert_same(backward(model), expected)
            assert calls == {1: 1, 2: 1, 3: 1}
            calls.clear()
            disable(model)
            assert_same(backward(model), expected)
            assert not calls
        enable(model, True)
        model.eval()
        language_loss(model).backward()
        assert not calls
        model.train()
        selector.rule = "fixed:layers=[2]"
        assert_same(backward(model), backward(frozen_by_hand(build("llama"), [2])))
        assert calls == {2: 1, 3: 1}


@KINDS
def test_where_only_some_blocks_are_checkpointed(reentrant):
    model = enable(build("llama"), reentrant)
    blocks = split_parameters(model).modules
    for block in blocks[1::2]:  # as every_n_layers=2 does it
        block.gradient_checkpointing = False
    for trained, expected in (([1, 3], [2]), ([0, 3], [0, 2]), ([3], [])):
        with FastSelector(model, f"fixed:layers={trained}", mode="freeze"), recomputed(blocks) as calls:
            assert_same(backward(model), backward(frozen_by_hand(build("llama"), trained)))
        assert sorted(calls) == expected


@KINDS
@pytest.mark.parametrize("rule", ["variance", "random:k=2"])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_run_with_checkpointing_is_the_run_without(family, rule, reentrant):
    def run(checkpointing: bool) -> tuple[dict[str, Tensor], list]:
        model = build(family)
        if checkpointing:
            enable(model, reentrant)
        with FastSelector(model, rule, mode="freeze", probe_every=5, warmup=1) as selector:
            optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
            selector.attach(optimizer)
            for step in range(12):
                for micro_batch in range(2):
                    torch.manual_seed(step)
                    language_loss(model, 2 * step + micro_batch).backward()
                selector.step()
                optimizer.step()
                optimizer.zero_grad()
            return dict(model.named_parameters()), selector.history.arrays()["mask"].tolist()

    weights, masks = run(True)
    expected_weights, expected_masks = run(False)
    assert masks == expected_masks
    assert_same(weights, expected_weights)


@KINDS
def test_trainer(reentrant, tmp_path):
    from layerselect.integrations.transformers import SelectorCallback
    from transformers import Trainer, TrainingArguments

    def run(name: str, **checkpointing: object) -> tuple[dict[str, Tensor], list]:
        callback = SelectorCallback(rule="random:k=1", mode="freeze", seed=1)
        generator = torch.Generator().manual_seed(0)
        rows = [torch.randint(3, VOCABULARY, (7,), generator=generator) for _ in range(16)]
        arguments = TrainingArguments(
            str(tmp_path / name),
            max_steps=8,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            **checkpointing,
        )
        data = [{"input_ids": row, "labels": row} for row in rows]
        model = build("llama")
        with recomputed(split_parameters(model).modules) as calls:
            Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
        masks = callback.selector.history.arrays()["mask"].tolist()
        if checkpointing:
            assert not any(isinstance(vars(m).get(FUNCTION), SelectiveCheckpoint) for m in model.modules())
            # Each step has two micro-batches.
            assert [calls[index] for index in range(4)] == [
                2 * sum(any(m[: index + 1]) for m in masks) for index in range(4)
            ]
            assert calls[0] < calls[3]
        return dict(model.named_parameters()), masks

    weights, masks = run(
        "with", gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": reentrant}
    )
    expected_weights, expected_masks = run("without")
    assert masks == expected_masks
    assert_same(weights, expected_weights)


def attributes(model: nn.Module) -> list:
    return [
        (
            vars(m).get(FUNCTION),
            vars(m).get("gradient_checkpointing"),
            *map(dict, (m._forward_hooks, m._forward_pre_hooks)),
        )
        for m in model.modules()
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_close_leaves_the_model_as_found(family):
    model = enable(build(family), True)
    before, expected = attributes(model), backward(model)
    blocks = split_parameters(model).modules
    for mode in ("observe", "gate"):
        with FastSelector(model, "fixed:layers=[3]", mode=mode):
            assert attributes(model) == before
    selector = FastSelector(model, "fixed:layers=[3]", mode="freeze")
    assert attributes(model) != before
    backward(model)
    selector.close()
    assert attributes(model) == before
    with recomputed(blocks) as calls:
        assert_same(backward(model), expected)
    assert len(calls) == 4

    selector = FastSelector(model, "fixed:layers=[3]", mode="freeze")
    disable(model)
    switched_off = [row[:2] for row in attributes(model)]
    selector.close()
    assert [row[:2] for row in attributes(model)] == switched_off


def test_a_copy_of_the_model_has_no_selector():
    model = enable(build("llama"), True)
    expected = backward(model)
    with FastSelector(model, "fixed:layers=[3]", mode="freeze"):
        twin = copy.deepcopy(model)
        backward(model)
        backward(twin)  # must not wrap anything either
    assert not any(isinstance(vars(m).get(FUNCTION), SelectiveCheckpoint) for m in twin.modules())
    for parameter, other in zip(twin.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(other.requires_grad)
    with recomputed(split_parameters(twin).modules) as calls:
        assert_same(backward(twin), expected)
    assert len(calls) == 4
    plain = PlainStack()
    with FastSelector(plain, "fixed:layers=[5]", mode="freeze"):
        buffer = io.BytesIO()
        torch.save(plain, buffer)
        buffer.seek(0)
        restored = torch.load(buffer, weights_only=False)
    assert torch.equal(plain_loss(restored), plain_loss(plain))


def test_the_hooks_do_not_keep_the_model_alive():
    model = build("llama")
    boundary = CheckpointBoundary(enable(model, False), split_parameters(model).modules)
    backward(model)
    alive = weakref.ref(model.base_model.model.model.layers[0].mlp.down_proj.base_layer.weight)
    gc.collect()
    gc.disable()
    try:
        del model
        assert alive() is None
    finally:
        gc.enable()
    boundary.close()


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.reentrant: bool | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        if self.reentrant is None:
            return hidden + self.inner(hidden)
        return hidden + checkpoint(self.inner, hidden, use_reentrant=self.reentrant)


class CallCheckpointedBlock(Block):
    """As transformers before 5.2 did it: ``__call__`` is checkpointed, so the block's hooks run inside."""

    gradient_checkpointing = True

    def __call__(self, *args, **kwargs):
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(partial(super().__call__, **kwargs), *args)
        return super().__call__(*args, **kwargs)


class OwnCheckpointing(nn.Module):
    """A stack that checkpoints its blocks itself, in one of several ways, over an embedding made to ask for a
    gradient.
    """

    gradient_checkpointing = True

    def __init__(self, how: str, reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.reentrant = how, reentrant
        self.embed = nn.Embedding(VOCABULARY, 16).requires_grad_(False)
        self.embed.register_forward_hook(lambda module, args, output: output.requires_grad_(True))
        kind = CallCheckpointedBlock if how == "call" else Block
        self.blocks = nn.ModuleList(kind(16) for _ in range(4))
        self.head = nn.Linear(16, VOCABULARY).requires_grad_(False)
        self._gradient_checkpointing_func = partial(checkpoint, use_reentrant=reentrant)
        for block in self.blocks:
            if how == "inside":
                block.reentrant = reentrant
            if how == "call":
                block._gradient_checkpointing_func = self._gradient_checkpointing_func

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        for index, block in enumerate(self.blocks):
            if self.how in ("none", "call"):
                hidden = block(hidden)
            elif self.how == "stack":
                hidden = self._gradient_checkpointing_func(block.__call__, hidden)
            elif self.how == "closure":
                hidden = self._gradient_checkpointing_func(lambda x, block=block: block(x), hidden)
            elif self.how == "direct" or (self.how == "upper" and index >= 1):
                hidden = checkpoint(block, hidden, use_reentrant=self.reentrant)
            elif self.how == "nested":
                inner = partial(self._gradient_checkpointing_func, block.__call__)
                hidden = checkpoint(inner, hidden, use_reentrant=self.reentrant)
            else:
                hidden = block(hidden)
        return self.head(hidden)


@KINDS
@pytest.mark.parametrize(
    ("how", "saves"),
    [
        ("call", True),
        ("stack", True),
        ("inside", True),
        # These get right gradients, and save what the kind allows.
        ("closure", False),
        ("direct", False),
        ("upper", False),
        ("nested", False),
    ],
)
def test_models_that_checkpoint_in_their_own_way(how, saves, reentrant):
    def gradients(model: nn.Module) -> dict[str, Tensor]:
        model.zero_grad()
        plain_loss(model).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    for trained in ([2, 3], [0, 2]):
        oracle = gradients(frozen_by_hand(OwnCheckpointing("none", reentrant), trained))
        assert len(oracle) == 8
        model = OwnCheckpointing(how, reentrant)
        with FastSelector(model, f"fixed:layers={trained}", mode="freeze"), recomputed(list(model.blocks)) as calls:
            for _ in range(3):
                calls.clear()
                assert_same(gradients(model), oracle)
            if saves:
                assert sorted(calls) == list(range(trained[0], 4))
        assert len(gradients(model)) == 16


def test_reentrant_checkpointing_of_the_models_own_is_reported_once(caplog):
    model = OwnCheckpointing("direct", True)
    with caplog.at_level(logging.INFO, "layerselect"), FastSelector(model, "fixed:layers=[3]", mode="freeze"):
        plain_loss(model).backward()
        plain_loss(model).backward()
    assert sum("the model checkpoints its layers itself" in record.message for record in caplog.records) == 1
