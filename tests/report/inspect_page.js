// The body of a function that says what is wrong with the page that it runs in, each in a few words.
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
