"""A rule is one file: whatever lies in the folder of the rules is found by name, in the help, and by the kernels."""

from __future__ import annotations

import importlib
import sys

import layerselect.rules
import pytest
import torch
from layerselect import FastSelector, LayerSelectError, make_rule
from layerselect.cli.main import main
from layerselect.core import step as core_module
from layerselect.rules import All, TopK, available

from tests.helpers.models import plain, plain_loss

FILE = '''
"""Every layer but the first."""

from dataclasses import dataclass

import torch

from .base import Rule, Selection, no_threshold


@dataclass(eq=False)
class ButTheFirst(Rule):
    """Every layer but the first ``n``."""

    n: int = 1

    name = "but-the-first"
    example = "but-the-first:n=2"
    uses_scores = False

    def select(self, scores, status):
        mask = torch.arange(len(scores), device=scores.device) >= self.n
        return Selection(mask & (status != 0), no_threshold(scores))

    def kernel_options(self, num_layers, device):
        return {"kind": "fixed", "fixed": torch.arange(num_layers, device=device) >= self.n}
'''


@pytest.fixture
def another(tmp_path, monkeypatch):
    (tmp_path / "but_the_first.py").write_text(FILE)
    monkeypatch.setattr(layerselect.rules, "__path__", [*layerselect.rules.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield
    sys.modules.pop("layerselect.rules.but_the_first", None)
    vars(layerselect.rules).pop("but_the_first", None)


def test_it_is_found_by_its_name(another):
    assert "but-the-first" in available()
    assert make_rule("but-the-first:n=3").n == 3
    with pytest.raises(LayerSelectError, match="no option 'm'; it has: n"):
        make_rule("but-the-first:m=3")


def test_the_help_has_its_example(another, capsys):
    with pytest.raises(SystemExit):
        main(["intent", "--help"])
    assert "but-the-first:n=2" in "".join(line.strip() for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("kernels", [False, True])
def test_it_decides(another, monkeypatch, kernels):
    monkeypatch.setattr(core_module, "_has_kernels", lambda settings: kernels)
    model = plain(4)
    with FastSelector(model, "but-the-first:n=2", mode="gate") as selector:
        plain_loss(model, 0).backward()
        selector.step()
        assert selector.selected() == [2, 3]


def test_it_is_gone_without_its_file():
    assert "but-the-first" not in available()


def test_kernels_are_not_told_of_what_a_subclass_chooses_otherwise():
    class Lowest(TopK):
        def select(self, scores, status):
            return super().select(-scores, status)

    class Named(TopK):
        """Chooses as its parent does."""

    class Told(All):
        def select(self, scores, status):
            return super().select(scores, status)

        def kernel_options(self, num_layers, device):
            return {"kind": "all"}

    cpu = torch.device("cpu")
    assert Lowest(2).kernel_options(4, cpu) is None
    assert Named(2).kernel_options(4, cpu) == {"kind": "top", "k": 2}
    assert Told().kernel_options(4, cpu) == {"kind": "all"}
