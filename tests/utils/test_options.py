"""Settings that are declared once: fields with help, choices and limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from layerselect import LayerSelectError
from layerselect.utils.options import check_values, flag_of, like, options_of, setting, types_of


@dataclass(frozen=True)
class Some:
    place: str = setting(help="where", group="a")
    count: int = setting(3, "how many", group="a", least=1, most=9)
    share: float = setting(0.5, lambda: "how much", group="b", least=0, below=1)
    rate: float | None = setting(None, "how fast", group="b", above=0)
    kind: str = setting("x", "which", group="b", choices=("x", "y"))
    loud: bool = setting(False, "whether", flag="--noisy")
    size: int | str = setting("2GB", "how large")
    other: int = 4

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True)
class More(Some):
    count: int = like(Some, "count", 5, least=4)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"count": 0}, "--count 0 must be at least 1"),
        ({"count": 10}, "--count 10 must be at most 9"),
        ({"count": "3"}, "--count 3 is no whole number"),
        ({"count": True}, "is no whole number"),
        ({"count": 2.0}, "is no whole number"),
        ({"count": None}, "is no whole number"),
        ({"share": 1.0}, "--share 1.0 must be in [0, 1)"),
        ({"share": -0.1}, "must be in [0, 1)"),
        ({"share": float("nan")}, "is not a finite number"),
        ({"rate": 0}, "--rate 0 must be above 0"),
        ({"rate": float("inf")}, "is not a finite number"),
        ({"kind": "z"}, "--kind z is not one of x, y"),
        ({"kind": None}, "is not one of x, y"),
        ({"loud": "yes"}, "--noisy yes is no yes or no"),
    ],
)
def test_what_is_out_of_its_limits(value, words):
    with pytest.raises(LayerSelectError) as error:
        Some("here", **value)
    assert words in str(error.value)


def test_what_is_within_them():
    Some("here", count=np.int64(9), share=np.float32(0.25), rate=1e-9, kind="y", loud=True, size=5)
    assert More("here").count == 5
    with pytest.raises(LayerSelectError, match="at least 4"):
        More("here", count=3)


def test_what_is_known_of_the_fields():
    assert [field.name for field, _ in options_of(Some)] == ["place", "count", "share", "rate", "kind", "loud", "size"]
    assert {field.name: option.text() for field, option in options_of(Some)}["share"] == "how much"
    assert (
        flag_of(Some, "loud") == "--noisy" and flag_of(Some, "place") == "--place" and flag_of(None, "a_b") == "--a-b"
    )
    assert types_of(Some)["rate"] == (float, True) and types_of(Some)["size"] == (str, False)
