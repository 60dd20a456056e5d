"""Folders of models as other people leave them: each fault is called what it is, in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from layerselect import LayerSelectError
from layerselect.models.folders import check_safetensors, checked_source
from layerselect.models.load import load_classifier
from layerselect.models.tokenizers import load_tokenizer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path, bert_folder: Path) -> Path:
    shutil.copytree(bert_folder, tmp_path / "model")
    return tmp_path / "model"


def _shards(folder: Path, names: dict[str, str], *, there: int) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    for name in sorted(set(names.values()))[:there]:
        shutil.copy(folder / WEIGHTS, folder / name)
    (folder / WEIGHTS).unlink()


THREE = {f"w{i}": f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
FAULTS = {
    "weights are a pointer": (lambda f: (f / WEIGHTS).write_bytes(POINTER), "model.safetensors' is a git-lfs pointer"),
    "tokenizer is a pointer": (
        lambda f: (f / "tokenizer.json").write_bytes(POINTER),
        "tokenizer.json' is a git-lfs pointer",
    ),
    "configuration is a pointer": (lambda f: (f / "config.json").write_bytes(POINTER), "config.json' is a git-lfs"),
    "weights are empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "is empty: download it again"),
    "weights are cut short": (lambda f: _cut(f / WEIGHTS, 0.5), "is cut short: it has"),
    "header is cut short": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:40]),
        "cut short at 40 bytes",
    ),
    "a page of an error": (
        lambda f: (f / WEIGHTS).write_bytes(b"<html>404</html>"),
        "is no file in safetensors format",
    ),
    "header of another kind": (lambda f: _write_header(f, b'{"a": 3}'), "the header of .* is damaged"),
    "offsets that are no numbers": (lambda f: _write_header(f, b'{"a": {"data_offsets": ["0", 4]}}'), "is damaged"),
    "header nested too deep": (lambda f: _write_header(f, b'{"a":' + b"[" * 100_000), "is damaged"),
    "a missing shard": (lambda f: _shards(f, THREE, there=2), "lacks model-00003-of-00003.safetensors of the 3 files"),
    "two missing shards": (lambda f: _shards(f, THREE, there=1), "lacks model-00002-of-00003.safetensors and 1 more"),
    "an index without shards' names": (
        lambda f: ((f / INDEX).write_text("{}"), (f / WEIGHTS).unlink()),
        "does not say which file",
    ),
    "an index that is a pointer": (
        lambda f: ((f / INDEX).write_bytes(POINTER), (f / WEIGHTS).unlink()),
        "index.json' is a git-lfs pointer",
    ),
    "shards without an index": (
        lambda f: (f / WEIGHTS).rename(f / "model-00001-of-00002.safetensors"),
        "not model.safetensors.index.json",
    ),
    "another name": (lambda f: (f / WEIGHTS).rename(f / "weights.safetensors"), "must be named model.safetensors"),
    "pickled weights": (
        lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"),
        "only pytorch_model.bin, which is not read",
    ),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "no weights in safetensors format"),
    "configuration of other bytes": (
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"),
        "config.json .*cannot be read",
    ),
    "configuration that is a list": (lambda f: (f / "config.json").write_text("[1]"), "holds no JSON object"),
    "configuration nested too deep": (lambda f: (f / "config.json").write_text("[" * 100_000), "cannot be read"),
    "no model_type": (lambda f: _set(f, model_type=None), "names no model_type|no name as its model_type"),
    "model_type left out": (lambda f: _set(f, "model_type"), "names no model_type"),
    "an unknown family": (lambda f: _set(f, model_type="nobody_knows"), "does not know"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "holds no tokenizer"),
    "a tokenizer without its vocabulary": (
        lambda f: (f / "tokenizer.json").unlink(),
        "tokenizer of .* (knows no words|cannot)",
    ),
}


def _cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def _write_header(folder: Path, header: bytes) -> None:
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)


def _set(folder: Path, *without: str, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in {**config, **values}.items() if k not in without}))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_folder_is_called_what_it_is(folder, fault):
    damage, words = FAULTS[fault]
    damage(folder)
    with pytest.raises(LayerSelectError, match=words) as caught:
        load_classifier(folder, ["a", "b"], multi_label=False)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "a\\b", "a\0b"])
def test_an_index_reads_nothing_outside_its_folder(folder, name):
    _shards(folder, {"w": name}, there=0)
    with pytest.raises(LayerSelectError, match="which is no file of that folder"):
        load_classifier(folder, ["a", "b"], multi_label=False)


def test_whole_weights_pass(folder):
    check_safetensors(folder / WEIGHTS)
    assert checked_source(folder) == str(folder)


def test_a_tokenizer_needs_no_weights(folder):
    (folder / WEIGHTS).unlink()
    assert load_tokenizer(folder)("a")["input_ids"]


@pytest.mark.parametrize(
    "source", ["./mistrall", "/models/nowhere", "~/nowhere", "~nobody-at-all/m", "models/mistrall", "a\0b", "a/b/c"]
)
def test_what_can_only_be_a_path_is_never_asked_of_the_hub(tmp_path, monkeypatch, source):
    (tmp_path / "models" / "mistral").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("layerselect.models.configuration.AutoConfig.from_pretrained", _never)
    monkeypatch.setattr("layerselect.models.tokenizers.AutoTokenizer.from_pretrained", _never)
    for load in (load_tokenizer, lambda source: load_classifier(source, ["a", "b"], multi_label=False)):
        with pytest.raises(LayerSelectError, match="there is no model folder") as caught:
            load(source)
        assert "\n" not in str(caught.value)
    if source == "models/mistrall":
        assert "is it 'models/mistral'?" in str(caught.value)


def _never(*_: object, **__: object) -> None:
    raise AssertionError("the hub was asked")


def test_a_hub_id_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checked_source("google/gemma-3-270m") == "google/gemma-3-270m"
    assert checked_source("gpt2") == "gpt2"
