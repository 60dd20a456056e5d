"""What a comparison keeps: the same bytes for the same run, no text, tables anywhere; damage is one sentence."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from layerselect import LayerSelectError
from layerselect.tasks.compare import comparison_rows, csv_table, markdown_table, read_comparison
from layerselect.tasks.compare.cells import common
from layerselect.tasks.compare.kept import KeptRuns
from layerselect.tasks.compare.several import several_table
from layerselect.tasks.compare.state import saved_config
from sklearn.metrics import f1_score

from tests.helpers import kept_comparison

SKILLS = {"all": 0.9, "ir": 0.89, "head": 0.2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return kept_comparison.corpus_file(tmp_path_factory.mktemp("corpus") / "c.csv")


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    place = tmp_path_factory.mktemp("kept") / "c"
    kept_comparison.make(place, corpus, skills=SKILLS)
    return place


def rows_of(folder, **changes):
    comparison = read_comparison(saved_config(folder, bootstrap=200, **changes))
    return comparison, {row.name: row for row in comparison_rows(comparison)}


def test_every_row_of_the_corpus_is_tested_once(folder):
    comparison, _ = rows_of(folder)
    ids = [each for splits in comparison.examples.values() for each in splits["test"].ids]
    assert len(ids) == len(set(ids)) == 120
    documents = [set(splits["test"].documents) for splits in comparison.examples.values()]
    assert sum(map(len, documents)) == len(set.union(*documents)) == 60


def test_qualities_are_those_of_all_folds_together(folder):
    comparison, rows = rows_of(folder)
    seeds = []
    for seed in (0, 1):
        labels, answers = [], []
        for result in comparison.results:
            if result.run.variant.name == "all/lora" and result.run.seed == seed:
                labels += comparison.examples[result.run.fold]["test"].labels.argmax(axis=1).tolist()
                answers += result.statistics["test"].argmax(axis=1).tolist()
        seeds.append(f1_score(labels, answers, average="macro"))
    spread = rows["all/lora"].values["macro_f1"]
    assert spread.mean == pytest.approx(np.mean(seeds)) and spread.deviation == pytest.approx(np.std(seeds, ddof=1))
    assert rows["all/lora"].seeds == 2
    assert rows["ir/lora"].difference.mean == pytest.approx(rows["ir/lora"].values["macro_f1"].mean - spread.mean)
    assert rows["ir/lora"].difference.documents == 60


def test_verdicts_stand_in_every_table(folder):
    comparison, rows = rows_of(folder)
    assert rows["head/lora"].verdict == "worse" and rows["majority class"].verdict == "worse"
    assert rows["all/lora"].verdict == ""
    text = markdown_table(comparison, list(rows.values()))
    assert "worse than all/lora (-" in text and "3 folds by document" in text
    assert "worse" in csv_table(comparison.config.kind, list(rows.values()))
    # A wide margin makes almost anything as good.
    wide, again = rows_of(folder, margin=0.9)
    assert again["head/lora"].verdict == "as good"
    assert "as good as all/lora within 0.9" in markdown_table(wide, list(again.values()))


def test_the_same_run_gives_the_same_bytes_and_no_text(folder, corpus, tmp_path):
    kept_comparison.make(tmp_path / "again", corpus, skills=SKILLS)
    for path in sorted((folder / "kept").iterdir()):
        assert (tmp_path / "again" / "kept" / path.name).read_bytes() == path.read_bytes()
        assert "text number" not in path.read_text()


def test_tables_are_made_anywhere_of_what_is_kept(folder, tmp_path):
    place = tmp_path / "elsewhere"
    shutil.copytree(folder / "kept", place / "kept")
    shutil.copy(folder / "compare.json", place)
    there, here = rows_of(place)[1], rows_of(folder)[1]
    assert there == here


def test_a_comparison_that_is_not_finished_says_what_is_missing(corpus, tmp_path):
    unfinished = ("ir-lora-seed1-fold3", "head-lora-seed0-fold1", "head-lora-seed0-fold2", "head-lora-seed0-fold3")
    kept_comparison.make(tmp_path / "c", corpus, skills=SKILLS, unfinished=unfinished)
    comparison, rows = rows_of(tmp_path / "c")
    assert rows["ir/lora"].missing == 1 and rows["ir/lora"].seeds == 1
    # The quality is that of the seed with all folds, the verdict rests on the folds of both.
    assert rows["ir/lora"].difference.seeds == 2 and rows["ir/lora"].difference.documents < 60
    assert rows["head/lora"].missing == 3 and rows["head/lora"].seeds == 1
    assert rows["head/lora"].sentence("all/lora", 0.02) == "undecided: one seed is too few to compare"
    assert comparison.failed == []
    assert "ir/lora: 1 run not finished; its verdict rests on" in markdown_table(comparison, list(rows.values()))


@pytest.mark.parametrize(
    ("parts", "chosen"),
    [
        ([(0, 1), (0, 2), (1, 1), (1, 2)], 4),
        ([(0, 1), (0, 2), (0, 3), (1, 1)], 2),  # two seeds of one fold say more than one of three
        ([(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1)], 4),
        ([(0, 1), (1, 2)], 1),
        ([(0, None), (1, None), (2, None)], 3),
        ([], 0),
    ],
)
def test_what_two_rows_have_in_common(parts, chosen):
    found = common(parts)
    assert len(found) == chosen and set(found) <= set(parts)
    seeds, folds = {seed for seed, _ in found}, {fold for _, fold in found}
    assert len(found) == len(seeds) * len(folds)


def test_rows_and_seeds_are_added_to_what_is_there(folder):
    config = saved_config(folder, add=("lisa", "all@pair", "all/lora@10%", "ir/lora", "head"), seeds=3)
    names = [variant.name for variant in config.variants]
    assert names == ["all/lora", "ir/lora", "head/lora", "lisa/lora", "all/lora@pair", "all/lora@10%"]
    assert config.seeds == 3 and config.folds == 3
    assert saved_config(folder, seeds=1).seeds == 2
    pair = next(run for run in config.runs() if run.variant.format == "pair")
    assert config.settings(pair, "x").format == "pair"
    assert config.settings(next(run for run in config.runs() if run.variant.train_size), "x").train_size == "10%"


def test_several_comparisons_in_one_table(folder, corpus, tmp_path):
    kept_comparison.make(tmp_path / "b", corpus, skills={"all": 0.7, "lisa": 0.7}, folds=None)
    table = several_table([rows_of(folder)[0], rows_of(tmp_path / "b")[0]])
    named = [name for name, _ in table.lines]
    assert named[:4] == ["majority class", "logistic regression", "text regression", "all/lora"]
    cells = dict(table.lines)
    assert cells["lisa/lora"][0] == ("", "") and cells["lisa/lora"][1][0]
    assert table.markdown().count("\n") == 2 + len(table.lines)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("all-lora-seed0-fold1.json", lambda text: "{", "is damaged"),
        ("all-lora-seed0-fold1.json", lambda text: text.replace("[", "[-", 1), "is damaged"),
        ("all-lora-seed0-fold1.json", lambda text: text.replace("8000", '"8"', 1), "must be a whole number"),
        ("all-lora-seed0-fold1.costs.json", lambda text: text.replace("0.5", '"x"', 1), "must be a number"),
    ],
)
def test_a_damaged_run_fails_and_leaves_the_rest(folder, tmp_path, name, change, words):
    place = tmp_path / "c"
    shutil.copytree(folder, place)
    path = place / "kept" / name
    path.write_text(change(path.read_text()))
    comparison, rows = rows_of(place)
    (failed,) = comparison.failed
    assert words in failed.reason and "\n" not in failed.reason
    assert rows["ir/lora"].values


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["splits"]["test"]["ids"].pop(),
        lambda content: content["splits"]["test"]["labels"].__setitem__(0, [7]),
        lambda content: content.pop("labels"),
    ],
)
def test_damaged_examples_fail_their_fold_and_leave_the_rest(folder, tmp_path, change):
    place = tmp_path / "c"
    shutil.copytree(folder, place)
    path = place / "kept" / "examples-fold1.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    comparison, rows = rows_of(place)
    assert {result.run.fold for result in comparison.failed} == {1} and len(comparison.failed) == 6
    assert all("examples-fold1" in result.reason and "\n" not in result.reason for result in comparison.failed)
    assert rows["ir/lora"].difference.documents < 60


def test_another_corpus_is_noticed(folder, corpus, tmp_path):
    place = tmp_path / "c"
    shutil.copytree(folder, place)
    path = place / "kept" / "examples-fold1.json"
    path.write_text(path.read_text().replace('"d1"', '"e1"').replace('"d2"', '"e2"').replace('"d3"', '"e3"'))
    (place / "kept" / "all-lora-seed0-fold1.json").unlink()
    config = saved_config(place)
    with pytest.raises(Exception, match="the corpus has changed"):
        kept_comparison.make(place, corpus, skills=SKILLS)
    assert not KeptRuns(place, config.kind).has(config.runs()[0])


def test_folders_that_hold_no_comparison(tmp_path, folder):
    with pytest.raises(LayerSelectError, match="holds no comparison"):
        saved_config(tmp_path)
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    content = json.loads((old / "compare.json").read_text())
    (old / "compare.json").write_text(json.dumps({"version": 1, "settings": content["settings"]}))
    with pytest.raises(LayerSelectError, match="repeat its command once"):
        saved_config(old)


def test_a_reference_of_ones_own(folder):
    comparison, rows = rows_of(folder, reference="head")
    assert rows["all/lora"].verdict == "better" and rows["head/lora"].difference is None
    assert replace(comparison.config, reference=None).reference_variant.name == "all/lora"
