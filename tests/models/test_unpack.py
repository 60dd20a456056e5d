import hashlib
import json

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.models.unpack import unpack
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.helpers import tiny_intent


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a made-up distribution: its files, and the distributions it requires."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def make(name, files, requires=()):
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0", *(f"Requires-Dist: {r}==1.0" for r in requires)]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        for path, content in files.items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_bytes(content)
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))
        return site

    return make


def _gguf(path):
    """A Llama of two layers with a byte-level vocabulary; returns the tensors written, by their GGUF names."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(path), "llama")
    width, heads, inner, count = 16, 2, 32, 2
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(count)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    tokens = ["<s>", "</s>", "a", "b", "c", "ab"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    shapes = {"token_embd": (len(tokens), width), "output_norm": (width,), "output": (len(tokens), width)}
    for i in range(count):
        square = ("attn_q", "attn_k", "attn_v", "attn_output")
        shapes.update({f"blk.{i}.{name}": (width, width) for name in square})
        shapes.update({f"blk.{i}.ffn_gate": (inner, width), f"blk.{i}.ffn_up": (inner, width)})
        shapes.update(
            {f"blk.{i}.ffn_down": (width, inner), f"blk.{i}.attn_norm": (width,), f"blk.{i}.ffn_norm": (width,)}
        )
    generator = torch.Generator().manual_seed(0)
    tensors = {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def check_folder(folder, tensors):
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    state = model.state_dict()
    assert model.config.num_hidden_layers == 2
    assert not hasattr(AutoConfig.from_pretrained(folder), "quantization_config")
    assert torch.equal(state["model.embed_tokens.weight"], tensors["token_embd.weight"])
    assert torch.equal(state["model.layers.1.mlp.down_proj.weight"], tensors["blk.1.ffn_down.weight"])
    assert torch.equal(state["model.layers.0.self_attn.v_proj.weight"], tensors["blk.0.attn_v.weight"])
    assert AutoTokenizer.from_pretrained(folder).tokenize("abc") == ["ab", "c"]


def test_a_gguf_file_becomes_a_plain_folder(tmp_path):
    tensors = _gguf(tmp_path / "model.gguf")
    assert unpack(str(tmp_path / "model.gguf"), tmp_path / "out") == tmp_path / "out"
    check_folder(tmp_path / "out", tensors)


def test_a_package_whose_parts_are_spread_is_joined_and_checked(tmp_path, install):
    tensors = _gguf(tmp_path / "model.gguf")
    data = (tmp_path / "model.gguf").read_bytes()
    half = len(data) // 2
    digest = hashlib.sha256(data).hexdigest()
    install(
        "tiny-gguf",
        {"tiny_gguf/SHA256SUMS": f"{digest}  tiny.gguf\n".encode(), "tiny_gguf/tiny.gguf.part00": data[:half]},
        requires=["tiny-gguf-part1", "something-else"],
    )
    with pytest.raises(LayerSelectError, match="'tiny-gguf-part1', which is not installed"):
        unpack("tiny-gguf", tmp_path / "out")
    install("tiny-gguf-part1", {"tiny_gguf_part1/tiny.gguf.part01": data[half:]})
    unpack("tiny-gguf", tmp_path / "out")
    check_folder(tmp_path / "out", tensors)


def test_damaged_parts_are_noticed(tmp_path, install):
    digest = hashlib.sha256(b"whole").hexdigest()
    install(
        "tiny-gguf",
        {
            "tiny_gguf/SHA256SUMS": f"{digest}  tiny.gguf\n".encode(),
            "tiny_gguf/tiny.gguf.part00": b"who",
            "tiny_gguf/tiny.gguf.part01": b"1e",
        },
    )
    with pytest.raises(LayerSelectError, match="do not have the checksum"):
        unpack("tiny-gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_a_package_with_a_plain_model_is_copied(tmp_path, install):
    source = tiny_intent.save_bert(tmp_path / "bert")
    files = {f"tiny/model/{path.name}": path.read_bytes() for path in source.iterdir()}
    install("tiny-bert", files)
    unpack("tiny-bert", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "bert"


def test_what_cannot_be_unpacked_is_one_sentence(tmp_path, install):
    install("empty-package", {"empty/__init__.py": b"raise SystemExit('must not be run')"})
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\0" * 64)
    cases = {
        "empty-package": "does not carry exactly one model",
        "no-such-package": "neither a GGUF file nor an installed package",
        str(tmp_path): "is not a GGUF file",
        "some/where.gguf": "is not a GGUF file",
        str(tmp_path / "bad.gguf"): "cannot be read as a GGUF model",
    }
    for source, words in cases.items():
        with pytest.raises(LayerSelectError, match=words) as caught:
            unpack(source, tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
