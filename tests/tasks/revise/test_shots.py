"""Shots: which examples are shown, that they fit, and where what is written behind them ends."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from layerselect import LayerSelectError
from layerselect.models.load import load_causal_lm
from layerselect.tasks.revise import ReviseConfig, task
from layerselect.tasks.revise import shots as module
from layerselect.tasks.revise.examples import build_revision_splits, token_budget
from layerselect.tasks.revise.prompts import REQUEST, write_prompt
from layerselect.tasks.revise.shots import choose_shots, read_first
from layerselect.tasks.run.processes import ALONE
from layerselect.tasks.text.completions import prompt_tokens


@pytest.fixture(scope="module")
def config(options):
    return ReviseConfig(**options, out="x", transfer="none", max_length=64, shots=3)


@pytest.fixture(scope="module")
def loaded(config):
    return load_causal_lm(config.model)


@pytest.fixture(scope="module")
def splits(config, loaded):
    return build_revision_splits(config.load_corpus(), loaded.tokenizer, max_length=64)


@pytest.fixture
def choose(config, loaded, splits, monkeypatch):
    """Chooses for a model that reads so many tokens."""

    def chosen(positions=None, train=splits.train, **changes):
        monkeypatch.setattr(module, "usable_positions", lambda model: positions)
        return choose_shots(train, splits.report, replace(config, **changes), loaded)

    return chosen


def longest(shots, splits, loaded):
    """The most positions that any text takes behind the shots, written from the definition."""
    needs = []
    for split in splits.report:
        for row, prompt in zip(split.rows, shots.prompts(split, loaded.tokenizer), strict=True):
            whole = prompt_tokens(loaded.tokenizer, shots.text + write_prompt(row["source"], row["intentions"]))
            assert prompt == whole
            count = len(loaded.tokenizer(row["source"], add_special_tokens=False)["input_ids"])
            needs.append(len(prompt) + token_budget(count) + 1)
    return max(needs)


def test_the_shots_are_training_examples_with_different_intentions_and_the_same_for_all_seeds(choose, splits):
    shots = choose()
    rows = {row["id"]: row for row in splits.train.rows}
    assert len(shots) == len(set(shots.ids)) == 3 and shots.name == "untrained, 3 shots"
    assert len({rows[each]["intentions"][0] for each in shots.ids}) == 3
    parts = shots.text.split("\n\n")
    assert parts.pop() == ""
    for part, name in zip(parts, shots.ids, strict=True):
        row = rows[name]
        assert part == f"{write_prompt(row['source'], row['intentions'])} {row['references'][0]}"
    assert choose(seed=7) == shots != choose(split_seed=1)
    lengths = dict(zip(rows, splits.train.lengths, strict=True))
    for seed in range(5):
        for each in choose(split_seed=seed).ids:
            alike = sorted(lengths[other] for other in rows if rows[other]["intentions"] == rows[each]["intentions"])
            assert lengths[each] <= alike[(len(alike) - 1) // 2]
    assert choose(shots=0) is None and choose(shots=1).name == "untrained, 1 shot"


def test_where_there_is_little_room_shorter_examples_are_drawn(choose, splits, loaded):
    free = choose()
    needed = longest(free, splits, loaded)
    assert choose(needed) == free
    shorter = choose(needed - 1)
    assert len(shorter) == 3 and shorter != free and longest(shorter, splits, loaded) < needed


def test_what_does_not_fit_is_refused_with_what_does(choose, splits, loaded):
    room = longest(choose(shots=1), splits, loaded) + 3
    with pytest.raises(LayerSelectError, match=r"--shots 8: .* reads at most \d+ tokens.*: use --shots 1$") as caught:
        choose(room, shots=8)
    assert "\n" not in str(caught.value)
    assert len(choose(room, shots=1)) == 1
    wide = longest(choose(shots=5), splits, loaded)
    with pytest.raises(LayerSelectError, match="use --shots [45]$") as caught:
        choose(wide, shots=20)
    most = int(str(caught.value).rpartition(" ")[2])
    assert len(choose(wide, shots=most)) == most
    with pytest.raises(LayerSelectError):
        choose(wide, shots=most + 1)
    with pytest.raises(LayerSelectError, match="use none, or a lower --max-length"):
        choose(20)
    # A limit of new tokens leaves more room.
    assert len(choose(room - 10, shots=1, max_new_tokens=5)) == 1


def test_of_what_is_written_behind_shots_only_the_first_revision_is_kept(choose, config, loaded, splits, monkeypatch):
    """And it is written behind them."""
    seen, part = [], splits.report[0].subset(range(2))

    def generate(model, tokenizer, prompts, *rest, **options):
        seen.append(prompts)
        return [f"He goes home.\n\n{REQUEST}\nOriginal: {prompt}" for prompt in range(len(prompts))]

    monkeypatch.setattr(task, "generate", generate)
    run = SimpleNamespace(config=config, processes=ALONE, notify=None)
    shots = choose()
    assert task.ReviseTask._revise(run, loaded.model, loaded, part, shots) == ["He goes home."] * 2
    assert seen.pop() == shots.prompts(part, loaded.tokenizer)
    without = task.ReviseTask._revise(run, loaded.model, loaded, part)
    assert without[1].endswith("Original: 1") and seen == [part.prompts]


def test_examples_that_show_nothing_are_left_out(choose, splits):
    train = splits.train.subset(range(5))
    dull = [
        {**train.rows[0], "cut": True},
        {**train.rows[1], "source": ""},
        {**train.rows[2], "references": [""]},
        {**train.rows[3], "references": [train.rows[3]["source"].replace(" ", "  ")]},
        train.rows[4],
    ]
    few = replace(train, rows=dull)
    assert choose(train=few, shots=1).ids == (train.rows[4]["id"],)
    with pytest.raises(LayerSelectError, match="has 1 revisions that are whole and change something, so use at most 1"):
        choose(train=few, shots=2)


@pytest.mark.parametrize(
    ("written", "first"),
    [
        ("He goes home.", "He goes home."),
        ("One line\nand another", "One line\nand another"),
        (f"He goes.\n\n{REQUEST}\nOriginal: x", "He goes."),
        (f"He goes. {REQUEST} Original", "He goes. "),
        ("He goes . Revise the original text . Intention", "He goes . "),  # as some tokenizers write it
        ("\n\nHe goes.\n \nmore", "He goes."),
        ("", ""),
    ],
)
def test_what_is_written_ends_where_another_example_begins(written, first):
    assert read_first(written) == first
