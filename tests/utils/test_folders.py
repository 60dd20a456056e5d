import os

import pytest
from layerselect import LayerSelectError
from layerselect.utils.folders import discard, final_place, move_into_place, new_folder
from layerselect.utils.saved_documents import DocumentKind


def test_a_folder_appears_complete(tmp_path):
    target = tmp_path / "deep" / "out"
    with new_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_nothing_is_left_after_an_error(tmp_path):
    with pytest.raises(KeyError), new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_stands_there_is_not_touched(tmp_path):
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(LayerSelectError, match="not empty"), new_folder(tmp_path):
        pass
    with pytest.raises(LayerSelectError, match="is a file"), new_folder(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").read_text() == "keep"


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
    assert (tmp_path / "out" / "a").exists()


def test_replacing_leaves_no_remains(tmp_path):
    for name, content in (("out", "old"), ("out.partial", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(content)
    move_into_place(tmp_path / "out.partial", tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_discarding_takes_the_name_first(tmp_path, monkeypatch):
    """A process killed while it removes files leaves no half of a folder under the folder's name."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "a").write_text("1")

    def killed(path):
        assert not folder.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("layerselect.utils.folders.shutil.rmtree", killed)
        discard(folder)
    assert not folder.exists()
    discard(folder)  # nothing of that name, but what is left of it goes
    assert list(tmp_path.iterdir()) == []


def test_where_what_is_written_will_stand(tmp_path):
    inner = tmp_path / "mine.partial" / "run.partial" / "predictor.partial"
    inner.mkdir(parents=True)
    for run in (inner, inner.parent):
        (run / "config.json").write_text("{}")
    final = tmp_path / "mine.partial" / "run" / "predictor"  # no run made the outermost
    assert final_place(inner / "adapter", inner / "adapter") == final / "adapter"
    assert final_place(inner.parent / "model", inner) == final.parent / "model"
    other = tmp_path / "other.partial"  # a model that does not move
    other.mkdir()
    (other / "config.json").write_text("{}")
    assert final_place(other, inner) == other


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no folders and flushes only what is open for writing")
def test_what_is_moved_into_place_is_on_the_disk_before(tmp_path, monkeypatch, flush):
    """Files, the folders they stand in, and then the folder whose entry has changed."""
    partial = tmp_path / "out.partial"
    (partial / "inside").mkdir(parents=True)
    for name in ("one", "inside/other"):
        (partial / name).write_text(name)
    entries = {path.stat().st_ino: path.name for path in (*partial.rglob("*"), partial, tmp_path)}
    flushed = []

    def fsync(descriptor):
        flush(descriptor)
        flushed.append((entries[os.fstat(descriptor).st_ino], partial.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    move_into_place(partial, tmp_path / "out")
    assert sorted(flushed[:-1]) == [(name, True) for name in ("inside", "one", "other", "out.partial")]
    assert flushed[-1] == (tmp_path.name, False)


def test_a_document_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch, flush):
    place, flushed = tmp_path / "a.json", []

    def fsync(descriptor):
        flush(descriptor)
        flushed.append(((tmp_path / "a.json.new").read_text(), place.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    kind = DocumentKind("a schema", (1,), place.name, "document", "Document", "a command", "again")
    kind.write(place, {"known": True})
    assert flushed == [(place.read_text(), False)]
