"""A text of no task: how it is read, what its loss is, and that measuring it changes nothing of the run."""

import json
import math

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.models.load import load_causal_lm
from layerselect.report.after_run import forgetting_line, sentences
from layerselect.tasks.compare import CompareConfig, run_compare
from layerselect.tasks.revise import ReviseConfig, Rewriter, run_revise
from layerselect.tasks.revise import other_text as module
from layerselect.tasks.revise.other_text import forgetting_facts, read_other_text
from layerselect.tasks.revise.task import ReviseTask
from layerselect.tasks.run.folder import PREDICTIONS

TEXT = "The tide came in over the flats .\n\nA pot of water boils at a lower heat on a mountain , says my sister .\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("other") / "other.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def loaded(options):
    return load_causal_lm(options["model"])


@pytest.fixture(scope="module")
def read(options, loaded):
    def windows(path, **changes):
        config = ReviseConfig(**{**options, "out": "x", "transfer": "none", "forgetting": str(path), **changes})
        return read_other_text(config, config.load_corpus(), loaded)

    return windows


@pytest.fixture(scope="module")
def measured(generator_options, file, tmp_path_factory):
    """The run of the fixture ``done``, which also asks what else can be asked."""
    out = tmp_path_factory.mktemp("measured") / "run"
    more = {"untrained": True, "measure_memory": True, "shots": 2, "forgetting": str(file), "max_length": 64}
    return run_revise(ReviseConfig(**{**generator_options, **more}, out=str(out)))


def loss_of(model, tokenizer, length):
    """The mean loss of a token, a window at a time: the first token of each is given."""
    tokens = tokenizer(TEXT.strip(), add_special_tokens=False)["input_ids"]
    losses = []
    with torch.no_grad():
        for start in range(0, len(tokens), length):
            window = torch.tensor([tokens[start : start + length]])
            logits = model.eval()(input_ids=window).logits[0].log_softmax(dim=-1)
            losses += [-float(logits[i, window[0, i + 1]]) for i in range(window.shape[1] - 1)]
    return sum(losses) / len(losses), len(losses)


def test_the_losses_are_those_of_the_base_model_and_of_what_the_run_saved(measured, loaded):
    facts = json.loads((measured.folder / "results.json").read_text())["training"]
    assert measured.training["forgotten"] == facts["forgotten"]
    before, count = loss_of(loaded.model, loaded.tokenizer, 64)
    assert count > 64 and facts["other_text_tokens"] == count
    assert facts["other_text_loss_before"] == pytest.approx(before, abs=1e-5)
    after, _ = loss_of(Rewriter.load(measured.folder).model, loaded.tokenizer, 64)
    assert facts["other_text_loss"] == pytest.approx(after, abs=1e-5)
    assert facts["forgotten"] == pytest.approx(after - before, abs=1e-5) and after != pytest.approx(before, abs=1e-5)


def test_what_is_measured_changes_nothing_of_the_run(measured, done):
    for name in ("importance.json", "history.safetensors", "adapter/adapter_model.safetensors"):
        assert (measured.folder / name).read_bytes() == (done.folder / name).read_bytes(), name
    ours, theirs = ([json.loads(line) for line in (run.folder / PREDICTIONS).open()] for run in (measured, done))
    assert [list(record.pop("others")) for record in ours] == [["untrained model", "untrained, 2 shots"]] * len(ours)
    assert ours == [{name: value for name, value in record.items() if name != "others"} for record in theirs]
    for ours, theirs in zip(measured.splits, done.splits, strict=True):
        assert list(ours.reports) == ["source copied", "untrained model", "untrained, 2 shots", "trained model"]
        assert {name: ours.reports[name] for name in theirs.reports} == theirs.reports
        assert ours.loss == theirs.loss
    assert "forgotten" not in done.training and forgetting_line(done.training) is None
    assert len(json.loads((measured.folder / "results.json").read_text())["shots"]) == 2
    assert "shots" not in json.loads((done.folder / "results.json").read_text())
    again = ReviseTask.finished(measured.folder)
    assert again.splits == measured.splits and again.training == measured.training


def test_it_is_said_in_a_sentence(measured):
    line = forgetting_line(measured.training)
    assert line.startswith("loss on a text of no task (") and "before the training and" in line
    assert any("Loss on a text of no task" in sentence for sentence in sentences(measured.training))
    unknown = {"other_text_tokens": 9, "other_text_loss_before": 2.0, "other_text_loss": None, "forgotten": None}
    assert forgetting_line(unknown) == "loss on a text of no task (9 tokens): 2.000 before the training and – after it"


