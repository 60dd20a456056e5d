"""Rules of other packages: the example of CONTRIBUTING.md, installed as a package would be, and packages that are
broken.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

import pytest
import torch
from layerselect import FastSelector, LayerSelectError, TopK, make_rule
from layerselect.rules import available

from tests.helpers.models import plain, plain_loss
from tests.rules.choosing import bound, choose

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def snippet(language: str) -> str:
    section = GUIDE.read_text(encoding="utf-8").partition("## Adding a rule\n")[2]
    return re.search(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)[1]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package with entry points on the path, as pip would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)

    def put(entries: str, package: str = "my_package", code: str = "", distribution: str = "my-package") -> None:
        folder = tmp_path / package
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "rules.py").write_text(code)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[layerselect.rules]\n{entries}\n")

    yield put
    for name in set(sys.modules) - known:
        if name.partition(".")[0].startswith("my_package"):
            del sys.modules[name]


def test_the_example_of_the_guide(install):
    group, entry = re.fullmatch(r'\[project\.entry-points\."(.*)"\]\n(\S+ = ".*")\n', snippet("toml")).groups()
    assert group == "layerselect.rules"
    install(entry.replace('"', ""), code=snippet("python"))
    assert available()[-1] == "above-mean"
    assert "my_package" not in sys.modules, "listing rules imports none"
    rule = bound("above-mean:factor=1.5", 4)
    assert choose(rule, [1.0, 2.0, 1.0, 4.0]) == {3}
    assert choose(rule, [1.0, 2.0, 1.0, 4.0], [1, 1, 1, 0]) == set()
    model = plain()
    with FastSelector(model, "above-mean:factor=0.9", mode="gate") as selector:
        selector.attach(torch.optim.SGD(model.parameters(), lr=0.1))
        plain_loss(model).backward()
        selector.step()
        scores = selector.scores.tolist()
        assert selector.selected() == [i for i, s in enumerate(scores) if s >= 0.9 * sum(scores) / 6]
        with FastSelector(plain(), "above-mean", mode="gate") as other:
            other.load_state_dict(selector.state_dict())
    with pytest.raises(LayerSelectError, match="rule 'above-mean' has no option 'k'; it has: factor"):
        make_rule("above-mean:k=1")


@pytest.mark.parametrize(
    ("code", "entry", "message"),
    [
        (
            "import nowhere_to_be_found",
            "x = my_package.rules:X",
            "cannot be loaded .ModuleNotFoundError: No module named",
        ),
        ("raise OSError('no licence')", "x = my_package.rules:X", "cannot be loaded .OSError: no licence"),
        ("", "x = my_package.rules:X", "cannot be loaded .AttributeError"),
        ("X = 3", "x = my_package.rules:X", "is not a dataclass derived from layerselect.Rule .*X is 3"),
        ("from layerselect import TopK as X", "x = my_package.rules:X", "is not a dataclass .* with name = 'x'"),
    ],
)
def test_a_broken_package_is_named(install, code, entry, message):
    install(entry, code=code)
    assert "x" in available()
    with pytest.raises(LayerSelectError, match=f"rule 'x' of package 'my-package' {message}"):
        make_rule("x")


def test_a_built_in_name_stays_ours(install, caplog):
    install("topk = my_package.rules:X", code="raise SystemExit('must not be imported')")
    assert type(make_rule("topk:k=2")) is TopK
    with caplog.at_level(logging.WARNING, logger="layerselect"):
        assert available().count("topk") == 1
    assert "package 'my-package' registers a rule by the built-in name 'topk'" in caplog.text


def test_two_packages_with_one_name(install):
    install("x = my_package.rules:X")
    install("x = my_package_too.rules:X", package="my_package_too", distribution="my-package-too")
    assert available().count("x") == 1
    with pytest.raises(LayerSelectError, match="rule 'x' is registered by .* and .*: uninstall all of them but one"):
        make_rule("x")


def test_an_unknown_name_lists_what_there_is(install):
    install("x = my_package.rules:X")
    with pytest.raises(
        LayerSelectError, match="there is no rule 'y'; the rules are: all, .*, variance, weight-norm, x$"
    ):
        make_rule("y")
