import json
import logging
import shutil

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.models.adapters import AdapterConfig, add_adapter
from layerselect.models.demo import build_demo_causal_lm, build_demo_classifier
from layerselect.models.load import PAIR_SEPARATOR, load_causal_lm, load_classifier, model_identity
from layerselect.state_cache.stacks import stacks_at
from layerselect.tasks.text.formats import InputFormat

from tests.helpers import tiny_intent


def test_an_encoder_gets_a_head_and_says_what_is_fresh(bert_folder):
    loaded = load_classifier(bert_folder, ["a", "b", "c"], multi_label=False)
    assert loaded.model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert loaded.layer_names == [f"bert.encoder.layer.{i}" for i in range(3)]
    assert loaded.fresh == ["bert.pooler", "classifier"]
    assert loaded.separator is None
    assert not loaded.model.training


def test_a_trained_pooler_is_not_fresh(tmp_path):
    folder = tiny_intent.save_bert(tmp_path / "m", trained_pooler=True)
    assert load_classifier(folder, ["a", "b"], multi_label=False).fresh == ["classifier"]


def test_a_decoder_gets_a_padding_token_and_a_separator(llama_folder):
    loaded = load_classifier(llama_folder, ["a", "b"], multi_label=True)
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id
    assert loaded.separator == PAIR_SEPARATOR
    assert loaded.fresh == ["score"]
    assert loaded.model.config.problem_type == "multi_label_classification"


def test_a_writer_is_the_language_model_itself(llama_folder):
    loaded = load_causal_lm(llama_folder)
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert loaded.fresh == []
    assert loaded.writes
    assert loaded.layer_names == [f"model.layers.{i}" for i in range(3)]
    assert loaded.separator == PAIR_SEPARATOR
    assert loaded.tokenizer.padding_side == "left"
    assert not loaded.model.training


def _t5(folder):
    from transformers import T5Config, T5ForConditionalGeneration

    T5ForConditionalGeneration(
        T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=64, decoder_start_token_id=0)
    ).save_pretrained(folder)
    tiny_intent.tokenizer().save_pretrained(folder)
    return folder


def _headless(folder):
    first = load_classifier(tiny_intent.save_llama(folder / "llama"), ["a", "b"], multi_label=False)
    first.model.save_pretrained(folder / "classifier")
    first.tokenizer.save_pretrained(folder / "classifier")
    return folder / "classifier"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (tiny_intent.save_bert, "reads its input in both directions"),
        (_t5, "is no decoder and so cannot write: use one"),
        (_headless, "has no language-model head"),
    ],
)
def test_what_cannot_write_is_refused_in_one_sentence(tmp_path, make, words):
    with pytest.raises(LayerSelectError, match=words) as caught:
        load_causal_lm(make(tmp_path))
    assert "--head classifier" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_padding_does_not_change_what_a_decoder_reads(llama_folder):
    loaded = load_classifier(llama_folder, ["a", "b"], multi_label=False)
    short, long = "The river leaves", "My sister carries the bridge in the evening ."
    together = loaded.tokenizer([short, long], padding=True, return_tensors="pt")
    alone = loaded.tokenizer([short], return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(**together).logits[:1], loaded.model(**alone).logits)


def test_a_head_of_another_size_is_replaced(tmp_path, bert_folder):
    first = load_classifier(bert_folder, list("abcde"), multi_label=False)
    first.model.save_pretrained(tmp_path)
    first.tokenizer.save_pretrained(tmp_path)
    second = load_classifier(tmp_path, ["a", "b"], multi_label=False)
    assert second.model.classifier.out_features == 2
    assert "classifier" in second.fresh


def test_dropout_can_be_overridden(bert_folder):
    loaded = load_classifier(bert_folder, ["a", "b"], multi_label=False, dropout=0.37)
    assert {m.p for m in loaded.model.modules() if isinstance(m, torch.nn.Dropout)} == {0.37}


def test_identity_tells_architectures_apart(bert_folder, llama_folder):
    bert, llama = (load_classifier(f, ["a", "b"], multi_label=False).model for f in (bert_folder, llama_folder))
    assert model_identity(bert) != model_identity(llama)
    assert model_identity(bert)["num_hidden_layers"] == 3


