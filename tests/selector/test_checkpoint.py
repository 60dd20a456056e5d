"""A selector's state on disk, and the seal of the checkpoint around it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.checkpoint import TENSORS_FILE, VALUES_FILE, defect, load_selector, save_selector, seal
from safetensors.torch import save_file

from tests.helpers.models import plain, plain_loss


def measured_selector() -> FastSelector:
    model = plain()
    selector = FastSelector(model, "random:k=2", mode="observe")
    for step in range(3):
        plain_loss(model, step).backward()
        selector.step()
    return selector


def test_checkpoint_files_hold_the_whole_state(tmp_path):
    selector = measured_selector()
    save_selector(selector, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [VALUES_FILE, TENSORS_FILE]
    other = FastSelector(plain(), "random:k=2", mode="observe")
    load_selector(other, tmp_path)
    assert torch.equal(other.frequency, selector.frequency)
    assert (other.history.arrays()["scores"] == selector.history.arrays()["scores"]).all()
    assert torch.equal(other.rule.state_dict()["generator"], selector.rule.state_dict()["generator"])


@pytest.mark.parametrize("damage", ["truncated", "not-json", "no-tensors", "missing-key"])
def test_a_damaged_checkpoint_is_refused_in_one_sentence(tmp_path, damage):
    save_selector(measured_selector(), tmp_path)
    if damage == "truncated":
        path = tmp_path / TENSORS_FILE
        path.write_bytes(path.read_bytes()[:40])
    elif damage == "not-json":
        (tmp_path / VALUES_FILE).write_text("{")
    elif damage == "no-tensors":
        (tmp_path / TENSORS_FILE).unlink()
    else:
        values = json.loads((tmp_path / VALUES_FILE).read_text())
        del values["step"]
        (tmp_path / VALUES_FILE).write_text(json.dumps(values))
    fresh = FastSelector(plain(), "random:k=2", mode="observe")
    with pytest.raises(LayerSelectError, match=r"damaged|holds no selector.safetensors") as error:
        load_selector(fresh, tmp_path)
    assert "\n" not in str(error.value)
    assert fresh.steps == 0


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    selector = measured_selector()
    save_selector(selector, tmp_path)
    good = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_selector(selector, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == good
    shutil.rmtree(tmp_path)


def test_a_state_of_another_model_is_refused_with_its_place(tmp_path):
    save_selector(measured_selector(), tmp_path)
    with pytest.raises(LayerSelectError, match=r"is of another model: it has 6 layers") as error:
        load_selector(FastSelector(plain(layers=4), "random:k=2", mode="observe"), tmp_path)
    assert str(error.value).startswith(str(tmp_path))


LARGE = 5_000_000  # more than is read of a file


@pytest.fixture
def sealed(tmp_path):
    """A checkpoint as trainers write it, sealed by the selector."""
    generator = torch.Generator().manual_seed(0)
    save_file({"w": torch.randn(10, generator=generator)}, tmp_path / "model.safetensors")
    torch.save({"m": torch.randn(7, generator=generator)}, tmp_path / "optimizer.pt")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "__0_0.distcp").write_bytes(bytes(i % 251 for i in range(LARGE)))
    (tmp_path / "rng_state_1.pth").write_bytes(b"of another process, perhaps half of it")
    (tmp_path / "config.json").write_text("{}")
    save_selector(measured_selector(), tmp_path)
    assert defect(tmp_path) is None
    return tmp_path


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "shards/__0_0.distcp", TENSORS_FILE])
@pytest.mark.parametrize("damage", ["shorter by a byte", "empty", "other bytes at the end", "gone"])
def test_the_seal_notices_what_an_interrupted_save_leaves(sealed, name, damage):
    path = sealed / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {"shorter by a byte": content[:-1], "empty": b"", "other bytes at the end": content[:-2] + b"!!"}[damage]
        )
    assert defect(sealed) == f"its {name} is " + (
        "missing" if damage == "gone" else "not the one that was saved with the selector"
    )


def test_a_large_file_of_another_save_is_noticed_though_it_is_only_sampled(sealed):
    path = sealed / "shards" / "__0_0.distcp"
    path.write_bytes(bytes((i + i // 9999) % 251 for i in range(LARGE)))
    assert defect(sealed) is not None


def test_the_seal_leaves_out_what_may_change(sealed):
    (sealed / "rng_state_1.pth").write_bytes(b"of another process, all of it")
    (sealed / "config.json").write_text('{"a": 1}')
    (sealed / "README.md").write_text("added later")
    assert defect(sealed) is None


def test_files_are_sealed_on_request(sealed):
    save_selector(measured_selector(), sealed, also=["config.json"])
    assert defect(sealed) is None
    (sealed / "config.json").write_text('{"a": 1}')
    assert defect(sealed) == "its config.json is not the one that was saved with the selector"


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"files": 3}'])
def test_a_folder_without_a_readable_seal(sealed, content):
    if content is None:
        (sealed / VALUES_FILE).unlink()
        assert defect(sealed) == f"it holds no {VALUES_FILE}"
        assert seal(sealed) is None
    else:
        (sealed / VALUES_FILE).write_text(content)
        assert defect(sealed) == f"its {VALUES_FILE} cannot be read"


def test_checksums_tell_seals_apart(sealed):
    first = seal(sealed)
    assert save_selector(measured_selector(), sealed) == first
    (sealed / "optimizer.pt").write_bytes(b"another")
    assert save_selector(measured_selector(), sealed) not in (first, None)
