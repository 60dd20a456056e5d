"""Discovery of layers in many families of models."""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.layers.find import split_parameters
from torch import nn

from tests.helpers.models import hugging_face, with_lora
from tests.helpers.tiny_zoo import FAMILIES, SEGFORMER, clip


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_and_the_order_in_which_they_run(name):
    family = FAMILIES[name]
    model = family.build()
    found = split_parameters(model)
    assert found.names == family.layers
    inside = [id(p) for layer in found.layers for _, p in layer]
    everything = inside + [id(p) for _, p in found.outer]
    assert sorted(everything) == sorted({id(p) for p in model.parameters() if p.requires_grad})
    ran: list[str] = []
    for layer, module in zip(found.names, found.modules, strict=True):
        module.register_forward_pre_hook(lambda *_, layer=layer: ran.append(layer))
    with torch.no_grad():
        model(**family.inputs)
    assert list(dict.fromkeys(ran)) == family.layers


def test_two_towers():
    names = split_parameters(clip()).names
    assert names == [f"{tower}.encoder.layers.{i}" for tower in ("text_model", "vision_model") for i in range(3)]


def test_segformer_has_its_stages_or_its_blocks():
    found = split_parameters(SEGFORMER())
    assert len(found.names) in (2, 3)
    assert all("patch_embeddings" not in name and "head" not in name for name in found.names)


@pytest.mark.parametrize(("name", "blocks"), [("convnext", 6), ("resnet", 6), ("regnet", 6), ("swin", 3)])
def test_the_blocks_of_stages_are_one_option_away(name, blocks, caplog):
    family = FAMILIES[name]
    model = family.build()
    with caplog.at_level("INFO", logger="layerselect"):
        assert split_parameters(model).names == family.layers
    (said,) = [record for record in caplog.records if "these are stages" in record.getMessage()]
    count, expression = said.args
    found = split_parameters(model, expression)
    assert len(found.names) == count == blocks
    assert all(any(block.startswith(f"{stage}.") for stage in family.layers) for block in found.names)


@pytest.mark.parametrize(
    "name", ["vit", "t5", "experts", "experts in an encoder-decoder", "attention and state space", "funnel", "xlnet"]
)
def test_blocks_are_not_taken_for_stages(name, caplog):
    with caplog.at_level("INFO", logger="layerselect"):
        split_parameters(FAMILIES[name].build())
    assert "these are stages" not in caplog.text


TARGETS = {
    "convnext": ["pwconv1", "pwconv2"],
    "resnet": ["convolution"],
    "pvt": ["query", "value"],
    "funnel": ["q_head", "v_head"],
    "poolformer": ["conv1", "conv2"],
}


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.parametrize("name", TARGETS)
def test_adapters_do_not_change_the_layers(name, kind):
    from peft import IA3Config, LoraConfig, get_peft_model

    family = FAMILIES[name]
    targets = TARGETS[name]
    config = (
        LoraConfig(r=2, target_modules=targets)
        if kind == "lora"
        else IA3Config(target_modules=targets, feedforward_modules=targets[-1:])
    )
    model = get_peft_model(family.build(), config)
    selector = FastSelector(model, "topk:k=1", mode="freeze")
    optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    assert selector.layer_names == [f"base_model.model.{layer}" for layer in family.layers]
    for _ in range(2):
        model(**family.inputs, labels=torch.tensor([1])).loss.backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
    assert len(selector.selected()) == 1
    selector.close()


def test_a_frozen_tower_beside_an_adapted_one():
    model = FAMILIES["vision and text, one after the other"].build()
    model.vision_model.requires_grad_(False)
    names = [f"text_decoder.bert.encoder.layer.{i}" for i in range(3)]
    assert split_parameters(model).names == names
    adapted = with_lora(FAMILIES["vision and text, one after the other"].build(), target_modules=["query", "value"])
    assert split_parameters(adapted).names == [f"base_model.model.{name}" for name in names]


def _prompts():
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

    common = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    return {
        "p-tuning": PromptEncoderConfig(**common, encoder_hidden_size=8),
        "p-tuning, recurrent": PromptEncoderConfig(
            **common, encoder_hidden_size=8, encoder_reparameterization_type="LSTM", encoder_num_layers=2
        ),
        "prefix, projected": PrefixTuningConfig(**common, encoder_hidden_size=8, prefix_projection=True),
        "prefix": PrefixTuningConfig(**common),
        "prompt": PromptTuningConfig(**common),
    }


@pytest.mark.parametrize("name", ["p-tuning", "p-tuning, recurrent", "prefix, projected", "prefix", "prompt"])
def test_prompt_encoders_are_no_layers(name):
    from peft import get_peft_model

    model = get_peft_model(hugging_face("llama"), _prompts()[name])
    with pytest.raises(
        LayerSelectError, match=r"model\.layers'\) hold no trainable parameter.*'prompt_encoder\."
    ) as error:
        FastSelector(model)
    assert "layers=" in str(error.value) and "\n" not in str(error.value)
    # With layers that train as well, prompts are outer parameters.
    model.base_model.model.layers.requires_grad_(True)
    found = split_parameters(model)
    assert found.names == [f"base_model.model.layers.{i}" for i in range(4)]
    prompts = {n for n, p in model.named_parameters() if p.requires_grad and n.startswith("prompt_encoder")}
    assert prompts and prompts <= {n for n, _ in found.outer}


def test_a_wrapper_of_sentence_transformers_kind():
    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.auto_model = hugging_face("bert").bert

        def forward(self, features):
            return self.auto_model(**features)

    class SentenceTransformer(nn.Sequential):
        pass

    wrapped = SentenceTransformer(Transformer(), nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)))
    assert split_parameters(wrapped).names == [f"0.auto_model.encoder.layer.{i}" for i in range(4)]
