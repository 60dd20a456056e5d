"""Every page, looked at in a browser: narrow and wide, light and dark. Nothing runs over, is cut, is tiny or is pale."""

from __future__ import annotations

import pytest

from tests.helpers.browser import SCHEMES, look, needs_browser
from tests.report.pages import PAGES

WIDTHS = (400, 1300)
FAULTY = """<!doctype html><html><body style="background: #fff; color: #000">
<p style="width: 2000px">runs over</p>
<table style="table-layout: fixed; width: 90px"><tr><td style="white-space: nowrap; overflow: hidden">is cut off here</td></tr></table>
<p style="color: #bbb">pale</p><p style="background: rgba(0, 0, 0, .6); color: #222">dark on dark</p>
<div><svg viewBox="0 0 1000 10" width="300"><text x="0" y="9" style="font-size: 20px">tiny</text></svg></div>
<svg viewBox="0 0 100 20" width="100" role="img" aria-label="a"><text x="80" y="15" style="font-size: 14px">outside</text></svg>
</body></html>"""

#: What is wrong with a page, each in a few words.
INSPECT = r"""
const found = [];
const say = (what, element, more = "") => {
  const text = (element.textContent || "").trim().replace(/\s+/g, " ").slice(0, 60);
  found.push(`${what}: <${element.nodeName.toLowerCase()}> "${text}" ${more}`.trim());
};
const root = document.documentElement;
const seen = (element) => element.getClientRects().length > 0;
const scrolls = (element) => {
  for (let at = element; at && at !== document.body; at = at.parentElement)
    if (["auto", "scroll"].includes(getComputedStyle(at).overflowX)) return true;
  return false;
};

if (root.scrollWidth > root.clientWidth) {
  found.push(`runs over: the page is ${root.scrollWidth} wide, the window ${root.clientWidth}`);
  for (const element of document.querySelectorAll("body *"))
    if (element.getBoundingClientRect().right > root.clientWidth + 1 && !scrolls(element)) say("sticks out", element);
}
for (const cell of document.querySelectorAll("td, th, pre, dd, dt, code, h1, h2, h3, p, li, .card, .card *, .tag, .pair *, .warning")) {
  if (!seen(cell) || getComputedStyle(cell).display === "inline" || ["auto", "scroll"].includes(getComputedStyle(cell).overflowX)) continue;
  if (cell.scrollWidth > cell.clientWidth + 1 || cell.scrollHeight > cell.clientHeight + 1)
    say("is cut", cell, `${cell.scrollWidth}x${cell.scrollHeight} in ${cell.clientWidth}x${cell.clientHeight}`);
}

const parse = (colour) => {
  const parts = colour.match(/[\d.]+/g).map(Number);
  return parts.length > 3 ? parts : [...parts, 1];
};
const over = (front, back) => front.slice(0, 3).map((value, i) => value * front[3] + back[i] * (1 - front[3]));
const canvas = matchMedia("(prefers-color-scheme: dark)").matches && getComputedStyle(root).colorScheme.includes("dark") ? [18, 18, 18] : [255, 255, 255];
const behind = (element) => {
  const layers = [];
  for (let at = element; at; at = at.parentElement) layers.unshift(parse(getComputedStyle(at).backgroundColor));
  return layers.reduce((back, layer) => over(layer, back), canvas);
};
const light = (colour) => {
  const [r, g, b] = colour.map((value) => value / 255).map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (one, other) => {
  const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
for (const element of document.querySelectorAll("body *")) {
  if (["SCRIPT", "STYLE", "OPTION"].includes(element.nodeName) || !seen(element)) continue;
  if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
  const style = getComputedStyle(element), back = behind(element);
  const front = over(parse(element.closest("svg") ? style.fill : style.color), back);
  const ratio = contrast(front, back);
  if (ratio < 4.5) say("is pale", element, `${ratio.toFixed(2)} of ${front.map(Math.round)} on ${back.map(Math.round)}`);
}

for (const svg of document.querySelectorAll("svg")) {
  if (svg.getAttribute("role") !== "img" || !(svg.getAttribute("aria-label") || "").trim()) say("has no words", svg);
  if (!seen(svg)) continue;
  const box = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")].filter((text) => text.textContent.trim());
  const boxes = [];
  for (const text of texts) {
    const matrix = text.getScreenCTM(), size = parseFloat(getComputedStyle(text).fontSize) * Math.hypot(matrix.a, matrix.b);
    if (size < 10) say("is tiny", text, `${size.toFixed(1)} pixels`);
    const place = text.getBoundingClientRect();
    if (place.left < box.left - 1 || place.right > box.right + 1 || place.top < box.top - 1 || place.bottom > box.bottom + 1)
      say("is cut off", text, `${place.left - box.left} to ${place.right - box.left} of ${box.width}`);
    for (const [other, before] of boxes) {
      const wide = Math.min(place.right, other.right) - Math.max(place.left, other.left);
      const high = Math.min(place.bottom, other.bottom) - Math.max(place.top, other.top);
      if (wide > 2 && high > 5) say("covers", text, `"${before}"`);
    }
    boxes.push([place, text.textContent]);
  }
}
for (const figure of document.querySelectorAll(".figure"))
  if ([...figure.children].filter(seen).length !== 1) say("is not drawn once", figure);
return {found, width: root.clientWidth, dark: matchMedia("(prefers-color-scheme: dark)").matches};
"""


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory):
    """What is wrong with each page, by ``name@width``, for each scheme: two calls of the browser in all."""
    pages = {name: make() for name, make in PAGES.items()}
    folder = tmp_path_factory.mktemp("pages")
    return {scheme: look({**pages, "faulty": FAULTY}, WIDTHS, scheme, INSPECT, folder / scheme) for scheme in SCHEMES}


@needs_browser
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
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
