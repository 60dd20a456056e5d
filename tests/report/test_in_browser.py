"""Every page in a browser, narrow and wide, light and dark: nothing runs over, is cut, is tiny or is pale."""

from __future__ import annotations

from pathlib import Path

import pytest
from layerselect.report.revise import render

from tests.helpers.browser import SCHEMES, look, needs_browser
from tests.report.pages import PAGES
from tests.report.test_revise_report import make, prediction

#: Colours are all that a scheme changes, and they do not depend on the width.
WIDTHS = {"light": (400, 1300), "dark": (1300,)}
FAULTY = """<!doctype html><html><body style="background: #fff; color: #000">
<p style="width: 2000px">runs over</p>
<table style="table-layout: fixed; width: 90px"><tr>
<td style="white-space: nowrap; overflow: hidden">is cut off here</td></tr></table>
<p style="color: #bbb">pale</p><p style="background: rgba(0, 0, 0, .6); color: #222">dark on dark</p>
<div><svg viewBox="0 0 1000 10" width="300"><text x="0" y="9" style="font-size: 20px">tiny</text></svg></div>
<svg viewBox="0 0 100 20" width="100" role="img" aria-label="a">
<text x="80" y="15" style="font-size: 14px">outside</text></svg>
</body></html>"""

#: What is wrong with a page, each in a few words.
INSPECT = (Path(__file__).parent / "inspect_page.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory):
    """What is wrong with each page, by ``name@width``, for each scheme: two calls of the browser in all."""
    pages = {name: make() for name, make in PAGES.items()}
    folder = tmp_path_factory.mktemp("pages")
    return {
        scheme: look({**pages, "faulty": FAULTY}, WIDTHS[scheme], scheme, INSPECT, folder / scheme)
        for scheme in SCHEMES
    }


@needs_browser
@pytest.mark.parametrize(("scheme", "width"), [(scheme, width) for scheme in SCHEMES for width in WIDTHS[scheme]])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read(looked_at, name, width, scheme):
    seen = looked_at[scheme][f"{name}@{width}"]
    assert seen["dark"] == (scheme == "dark")
    assert width - 20 <= seen["width"] <= width  # less a scroll bar
    assert seen["found"] == []


@needs_browser
def test_what_is_wrong_is_found(looked_at):
    found = " ".join(looked_at["light"]["faulty@1300"]["found"])
    for words in (
        "runs over",
        'is cut: <td> "is cut',
        'is pale: <p> "pale"',
        'is pale: <p> "dark on dark"',
        "has no words",
        'is tiny: <text> "tiny"',
        'is cut off: <text> "outside"',
    ):
        assert words in found


@needs_browser
def test_a_long_list_of_revisions_is_shown_bit_by_bit(tmp_path):
    rows = [prediction(f"d{i}", "a b", "a c", "a d", sari=float(i)) for i in range(65)]
    text = render(make(predictions=rows, transfer=None))
    script = """
    const get = (id) => document.getElementById(id), found = [];
    const note = () => found.push([
      document.querySelectorAll(".pair:not([hidden])").length, get("more").hidden, get("all").hidden,
    ]);
    note();
    get("more").click(); note();
    get("all").click(); note();
    get("sort").dispatchEvent(new Event("change")); note();
    dispatchEvent(new Event("beforeprint")); note();
    return found;
    """
    found = look({"revise": text}, [1300], "light", script, tmp_path)
    assert found["revise@1300"] == [
        [20, False, False],
        [40, False, False],
        [65, True, True],
        [20, False, False],
        [65, True, True],
    ]
