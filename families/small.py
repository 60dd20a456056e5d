"""Small configurations of a family, and the model and the tokenizer that a folder of it would hold.

A default configuration is made and its sizes are replaced by small ones under the names that configurations use for
them. Where a family asks for more, :data:`OPTIONS` says it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast
from transformers.models.auto import modeling_auto

VOCABULARY = 400
POSITIONS = 192

#: What a small model has, by the names that configurations have for it.
SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "model_dim", "lru_width"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 4),
    **dict.fromkeys(("num_decoder_layers", "encoder_layers", "decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
         "num_encoder_attention_heads", "num_decoder_attention_heads", "swa_num_attention_heads"), 4,
    ),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "d_inner", "n_inner", "hidden_dim",
                     "ffn_hidden_size", "feed_forward_size", "dff", "dense_intermediate_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), POSITIONS),
    **dict.fromkeys(("head_dim", "d_kv", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "o_lora_rank",
                     "swa_head_dim", "global_head_dim"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "num_key_value_heads",
                     "swa_num_key_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size",
                     "moe_shared_expert_intermediate_size", "index_head_dim"), 16),
    **dict.fromkeys(("n_shared_experts", "n_group", "topk_group", "mamba_n_groups", "mamba_ngroups", "n_groups"), 1),
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_num_heads": 8, "mamba_d_head": 8, "mamba_head_dim": 8, "mamba_d_state": 8,
       "ssm_state_size": 8, "mamba_chunk_size": 16, "chunk_size": 16, "state_size": 8, "index_topk": POSITIONS, "vocab_size": VOCABULARY,
}  # fmt: skip
#: Sizes that a default configuration may leave open.
_MAY_BE_OPEN = (
    "num_key_value_heads",
    "head_dim",
    "n_inner",
    "num_experts_per_tok",
    "n_group",
    "topk_group",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
)

#: Of the families that need something else: what, or ``None`` for a size that stays as it is.
OPTIONS: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            name: {"rope_type": "default", "rope_theta": 10000.0} for name in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deberta": {"max_relative_positions": 32},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "dots3_note": {"num_key_value_heads": 4},
    "dots3_note_text": {"num_key_value_heads": 4},
    "esm": {"vocab_size": VOCABULARY, "mask_token_id": 4, "position_embedding_type": "absolute"},
    "esmc": {"num_key_value_heads": 4},
    "falcon": {"head_dim": None},
    "falcon_h1": {"mamba_expand": 2},
    "funnel": {"num_hidden_layers": None, "block_sizes": [2, 2], "d_head": 8},
    "gemma3n_text": {
        "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0] * 4, "intermediate_size": [48] * 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "gemma4_text": {
        "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 32},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 4},
    "kimi_linear": {
        "layer_types": ["linear_attention", "full_attention"] * 2, "num_key_value_heads": 4, "linear_head_dim": 8, "linear_num_heads": 4,
    },
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "lilt": {"hidden_size": 48},
    "mistral4": {"head_dim": None, "num_key_value_heads": 4},
    "longformer": {"attention_window": 32},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 8},
    "mamba2": {"num_heads": 8, "expand": 2, "hidden_size": 32, "head_dim": 8},
    "nemotron_h": {"layers_block_type": ["mamba", "moe", "attention", "moe"]},
    "neomme": {"head_dim": 16},
    "perceiver": {
        "d_latents": 32, "num_latents": 8, "num_blocks": 2, "num_self_attends_per_block": 2, "num_self_attention_heads": 4,
        "num_cross_attention_heads": 4,
    },
    "prophetnet": {"num_hidden_layers": None, "ngram": 2},
    "qwen4_exp_text": {
        "indexer_budget": 32, "indexer_compress_ratio": 4, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    },
    "reformer": {
        "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 24], "attn_layers": ["local", "lsh"] * 2, "is_decoder": False,
        "attention_head_size": 8, "feed_forward_size": 48, "num_buckets": 4, "hash_seed": 7,
    },
    "roc_bert": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8, "pronunciation_embed_dim": 8, "shape_embed_dim": 8},
    "xlnet": {"max_position_embeddings": None},
    "t5": {"decoder_start_token_id": 0},
    "xlstm": {"v_head_dim": None, "hidden_size": 128, "num_heads": 2},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 6, "layer_types": ["mamba", "mamba", "hybrid", "mamba", "hybrid", "mamba"], "attention_head_dim": 16,
        "attention_hidden_size": 64, "n_mamba_heads": 2,
    },
    "zamba2": {"num_hidden_layers": 6, "layer_types": None, "layers_block_type": ["mamba", "hybrid"] * 3, "num_mem_blocks": 1},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip

_TEXT = [
    "The old bridge keeps a small plan in the evening.",
    "A student moves every letter with great care.",
    "clarity fluency style",
]


def families() -> list[str]:
    """Every family that may classify or write text, by the name that its configuration has."""
    return sorted(
        {
            *modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            *modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
            *modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
            *modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        }
    )


def kind(family: str) -> str:
    """What a folder of the family holds: ``seq2seq``, ``encoder``, ``decoder`` or ``classifier``."""
    if family in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "seq2seq"
    if family in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "encoder"
    return "decoder" if family in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "classifier"


_AUTO = {
    "seq2seq": transformers.AutoModelForSeq2SeqLM,
    "encoder": transformers.AutoModelForMaskedLM,
    "decoder": transformers.AutoModelForCausalLM,
    "classifier": transformers.AutoModelForSequenceClassification,
}


def configuration(family: str, marks: Mapping[str, int]) -> Any:
    """A small configuration.

    Args:
        marks: the numbers of the tokenizer's marks, by the names that configurations have for them.
    """
    cls = CONFIG_MAPPING[family]
    options = _options(cls(), marks)
    for name, value in OPTIONS.get(family, {}).items():
        options.pop(name, None)
        if value is not None:
            options[name] = value
    return cls(**options)


def _options(config: Any, marks: Mapping[str, int]) -> dict[str, Any]:
    """The sizes of a configuration and of its parts."""
    options = _sizes(config, marks)
    for name in getattr(config, "sub_configs", None) or {}:
        part = getattr(config, name, None)
        if part is not None:
            options[name] = {**({"model_type": part.model_type} if part.model_type else {}), **_options(part, marks)}
            if part.model_type in OPTIONS:
                options[name].update(OPTIONS[part.model_type])
    return options


def _sizes(config: Any, marks: Mapping[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # Where keys and values are compressed, each head has its own.
    heads = {"num_key_value_heads": 4} if _read(config, "kv_lora_rank") else {}
    for name, value in {**SIZES, **heads, **marks}.items():
        with contextlib.suppress(AttributeError, KeyError, NotImplementedError):
            present = _read(config, name)
            open_size = present is None and name in _MAY_BE_OPEN and hasattr(config, name)
            if isinstance(present, int) or (isinstance(present, list) and name == "eos_token_id") or open_size:
                found[name] = value
    return found


def _read(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception as error:  # some refuse to say what differs from layer to layer: these have it
        if "PerLayer" in type(error).__name__:
            return 0
        raise


def save(family: str, folder: Path) -> Any:
    """Writes a folder of the family, as ``save_pretrained`` does, and returns the model's class."""
    what = kind(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer, marks = _tokenizer(what, family)
        torch.manual_seed(0)
        model = _AUTO[what].from_config(configuration(family, marks))
        if (size := sum(p.numel() for p in model.parameters())) > 12_000_000:
            raise ValueError(f"its small configuration has {size / 1e6:.0f} million parameters")
        _settle_biases(model)
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return type(model)


def _settle_biases(model: torch.nn.Module) -> None:
    """No bias is exactly zero throughout: a pretrained model has none such, and what has one is taken for never
    trained.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and not bool(parameter.any()):
                parameter.normal_(std=0.01)


def _tokenizer(what: str, family: str) -> tuple[Any, dict[str, int]]:
    """As such families have it: decoders with no padding token, encoders with marks around the parts of a pair."""
    if what == "decoder":
        tokenizer = _bpe(["<unk>", "<s>", "</s>"])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
        whole = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
        return whole, {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    second = getattr(CONFIG_MAPPING[family](), "pad_token_id", 0) == 1
    first, close, pad = ("<s>", "</s>", "<pad>") if second else ("[CLS]", "[SEP]", "[PAD]")
    order = [first, pad, close, "[UNK]", "[MASK]"] if second else [pad, "[UNK]", first, close, "[MASK]"]
    tokenizer = _bpe(order)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {close}", pair=f"{first} $A {close} $B {close}",
        special_tokens=[(token, order.index(token)) for token in (first, close)],
    )  # fmt: skip
    ends = {"bos_token": first, "eos_token": close} if second or what == "seq2seq" else {}
    whole = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        cls_token=first,
        sep_token=close,
        unk_token="[UNK]",
        mask_token="[MASK]",
        **ends,
    )
    marks = {"pad_token_id": order.index(pad), "bos_token_id": order.index(first), "eos_token_id": order.index(close)}
    return whole, {**marks, **({"decoder_start_token_id": order.index(close)} if what == "seq2seq" else {})}


def _bpe(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT * 3, trainer)
    return tokenizer
