"""Tiny random models of many families, with what to call them with. Layers and their order are written by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 64


@dataclass(frozen=True)
class Family:
    """A model, the names of its layers in forward order, and its inputs."""

    build: Callable[[], nn.Module]
    layers: list[str]
    inputs: dict[str, Tensor]


def _names(*stacks: tuple[str, int]) -> list[str]:
    return [f"{path}.{number}" for path, count in stacks for number in range(count)]


def _made(name: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            return getattr(transformers, name)(getattr(transformers, config + "Config")(**options)).eval()

    return build


def _image(side: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.rand(1, 3, side, side)}


_IDS = torch.arange(3, 12)[None]
_TEXT = {"input_ids": _IDS}
_PAIR = {"input_ids": _IDS, "decoder_input_ids": _IDS}

_E = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
_B = {**_E, "vocab_size": VOCABULARY}
_V = {**_E, "image_size": 8, "patch_size": 4}
_D = {**_B, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_S = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": VOCABULARY,
}  # fmt: skip
_T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 2,
    "vocab_size": VOCABULARY,
}
_CONV = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 3, 1]}
_PYRAMID = {
    "num_encoder_blocks": 2, "depths": [2, 1], "hidden_sizes": [8, 16], "strides": [4, 2], "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
}  # fmt: skip

FAMILIES: dict[str, Family] = {
    "convnext": Family(
        _made("ConvNextForImageClassification", "ConvNext", **_CONV), _names(("convnext.encoder.stages", 4)), _image(32)
    ),
    "resnet": Family(
        _made("ResNetForImageClassification", "ResNet", embedding_size=8, layer_type="basic", **_CONV),
        _names(("resnet.encoder.stages", 4)), _image(64),
    ),
    "regnet": Family(
        _made("RegNetForImageClassification", "RegNet", embedding_size=8, groups_width=8, **_CONV),
        _names(("regnet.encoder.stages", 4)), _image(64),
    ),
    "swin": Family(
        _made("SwinForImageClassification", "Swin", image_size=32, patch_size=4, embed_dim=8, depths=[1, 2], num_heads=[2, 2],
              window_size=2),
        _names(("swin.encoder.layers", 2)), _image(32),
    ),
    "pvt": Family(
        _made("PvtForImageClassification", "Pvt", image_size=32, patch_sizes=[4, 2], sequence_reduction_ratios=[2, 1], **_PYRAMID),
        [*_names(("pvt.encoder.block.0", 2)), *_names(("pvt.encoder.block.1", 1))], _image(32),
    ),
    "poolformer": Family(
        _made("PoolFormerForImageClassification", "PoolFormer", depths=[2, 3], hidden_sizes=[8, 16], patch_sizes=[7, 3],
              strides=[4, 2], padding=[2, 1], num_encoder_blocks=2),
        [*_names(("poolformer.encoder.block.0", 2)), *_names(("poolformer.encoder.block.1", 3))], _image(32),
    ),
    "funnel": Family(
        _made("FunnelForSequenceClassification", "Funnel", vocab_size=VOCABULARY, d_model=16, block_sizes=[2, 3], n_head=2,
              d_head=8, d_inner=32),
        [*_names(("funnel.encoder.blocks.0", 2)), *_names(("funnel.encoder.blocks.1", 3))], _TEXT,
    ),
    "funnel with a decoder": Family(
        _made("FunnelForMaskedLM", "Funnel", vocab_size=VOCABULARY, d_model=16, block_sizes=[2, 2], n_head=2, d_head=8, d_inner=32,
              num_decoder_layers=2),
        [*_names(("funnel.encoder.blocks.0", 2)), *_names(("funnel.encoder.blocks.1", 2)), *_names(("funnel.decoder.layers", 2))],
        _TEXT,
    ),
    "vit": Family(_made("ViTForImageClassification", "ViT", **_V), _names(("vit.layers", 3)), _image(8)),
    "whisper": Family(
        _made("WhisperForConditionalGeneration", "Whisper", **_S, num_mel_bins=8, max_source_positions=10, max_target_positions=10,
              pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1),
        _names(("model.encoder.layers", 2), ("model.decoder.layers", 3)),
        {"input_features": torch.rand(1, 8, 20), "decoder_input_ids": _IDS},
    ),
    "t5": Family(
        _made("T5ForConditionalGeneration", "T5", **_T5), _names(("encoder.block", 2), ("decoder.block", 3)), _PAIR
    ),
    "experts in an encoder-decoder": Family(
        _made("SwitchTransformersForConditionalGeneration", "SwitchTransformers", **_T5, num_experts=3,
              num_sparse_encoder_layers=1, num_sparse_decoder_layers=1),
        _names(("encoder.block", 2), ("decoder.block", 3)), _PAIR,
    ),
    "bart": Family(
        _made("BartForConditionalGeneration", "Bart", **_S), _names(("model.encoder.layers", 2), ("model.decoder.layers", 3)), _TEXT
    ),
    "mamba": Family(
        _made("MambaForCausalLM", "Mamba", vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=3, state_size=4),
        _names(("backbone.layers", 3)), _TEXT,
    ),
    "attention and state space": Family(
        _made("JambaForCausalLM", "Jamba", **_D, num_experts=2, num_experts_per_tok=1, attn_layer_period=2, attn_layer_offset=1,
              expert_layer_period=2, expert_layer_offset=1, mamba_d_state=4),
        _names(("model.layers", 3)), _TEXT,
    ),
    "experts": Family(
        _made("MixtralForCausalLM", "Mixtral", **_D, num_local_experts=4), _names(("model.layers", 3)), _TEXT
    ),
    "vision and text, one after the other": Family(
        _made("BlipForConditionalGeneration", "Blip", text_config={**_B, "encoder_hidden_size": 16}, vision_config=_V),
        _names(("vision_model.encoder.layers", 3), ("text_decoder.bert.encoder.layer", 3)), {**_TEXT, **_image(8)},
    ),
    "xlnet": Family(
        _made("XLNetForSequenceClassification", "XLNet", vocab_size=VOCABULARY, d_model=16, n_layer=3, n_head=2, d_inner=32),
        _names(("transformer.layer", 3)), _TEXT,
    ),
    "convolutions and a transformer": Family(
        _made("Wav2Vec2ForSequenceClassification", "Wav2Vec2", **_E, conv_dim=[8, 8], conv_stride=[5, 2], conv_kernel=[10, 3],
              num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2),
        _names(("wav2vec2.feature_extractor.conv_layers", 2), ("wav2vec2.encoder.layers", 3)),
        {"input_values": torch.rand(1, 400)},
    ),
    "a backbone and a decoder of depth": Family(
        _made("GLPNForDepthEstimation", "GLPN", num_encoder_blocks=4, depths=[1, 2, 1, 1], hidden_sizes=[8] * 4,
              num_attention_heads=[1] * 4, decoder_hidden_size=8),
        [*_names(("glpn.encoder.block.0", 1), ("glpn.encoder.block.1", 2), ("glpn.encoder.block.2", 1), ("glpn.encoder.block.3", 1)),
         *(f"decoder.stages.{number}" for number in (1, 2, 3))],
        _image(64),
    ),
}  # fmt: skip

#: Hierarchical models whose attribute names changed between releases of transformers: their blocks or stages, counted.
SEGFORMER = _made(
    "SegformerForImageClassification",
    "Segformer",
    patch_sizes=[7, 3],
    sr_ratios=[2, 1],
    decoder_hidden_size=16,
    **_PYRAMID,
)


def clip() -> nn.Module:
    """Two towers beside each other."""
    return _made("CLIPModel", "CLIP", text_config=_B, vision_config=_V)()