def _without_weights(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")


def _needs_code(folder):
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="made-up", auto_map={"AutoConfig": "x.Config"})
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_without_weights, "no weights in safetensors format"),
        (_needs_code, "code from its repository"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"nonsense"), "no file in safetensors format"),
    ],
)
def test_a_damaged_folder_is_one_sentence(tmp_path, bert_folder, damage, words):
    folder = tmp_path / "model"
    shutil.copytree(bert_folder, folder)
    damage(folder)
    with pytest.raises(LayerSelectError, match=words) as caught:
        load_classifier(folder, ["a", "b"], multi_label=False)
    assert "\n" not in str(caught.value)


def test_a_model_without_layers(tmp_path):
    folder = tiny_intent.save_bert(tmp_path / "m", layers=0)
    with pytest.raises(LayerSelectError, match="no stack of repeated blocks"):
        load_classifier(folder, ["a", "b"], multi_label=False)


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "not a name", "~/nowhere-either"])
def test_a_missing_folder_never_asks_the_hub(source):
    with pytest.raises(LayerSelectError, match="there is no model folder"):
        load_classifier(source, ["a", "b"], multi_label=False)


def test_a_gguf_file_is_pointed_to_unpack(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(LayerSelectError, match="doctor --unpack"):
        load_classifier(path, ["a", "b"], multi_label=False)


def test_the_demo_model_is_the_same_every_time():
    texts = [InputFormat().write(row)[0] for row in tiny_intent.revisions()]
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(build_demo_classifier(texts, ["a", "b"], multi_label=False))
    assert made[0].tokenizer.get_vocab() == made[1].tokenizer.get_vocab()
    first, second = (m.model.state_dict() for m in made)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(made[0].layer_names) == 6
    assert "bert.embeddings" in made[0].fresh  # nothing of it was pretrained


def test_the_demo_writer_is_the_same_every_time_and_knows_the_labels():
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(build_demo_causal_lm(["a b a b"], ["fluency", "not clear"]))
    assert made[0].tokenizer.tokenize("fluency, not clear") == ["fluency", "[UNK]", "not", "clear"]
    first, second = (m.model.state_dict() for m in made)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {"model.embed_tokens", "lm_head"} <= set(made[0].fresh)


def test_the_demo_tokenizer_spells_words_it_has_not_seen():
    loaded = build_demo_classifier(["abc abc def def cab"], ["a", "b"], multi_label=False)
    assert loaded.tokenizer.tokenize("fed abc") == ["f", "##e", "##d", "abc"]
    assert loaded.tokenizer("abc", "def")["token_type_ids"] == [0, 0, 0, 1, 1]


def test_a_tower_for_images_takes_no_part(tmp_path, caplog):
    from families.small import save

    save("modernvbert", tmp_path / "m")
    with caplog.at_level(logging.WARNING):
        loaded = load_classifier(tmp_path / "m", ["a", "b"], multi_label=False)
    assert len(loaded.layer_names) == 4 and not any("vision" in name for name in (*loaded.layer_names, *loaded.fresh))
    assert "4 of its 8 layers do not run on a text" in caplog.text
    model = add_adapter(loaded, AdapterConfig(rank=2))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {"head", "classifier"} <= {name.split(".")[2] for name in trained}
    assert not any("vision" in name for name in trained)
    # Nor do hidden states at a cut wait for it.
    layers = [model.get_submodule(f"base_model.model.{name}") for name in loaded.layer_names]
    assert [stack.below for stack in stacks_at(model, layers, 1)] == [[layers[0]]]


def test_weights_are_not_halved_on_the_way_to_evaluation(tmp_path):
    from transformers import RwkvConfig, RwkvForCausalLM

    RwkvForCausalLM(
        RwkvConfig(hidden_size=16, attention_hidden_size=16, num_hidden_layers=4, vocab_size=512, rescale_every=1)
    ).save_pretrained(tmp_path)
    tiny_intent.tokenizer().save_pretrained(tmp_path)
    model = load_causal_lm(tmp_path).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for training in (True, False):
        model.train(training)
        with torch.no_grad():
            model(input_ids=torch.tensor([[5, 6, 7]]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
