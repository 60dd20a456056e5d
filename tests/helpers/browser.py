"""A browser without a window: pages are loaded at several widths in one call, and each is looked at by a script."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here (chromium, chromium-browser, google-chrome, chrome): no page is looked at"
)
#: As Blink numbers them.
SCHEMES = {"dark": 0, "light": 1}
_HARNESS = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<body><pre id="found"></pre>{frames}<script>
const found = {{}};
addEventListener("message", (event) => {{
  found[event.data.frame] = event.data.found;
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script>{sources}</body>"""


def look(pages: Mapping[str, str], widths: Sequence[int], scheme: str, script: str, folder: Path) -> dict[str, Any]:
    """Loads every page at every width, and returns what the script found, by ``name@width``.

    Args:
        script: the body of a function whose result is what it found, as JSON.
    """
    assert BROWSER is not None
    folder.mkdir(parents=True, exist_ok=True)
    frames, sources = "", ""
    for name, text in pages.items():
        for width in widths:
            frame = f"{name}@{width}"
            path = folder / f"{len(sources)}.html"
            # The page tells the frame around it, since one file may not look into another.
            tell = f"parent.postMessage({{frame: {json.dumps(frame)}, found: (() => {{ {script} }})()}}, '*')"
            path.write_text(
                text.replace("</body>", f"<script>addEventListener('load', () => {tell})</script></body>"),
                encoding="utf-8",
            )
            frames += f'<iframe width="{width}" height="700" style="border: 0" id="{escape(frame)}"></iframe>'
            sources += (
                f"<script>document.getElementById({json.dumps(frame)}).src = {json.dumps(path.as_uri())}</script>"
            )
    harness = folder / "harness.html"
    harness.write_text(_HARNESS.format(frames=frames, sources=sources), encoding="utf-8")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'browser'}",
        "--window-size=1400,900",
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        "--virtual-time-budget=20000",
        "--dump-dom",
        harness.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    written = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    if written is None:
        pytest.skip(f"{BROWSER} does not start here: {done.stderr[-200:]}")
    found: dict[str, Any] = json.loads(unescape(written[1]) or "{}")
    return found
