"""What a plan adds up, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from layerselect.errors import LayerSelectError
from layerselect.models.blank import blank_model
from layerselect.tasks.plan import PlanSettings, make_plan
from layerselect.tasks.plan.page import write_plan_page
from layerselect.tasks.plan.plan import plan_way
from layerselect.tasks.plan.steps import reserved
from layerselect.tasks.plan.ways import WAYS

MODELS = Path(__file__).parent / "models"
#: As their makers count them, with the language-model head.
PARAMETERS = {
    "DeepSeek-R1-Distill-Llama-8B": 8_030_261_248,
    "Llama-2-13B": 13_015_864_320,
    "Llama-3.1-8B": 8_030_261_248,
    "Mistral-7B-v0.3": 7_248_023_552,
    "Phi-2": 2_779_683_840,
    "Qwen2.5-14B": 14_770_033_664,
    "Qwen3-8B": 8_190_735_360,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("llama") / "config.json"
    path.write_text(json.dumps(LLAMA))
    return str(path)


@pytest.fixture(scope="module")
def plan(llama):
    return make_plan(PlanSettings(model=llama, gpu="1GB", batch_size=8, max_length=16))


def row_of(way: str, **settings):
    """One row, without the steps that only the others need."""
    return plan_way(PlanSettings(**settings), next(each for each in WAYS if each.name == way))


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_papers_models_have_as_many_weights_as_their_makers_say(name):
    model = blank_model(MODELS / f"{name}.json", writes=True).model
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert all(p.is_meta for p in model.parameters())


def test_every_way_of_training_has_a_row_for_each_way_of_holding(plan):
    rows = [(row.weights_in, row.checkpointing, row.way) for row in plan.rows]
    adapters = ["all", "ir", "top-half", "cost-aware", "cached"]
    assert rows == [
        (held, again, way)
        for held in ("bfloat16", "8bit", "4bit")
        for again in (False, True)
        for way in (["full", *adapters] if held == "bfloat16" else adapters)
    ]


def test_what_trains_less_holds_less_and_costs_less(plan):
    for again in (False, True):
        rows = {row.way: row for row in plan.rows if row.weights_in == "bfloat16" and row.checkpointing is again}
        assert rows["cached"].peak < rows["top-half"].peak < rows["all"].peak == rows["ir"].peak
        assert rows["cached"].arithmetic < rows["top-half"].arithmetic < rows["all"].arithmetic
        assert rows["cost-aware"].usual_peak <= rows["ir"].usual_peak <= rows["ir"].peak
        assert rows["all"].optimizer == 2 * rows["top-half"].optimizer - _head_state(plan)
    assert plan.row("all", checkpointing=True).activations < plan.row("all", checkpointing=False).activations
    assert plan.row("all", checkpointing=False).arithmetic == 1.0


def _head_state(plan) -> int:
    """The head trains in either row: its state stands in both."""
    return 2 * 4 * plan.settings.classes * LLAMA["hidden_size"] + 4


def test_the_largest_batch_fits_and_the_next_one_does_not(llama, plan):
    for row in (plan.row("all", checkpointing=False), plan.row("top-half", checkpointing=True)):
        assert row.fits
        held = {"quantize": "none", "gradient_checkpointing": "nonreentrant" if row.checkpointing else "none"}
        for batch, fits in ((row.largest_batch, True), (row.largest_batch + 1, False)):
            found = row_of(row.way, model=llama, gpu="1GB", batch_size=batch, max_length=16, **held)
            assert found.fits is fits
            assert (reserved(found.peak, on_gpu=True) <= 10**9) is fits


def test_gradients_stay_while_batches_accumulate(llama):
    options = {"model": llama, "device": "cpu", "batch_size": 1, "max_length": 4, "adapter": "none", "quantize": "none"}
    one, more = (row_of("all", **options, accumulate=count, gradient_checkpointing="none") for count in (1, 4))
    assert one.peak < more.peak <= one.peak + one.gradients


@pytest.mark.parametrize(("named", "tokens"), [({}, 64), ({"format": "contextual"}, 384), ({"task": "revise"}, 536)])
def test_without_a_length_an_input_is_as_long_as_the_command_has_it(llama, named, tokens):
    assert make_plan(PlanSettings(model=llama, gpu="24GB", **named)).tokens == tokens


def test_a_format_that_is_none_is_named(llama):
    with pytest.raises(LayerSelectError, match="there is no input format 'pears'"):
        PlanSettings(model=llama, format="pears")


def test_a_generator_keeps_the_logits_of_what_it_writes(llama):
    options = {"model": llama, "device": "cpu", "batch_size": 2, "quantize": "none", "gradient_checkpointing": "none"}
    short = make_plan(PlanSettings(**options, task="revise", max_length=32))
    assert short.tokens == 2 * 32 + 24
    long = row_of("all", **options, task="revise", max_length=64)
    assert short.row("all").activations < long.activations


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_packed_weights_take_what_bitsandbytes_takes(llama, quantize):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    options = {"model": llama, "device": "cpu", "batch_size": 1, "max_length": 4, "gradient_checkpointing": "none"}
    row, plain = (row_of("all", **options, quantize=held) for held in (quantize, "none"))
    model = blank_model(llama, writes=False).model
    shapes = [m.weight.shape for m in model.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    packed = sum(_packed(bitsandbytes, shape, quantize) for shape in shapes)
    assert plain.weights - row.weights == pytest.approx(sum(4 * s.numel() for s in shapes) - packed, rel=0.01)


def _packed(bitsandbytes, shape, quantize) -> int:
    """What one map holds, asked of the library itself."""
    if quantize == "8bit":
        values, factors, _ = bitsandbytes.functional.int8_vectorwise_quant(torch.randn(shape, dtype=torch.float16))
        return values.nbytes + factors.nbytes
    values, state = bitsandbytes.functional.quantize_4bit(
        torch.randn(shape), quant_type="nf4", compress_statistics=True
    )
    inner = state.state2
    return sum(t.nbytes for t in (values, state.absmax, state.code, state.offset, inner.absmax, inner.code))


def test_the_page_holds_every_row_and_escapes_what_the_user_wrote(tmp_path, llama, plan):
    pytest.importorskip("jinja2")
    folder = tmp_path / "<b>bold</b>"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    made = make_plan(PlanSettings(model=str(folder), gpu="1GB", batch_size=2, max_length=8, quantize="4bit"))
    write_plan_page(tmp_path / "plan.html", made)
    text = (tmp_path / "plan.html").read_text()
    assert "<b>bold" not in text
    assert text.count("<tr") == 1 + len(made.rows)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpu": "much"}, "--gpu"),
        ({"gpu": "24GB", "device": "cpu"}, "leave one of them out"),
        ({"optim": "lomo"}, "--optim lomo"),
        ({"adapter": "none", "quantize": "4bit"}, "--adapter none"),
        ({"batch_size": 0}, "--batch-size"),
        ({"classes": 0}, "--classes"),
        ({"model": "/nowhere"}, "/nowhere"),
        ({"model": "~nobody-at-all/model"}, "~nobody-at-all/model"),
        ({"targets": "nothing_like_it"}, "nothing_like_it"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(llama, options, words):
    with pytest.raises(LayerSelectError) as caught:
        make_plan(PlanSettings(**{"model": llama, "batch_size": 1, "max_length": 4, **options}))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "no JSON object"),
        ('{"model_type": "nobody"}', "does not know"),
        ('{"model_type": "llama", "num_hidden_layers": 1000000}', "more than"),
        ('{"model_type": 7}', "model_type"),
    ],
)
def test_a_damaged_configuration_is_one_sentence(tmp_path, content, words):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(LayerSelectError) as caught:
        make_plan(PlanSettings(model=str(tmp_path), batch_size=1, max_length=4))
    assert words in str(caught.value)


def test_what_an_architecture_cannot_do_is_left_out_or_refused_where_it_is_asked_for(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "mpnet", "vocab_size": 100, "max_position_embeddings": 32, **sizes}))
    asked = {"model": str(path), "device": "cpu", "batch_size": 1, "max_length": 8, "quantize": "none"}
    found = make_plan(PlanSettings(**asked))
    assert not any(row.checkpointing for row in found.rows)
    assert len(found.left_out) == 1 and "--gradient-checkpointing" in found.left_out[0]
    with pytest.raises(LayerSelectError, match="cannot compute its layers again"):
        make_plan(PlanSettings(**asked, gradient_checkpointing="nonreentrant"))
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
    path.write_text(json.dumps({"model_type": "gpt2", "vocab_size": 100, "pad_token_id": 0, **sizes}))
    found = make_plan(PlanSettings(**{**asked, "quantize": "all", "gradient_checkpointing": "none"}))
    assert {row.weights_in for row in found.rows} == {"float32"}
    assert [why.split(":")[0] for why in found.left_out] == ["--quantize 8bit", "--quantize 4bit"]
    with pytest.raises(LayerSelectError, match="no linear map"):
        make_plan(PlanSettings(**{**asked, "quantize": "4bit"}))
