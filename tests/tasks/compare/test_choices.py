"""How far the layers that somebody chose are behind the best row of a comparison."""

import json

import numpy as np
import pytest
from layerselect import LayerSelectError
from layerselect.cli.main import main
from layerselect.placement import Placement
from layerselect.tasks.compare import comparison_rows, read_comparison
from layerselect.tasks.compare.choices import choice_table, choices_of
from layerselect.tasks.compare.state import saved_config

from tests.helpers import kept_comparison

NAMES = [f"encoder.layer.{layer}" for layer in range(4)]
SKILLS = {"all": 0.9, "top-half": 0.85, "head": 0.2, "fixed:layers=[0,1]": 0.5, "ir": 0.99}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    corpus = kept_comparison.corpus_file(tmp_path_factory.mktemp("corpus") / "c.csv")
    place = tmp_path_factory.mktemp("kept") / "c"
    kept_comparison.make(place, corpus, skills=SKILLS)
    return read_comparison(saved_config(place, bootstrap=300))


@pytest.fixture
def placed(tmp_path):
    """Makes the file of a placement."""

    def make(layers: list[int], names: list[str] = NAMES, **more) -> str:
        place = tmp_path / f"{'-'.join(map(str, layers))}-of-{len(names)}.json"
        return str(Placement(layers, names=names, **more).save(place))

    return make


def test_a_row_is_as_far_behind_as_the_best_one_is_better(comparison):
    quality = {row.name: row.values["macro_f1"].mean for row in comparison_rows(comparison) if row.values}
    found = {each.name: each for each in choices_of(comparison, ["all", "top-half/lora", "head", "ir"])}
    best = max(quality["all/lora"], quality["top-half/lora"])
    for name, row in (("all", "all/lora"), ("top-half/lora", "top-half/lora"), ("head", "head/lora")):
        behind = found[name].behind
        assert found[name].row.name == row
        assert behind.mean == pytest.approx(best - quality[row], abs=1e-9)
        assert 0 <= behind.low <= behind.mean <= behind.high and behind.seeds == 2
        assert quality[behind.best] == best
    assert found["head"].behind.low > 0 and found["all"].behind.low == 0
    # IR-Tuning's rule chooses anew in every step: it is no placement, so nothing is measured against it.
    assert quality["ir/lora"] > best and found["ir"].behind.mean == 0


def test_placements_are_found_by_their_layers(comparison, placed):
    places = [
        placed([2, 3], chosen_by="a pilot", names=[f"base_model.model.{name}" for name in NAMES]),
        placed([0, 1]),
        placed([]),
        placed([0, 1, 2, 3], doubt="too few steps", chosen_by="a card"),
        placed([0, 3]),
    ]
    found = choices_of(comparison, [*places, "top-half"])
    rows = [each.row and each.row.name for each in found]
    assert rows == ["top-half/lora", "fixed:layers=[0,1]/lora", "head/lora", "all/lora", None, "top-half/lora"]
    assert found[0].behind == found[-1].behind and found[-1].layers == (2, 3)
    assert found[4].behind is None and found[4].layers == (0, 3)
    table = choice_table(found, comparison)
    assert table.lines[4] == ["0-3-of-4", "0, 3", "none", "", ""] and table.lines[3][1] == "0-3"
    assert table.lines[2][1] == "none" and table.lines[2][-1].count("to") == 1
    text = table.markdown()
    assert "was chosen by a card; unsure: too few steps" in text and "'compare --add' adds one" in text


def test_the_interval_covers_the_truth():
    """Of predictors with known skill, one of which is .03 behind the two best."""
    from layerselect.tasks.compare.verdicts import differences
    from layerselect.utils.paired import Paired

    generator, covered = np.random.default_rng(0), 0
    truth = np.array([0.80, 0.80, 0.77])
    for trial in range(60):
        documents = [generator.binomial(10, skill, size=(2, 150)) for skill in truth]
        counts = [np.stack([right, np.full_like(right, 10)], axis=-1).astype(float) for right in documents]
        numbers = np.arange(150)
        pairs = {str(other): Paired(counts[other], counts[2], numbers, np.zeros(150, dtype=int)) for other in (0, 1)}
        found = differences(pairs, lambda sums: sums[..., 0] / sums[..., 1], samples=200, seed=trial)
        low, high = (max(0.0, *(getattr(each, part) for each in found.values())) for part in ("low", "high"))
        covered += low <= 0.03 <= high
    assert covered >= 54


def test_what_is_no_choice_is_refused(comparison, placed, tmp_path):
    with pytest.raises(LayerSelectError, match="the placement .*middle.* cannot be read"):
        choices_of(comparison, ["middle"])
    with pytest.raises(LayerSelectError, match="are placements of models with different layers"):
        choices_of(comparison, [placed([0]), placed([0], names=NAMES[:3])])


def test_the_command(comparison, placed, tmp_path, capsys):
    folder, place = str(comparison.folder), placed([0, 1])
    assert main(["compare", "--show", folder, "--choices", f"all,{place}", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert (
        "behind the best" in printed.replace("\n", " ")
        and "fixed:layers=[0,1]" in (tmp_path / "out/choices.md").read_text()
    )
    assert main(["compare", "--show", folder, "--choices", f"all,{place}", "--json"]) == 0
    choices = json.loads(capsys.readouterr().out)["choices"]
    assert choices[1]["row"]["name"] == "fixed:layers=[0,1]/lora" and choices[1]["behind"]["low"] > 0
    for wrong, message in (
        (["--show", folder, folder, "--choices", "all"], "--choices is of one comparison"),
        (["--choices", "all", "--out", folder, "--add", "lisa"], "--choices is of a comparison that is shown"),
        (["--show", folder, "--choices", "nothing"], "cannot be read"),
    ):
        assert main(["compare", *wrong]) == 2
        assert message in capsys.readouterr().err
