"""What README.md shows of a real run: the heat map, and the last table of the demo. `make readme` runs it.

python tools/readme.py                  # runs `layerselect demo` (a few minutes), then writes both
python tools/readme.py --run runs/demo  # the heat map of a run that is there; the table stays as it is
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "demo-run.png"
BEGIN, END = "<!-- begin: written by make readme -->", "<!-- end: written by make readme -->"
MOST_BYTES = 150_000


def run_demo(out: Path) -> str:
    """Runs the demo and returns what it printed on its standard output: tables and the lines under them."""
    environment = {**os.environ, "COLUMNS": "88", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "layerselect", "demo", "--out", str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True, text=True, cwd=out.parent)
    return done.stdout


def draw_run(run: Path, picture: Path) -> None:
    """The history of a finished run as a heat map."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from layerselect.core.history_views import draw
    from safetensors.numpy import load_file

    rows = load_file(run / "history.safetensors")
    layers = rows["scores"].shape[1]
    plt.rcParams.update({"font.size": 11, "axes.titlesize": 11})
    figure, axes = plt.subplots(figsize=(9.2, 0.3 * layers + 1.25), layout="constrained")
    draw(rows, [str(number) for number in range(layers)], axes)
    axes.set_yticks(range(layers))
    figure.savefig(picture, dpi=120, metadata={"Software": None})
    if picture.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{picture} has {picture.stat().st_size} bytes, more than {MOST_BYTES}: draw it smaller")


def put_table(text: str, table: str) -> str:
    """README with ``table`` between the marks."""
    if BEGIN not in text or END not in text:
        raise SystemExit(f"README.md lacks the marks {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n```text\n{table}\n```\n\n{END}{rest.partition(END)[2]}"


def last_table(printed: str, out: Path) -> str:
    """What the demo printed, from its last table on, as after ``layerselect demo --out runs/demo``."""
    lines = [line.rstrip() for line in printed.replace(str(out), "runs/demo").splitlines()]
    starts = [number for number, line in enumerate(lines) if re.match(r"\s*[┏╭┌+]", line)]
    begin = starts[-1] if starts else 0
    if begin and lines[begin - 1] and not re.search(r"[│┃┘┴╯]", lines[begin - 1]):
        begin -= 1  # its title
    return "\n".join(lines[begin:]).strip("\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="the folder of a finished run; without it the demo is run")
    given = parser.parse_args().run
    if given is not None:
        draw_run(given, PICTURE)
        return
    with TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        table = last_table(run_demo(out), out)
        settings = json.loads((out / "results.json").read_text(encoding="utf-8"))["training"]
        draw_run(out, PICTURE)
    README.write_text(put_table(README.read_text(encoding="utf-8"), table), encoding="utf-8")
    sys.stdout.write(f"{README.name} and {PICTURE.relative_to(ROOT)}: {settings['steps']} steps\n")


if __name__ == "__main__":
    main()
