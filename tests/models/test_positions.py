"""How many tokens a model reads: what its tables of positions hold, not what its configuration says."""

from __future__ import annotations

import pytest
import torch
import transformers
from layerselect.models.positions import usable_positions

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}
OFFSET = {
    "Roberta": {},
    "XLMRoberta": {},
    "Camembert": {},
    "MPNet": {},
    "IBert": {},
    "Longformer": {"attention_window": 4},
    "Data2VecText": {},
    "RobertaPreLayerNorm": {},
    "XLMRobertaXL": {},
    "Xmod": {"default_language": "en_XX"},
    "MarkupLM": {},
}


def _model(name: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**{**SMALL, **options})).eval()


@pytest.mark.parametrize("name", OFFSET)
def test_positions_behind_the_padding_are_the_ones_that_are_read(name):
    model = _model(name, pad_token_id=1, max_position_embeddings=22, **OFFSET[name])
    limit = usable_positions(model)
    assert limit == 20
    ids = torch.full((1, limit), 5)
    with torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_another_padding_token_leaves_another_number():
    assert usable_positions(_model("Roberta", pad_token_id=3, max_position_embeddings=22)) == 18


@pytest.mark.parametrize(
    ("name", "options", "limit"),
    [
        ("Bert", {"max_position_embeddings": 22}, 22),
        ("GPT2", {"n_positions": 22, "n_embd": 16, "n_layer": 1, "n_head": 2}, 22),
        ("XLNet", {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}, None),
        ("OPT", {"max_position_embeddings": 22, "ffn_dim": 16, "word_embed_proj_dim": 16}, 22),
        ("Mamba", {"state_size": 4}, None),
        ("Bloom", {"n_layer": 1, "n_head": 2}, None),
    ],
)
def test_others_read_what_they_say_or_have_no_limit(name, options, limit):
    assert usable_positions(_model(name, **options)) == limit


@pytest.mark.parametrize("said", [-1, 0])
def test_a_number_below_one_is_no_limit(said):
    model = _model("Bert", max_position_embeddings=22)
    model.config.max_position_embeddings = said
    assert usable_positions(model) is None
