import pytest
from layerselect import LayerSelectError
from layerselect.rules import make_rule
from layerselect.state_cache.cut import DEFAULT_CUT
from layerselect.tasks.compare import METHODS, CompareConfig, parse_variants
from layerselect.tasks.compare.methods import split_list
from layerselect.tasks.run.settings import TrainingSettings

BASE = {"data": "demo", "model": "demo"}


def test_every_method_has_a_rule_that_can_be_built():
    for method in METHODS.values():
        assert make_rule(method.settings["rule"]).name == method.settings["rule"].partition(":")[0]


def test_lists_are_split_outside_brackets():
    assert split_list("all, fixed:layers=[0,1];x={1,2},ir") == ["all", "fixed:layers=[0,1];x={1,2}", "ir"]
    assert split_list(" , ") == []


def test_rows_are_methods_with_adapters():
    names = [v.name for v in parse_variants(["all", "topk:k=2", "ir/none"], ["lora"])]
    assert names == ["all/lora", "topk:k=2/lora", "ir/none"]
    crossed = [v.name for v in parse_variants(["all", "ir"], ["lora", "none"])]
    assert crossed == ["all/lora", "all/none", "ir/lora", "ir/none"]


def test_folders_are_plain_names():
    (variant,) = parse_variants(["fixed:layers=[0,1]"], ["lora"])
    assert variant.folder == "fixed-layers-0-1-lora"


def test_a_row_has_settings_of_its_own():
    """In any order; the name says them in one."""
    (row,) = parse_variants(["ir@words@10%@pair"], ["lora"])
    assert row.name == "ir/lora@pair@10%@words"
    own = {"format": "pair", "train_size": "10%", "offset": "words"}
    assert row.own == own
    assert row.settings == {"rule": "variance", "adapter": "lora", **own}
    assert row.plain.name == "ir/lora"
    assert row.short == "ir@pair@10%@words"
    (row,) = parse_variants(["ir@blend@10%"], ["lora"])
    assert (row.name, row.short, row.folder) == ("ir/lora@10%@blend", "ir@10%@blend", "ir-lora-10pc-blend")
    assert row.own == {"train_size": "10%", "blend": "auto"}


@pytest.mark.parametrize(
    ("methods", "adapters", "message"),
    [
        (["al"], ["lora"], "neither a method"),
        (["all"], ["lra"], "no adapter 'lra'"),
        (["all", "all/lora"], ["lora"], "all/lora twice"),
        (["topk:k=2", "topk;k=2"], ["lora"], "neither a method"),
        ([], ["lora"], "names no method"),
        (["all@words@words"], ["lora"], "two of @words and @words"),
        (["all@blend@blend"], ["lora"], "two of @blend and @blend"),
        (["all@blend@words"], ["lora"], "has @words and @blend, which both bring in words"),
        (["all@word"], ["lora"], "nor how much trains, as in @500 or @10%, nor @words or @blend"),
    ],
)
def test_bad_lists(methods, adapters, message):
    with pytest.raises(LayerSelectError, match=message):
        parse_variants(methods, adapters)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "--seeds 0"),
        ({"base": {**BASE, "rule": "all"}}, "--rule is what a comparison varies"),
        ({"base": {**BASE, "epochs": -1}}, "--epochs -1"),
        ({"reference": "lisa"}, "--reference lisa is none"),
        ({"task": "translate"}, "--task translate is not one of intent, revise"),
        ({"base": {**BASE, "beams": 2}}, "--beams is no option of --task intent"),
        ({"task": "revise", "base": {**BASE, "window": 2}}, "--window is no option of --task revise"),
        ({"task": "revise", "base": {**BASE, "transfer": "all"}}, "--transfer is what a comparison varies"),
        ({"task": "revise", "methods": ("ir@words",)}, "ir/lora@words has a setting of its own for --offset, which"),
        ({"task": "revise", "methods": ("ir@pair",)}, "ir/lora@pair has a setting of its own for --format, which"),
        ({"task": "revise", "methods": ("head",)}, "neither a method .*nor a rule"),
        ({"adapter_lr": {"dora": 1e-3}}, "--adapter-lr dora=0.001: no compared row"),
        ({"adapter_lr": {"lora": -1.0}}, "--lr -1.0"),
    ],
)
def test_bad_settings_are_found_before_anything_runs(changes, message, tmp_path):
    with pytest.raises(LayerSelectError, match=message):
        CompareConfig(**{"out": str(tmp_path / "c"), "base": BASE, "methods": ("all", "ir"), **changes})
    assert not (tmp_path / "c").exists()


def test_models_are_compared_unless_something_says_that_answers_are_blended(tmp_path):
    def blends(**changes):
        config = CompareConfig(out=str(tmp_path / "c"), base={**BASE, **changes}, methods=("all", "ir@blend"))
        return [config.settings(run, "x").blend for run in config.runs()[:2]]

    assert blends() == ["none", "auto"]
    assert blends(blend=0.4) == [0.4, "auto"]


def test_what_is_said_of_the_cut_is_not_for_rows_whose_budget_says_it(tmp_path):
    base = {**BASE, "state_cache": "auto", "cut": "rule"}
    config = CompareConfig(out=str(tmp_path / "c"), base=base, methods=("all", "budget", "budget-cached"))
    cuts = [config.settings(run, "x").cut for run in config.runs()[:3]]
    assert cuts == ["rule", DEFAULT_CUT, DEFAULT_CUT]


def test_what_is_said_of_the_cache_is_for_the_rows_that_have_one(tmp_path):
    def memory(*methods):
        base = {**BASE, "state_cache_memory": "7GB"}
        config = CompareConfig(out=str(tmp_path / "c"), base=base, methods=methods)
        return [config.settings(run, "x").state_cache_memory for run in config.runs()[: len(methods)]]

    assert memory("all", "budget-cached") == [TrainingSettings.state_cache_memory, "7GB"]
    with pytest.raises(LayerSelectError, match="--state-cache-memory 7GB says nothing without --state-cache"):
        memory("all", "budget")


def test_the_reference_is_all_or_the_first():
    def reference(methods, **changes):
        return CompareConfig(out="x", base=BASE, methods=methods, **changes).reference_variant.name

    assert reference(("ir", "all")) == "all/lora"
    assert reference(("ir", "random")) == "ir/lora"
    assert reference(("ir", "all"), reference="ir") == "ir/lora"
    assert reference(("ir", "all", "ir/none"), reference="ir/none") == "ir/none"
