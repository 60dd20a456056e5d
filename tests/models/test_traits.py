"""What is found out about a model by trying it, and that its runs go by that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from layerselect import LayerSelectError
from layerselect.models.traits import Traits, called_in_a_pass, find_traits, reason, traits_of
from layerselect.tasks.intent.heads import ClassifierHead
from layerselect.tasks.text.completions import forward_padded, nll, pad_prompts
from layerselect.tasks.text.verbalizer import score

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 40,
    "pad_token_id": 0,
}
WRITERS: dict[str, tuple[str, dict[str, Any], Traits]] = {
    "llama": ("LlamaForCausalLM", {"num_key_value_heads": 1}, Traits()),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2}, Traits()),
    "rwkv": (
        "RwkvForCausalLM",
        {"attention_hidden_size": 16},
        Traits(pads=False, continues=False, generates_from_memory=False),
    ),
    "mamba": ("MambaForCausalLM", {"state_size": 4}, Traits(continues=False)),
}


def _model(name: str, options: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    sizes = {key: value for key, value in SMALL.items() if "block_sizes" not in options or key != "num_hidden_layers"}
    return cls(cls.config_class(**{**sizes, **options})).eval()


@pytest.mark.parametrize("family", WRITERS)
def test_a_writers_scores_are_the_same_however_it_reads(family):
    name, options, expected = WRITERS[family]
    model = _model(name, options)
    found = find_traits(model, "m", pad=0, writes=True)
    assert found == expected
    assert traits_of(model) == found
    rows = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [15]]
    answers = [[3, 4, 2], [6, 2]]
    together = score(model, pad_prompts(rows, 0), answers)
    for number, row in enumerate(rows):
        prompt = pad_prompts([row], 0)
        with torch.no_grad():
            alone = torch.stack(
                [-nll(model, prompt, torch.tensor([a]), torch.ones(1, len(a), dtype=torch.long))[0] for a in answers]
            )
        assert torch.allclose(together[number], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "pads"),
    [
        ("BertForSequenceClassification", {}, True),
        ("FNetForSequenceClassification", {}, False),
        (
            "FunnelForSequenceClassification",
            {"d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 16, "block_sizes": [1, 1]},
            False,
        ),
    ],
)
def test_a_classifier_says_of_a_batch_what_it_says_of_its_rows(name, options, pads):
    model = _model(name, options)
    found = find_traits(model, "m", pad=0, writes=False)
    assert found.pads or not pads
    batch = {"input_ids": torch.tensor([[5, 6, 7, 0, 0, 0], [8, 9, 10, 11, 12, 13], [4, 4, 4, 0, 0, 0]])}
    batch["attention_mask"] = (batch["input_ids"] != 0).long()
    head = ClassifierHead(multi_label=False)
    with torch.no_grad():
        together = head.logits(model, batch)
        alone = torch.cat(
            [
                head.logits(model, {k: v[i : i + 1, : int(batch["attention_mask"][i].sum())] for k, v in batch.items()})
                for i in range(3)
            ]
        )
    assert torch.allclose(together, alone, atol=1e-5)


class _Odd(torch.nn.Module):
    """A decoder of one table whose logits are moved by padding."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(20, 20)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.table

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
        logits = self.table(input_ids).cumsum(dim=1)
        return transformers.modeling_outputs.CausalLMOutput(logits=logits)


def test_groups_put_logits_back_where_they_belong():
    model = _Odd()
    find_traits(model, "m", pad=0, writes=True)
    assert not traits_of(model).pads
    batch = pad_prompts([[5], [6, 7, 8], [9, 10], [11]], 0)
    logits = forward_padded(model, batch["input_ids"], batch["attention_mask"], keep=2).logits
    assert logits.shape == (4, 2, 20)
    assert torch.equal(logits[3, 1], model.table.weight[11])
    assert torch.equal(logits[2, 0], model.table.weight[9])
    logits.sum().backward()
    assert not model.table.weight.grad[0].any()  # padding was not read


def test_what_is_called_in_a_pass_is_known_and_draws_nothing():
    model = _model(*WRITERS["llama"][:2])
    model.model.tower = torch.nn.Linear(2, 2)
    before = torch.random.get_rng_state()
    called = called_in_a_pass(model, pad=0, writes=True)
    assert {"model.layers.0", "model.layers.1.mlp", "lm_head"} <= called and "model.tower" not in called
    assert torch.equal(before, torch.random.get_rng_state())
    assert not any(module._forward_pre_hooks for module in model.modules())
    model.forward = None  # type: ignore[assignment]
    assert called_in_a_pass(model, pad=0, writes=True) is None


def test_what_cannot_be_run_is_one_sentence_and_draws_nothing():
    model = _Odd()
    model.forward = None  # type: ignore[assignment]
    before = torch.random.get_rng_state()
    with pytest.raises(LayerSelectError, match="m cannot be run on the tokens of a text"):
        find_traits(model, "m", pad=0, writes=False)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_long_reason_ends_with_a_word():
    said = reason(ValueError("once upon a time " * 30))
    assert said.startswith("ValueError: once upon") and said.endswith((" a ...", " time ...", " upon ...", " once ..."))