def test_windows_hold_every_token_once(read, file, loaded):
    tokens = loaded.tokenizer(TEXT.strip(), add_special_tokens=False)["input_ids"]
    for length in (8, 9, 1024):
        windows = read(file, max_length=length)
        joined = [prompt + rest for prompt, rest in zip(windows.prompts, windows.completions, strict=True)]
        assert all(len(prompt) == 1 for prompt in windows.prompts)
        assert max(map(len, joined)) <= length
        # A last token alone has nothing before it.
        assert [t for window in joined for t in window] == tokens[: len(tokens) - (len(tokens) % length == 1)]


def test_a_start_of_texts_stands_in_front_of_each_window(options, file, monkeypatch, loaded):
    monkeypatch.setattr(module, "prompt_tokens", lambda tokenizer, text: [2])
    config = ReviseConfig(**options, out="x", transfer="none", forgetting=str(file), max_length=8)
    windows = read_other_text(config, config.load_corpus(), loaded)
    assert set(map(tuple, windows.prompts)) == {(2,)} and len(windows.completions[0]) == 8


def test_a_long_text_is_read_to_a_limit(read, tmp_path, monkeypatch):
    long = tmp_path / "long.txt"
    long.write_text("The tide came in . " * 4000)
    monkeypatch.setattr(module, "MOST_OTHER_TOKENS", 1000)
    windows = read(long, max_length=64)
    assert sum(map(len, windows.prompts)) + sum(map(len, windows.completions)) == 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*No such file"),
        (b"", "is empty: give a file with text in it"),
        (b" \n ", "is empty: give a file with text in it"),
        (b"a\0b", "holds a NUL character"),
        (b"caf\xe9 au lait", "is not UTF-8"),
        (b"PK\x03\x04 and so on", "a zip archive"),
        (b".", "has 1 tokens: give at least a paragraph"),
    ],
)
def test_what_is_no_text_is_one_sentence(read, tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LayerSelectError, match=f"^--forgetting.*{message}") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_folder_and_no_name_are_refused(read, tmp_path):
    with pytest.raises(LayerSelectError, match="Is a directory"):
        read(tmp_path)
    with pytest.raises(LayerSelectError, match="--forgetting is empty"):
        read("")


def test_a_run_does_not_replace_the_text(options, tmp_path):
    (tmp_path / "out").mkdir()
    text = tmp_path / "out" / "text.txt"
    text.write_text(TEXT)
    config = ReviseConfig(**options, out=str(tmp_path / "out"), transfer="none", forgetting=str(text))
    with pytest.raises(LayerSelectError, match="^--forgetting .* lies at --out"):
        run_revise(config, overwrite=True)
    base = {"data": options["data"], "model": options["model"], "forgetting": str(text)}
    with pytest.raises(LayerSelectError, match="^--forgetting .* lies at --out"):
        run_compare(
            CompareConfig(out=str(tmp_path / "out"), base=base, task="revise", methods=("all",)), overwrite=True
        )
    assert text.read_text() == TEXT


def test_paragraphs_of_the_corpus_and_little_text_are_noticed(read, file, tmp_path, corpus, caplog):
    read(file)
    assert [record.message for record in caplog.records if "corpus" in record.message] == []
    assert "which say little" in caplog.text
    row = json.loads(corpus.read_text().splitlines()[0])
    taken = tmp_path / "taken.txt"
    taken.write_text(f"{TEXT}{row['before']}\n{row['after']}\n")
    read(taken)
    assert "2 of its 4 paragraphs stand in the corpus" in caplog.text


def test_a_word_without_an_embedding_is_refused(read, file, monkeypatch):
    monkeypatch.setattr(module, "embedding_rows", lambda model: 5)
    with pytest.raises(LayerSelectError, match="has no embedding: take a text without it"):
        read(file)


def test_losses_that_are_no_numbers_are_not_known(read, file):
    facts = forgetting_facts(read(file), 2.0, math.inf)
    assert facts["other_text_loss_before"] == 2.0 and facts["other_text_loss"] is facts["forgotten"] is None
    assert forgetting_facts(None, math.nan, math.nan) == {}
