"""What a comparison's folder says it is: the settings of its runs, its rows and seeds, and how its table is shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import LayerSelectError
from ...utils.continued import check_continues
from ...utils.folders import new_file
from ...utils.saved_files import DamagedFile, read_json
from ...utils.saved_schema import Fields, Items, Mapped, Maybe, Number, Text, Whole
from .config import CompareConfig
from .kept import KEPT
from .methods import parse_variants
from .runs import RUNS
from .tasks import TASKS

STATE = "compare.json"
_VERSION = 2
_KIND = Fields(
    {"settings": Mapped()},
    optional={
        "rows": Items(Text(), least=1),
        "seeds": Whole(low=1),
        "shown": Fields(optional={"reference": Maybe(Text()), "margin": Maybe(Number()), "split": Maybe(Text())}),
    },
)


def check_place(folder: Path, config: CompareConfig, overwrite: bool) -> None:
    """Finds out whether the comparison may go there.

    Raises:
        LayerSelectError: something else is there, or a comparison with other settings.
    """
    saved = _saved(folder)
    settings = None if saved is None else saved["settings"]
    check_continues(folder, settings, config.fixed(), what="comparison", overwrite=overwrite)


def open_folder(folder: Path, config: CompareConfig, overwrite: bool) -> None:
    """Makes the folder, or takes up the comparison in it, which then has the rows and seeds of both."""
    check_place(folder, config, overwrite)
    if overwrite:
        for name in (RUNS, KEPT):
            shutil.rmtree(folder / name, ignore_errors=True)
    (folder / RUNS).mkdir(parents=True, exist_ok=True)
    saved = (None if overwrite else _saved(folder)) or {}
    rows = [*saved.get("rows", ()), *(variant.name for variant in config.variants)]
    content = {
        "version": _VERSION,
        "settings": config.fixed(),
        "rows": list(dict.fromkeys(rows)),
        "seeds": max(saved.get("seeds", 1), config.seeds),
        "shown": {name: getattr(config, name) for name in ("reference", "margin", "split")},
    }
    with new_file(folder / STATE) as scratch:
        scratch.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def saved_config(
    folder: Path, *, add: Sequence[str] = (), places: Mapping[str, Any] | None = None, **changes: Any
) -> CompareConfig:
    """The comparison in a folder, as its file says it.

    Args:
        add: more rows, as for ``--methods``; one without an adapter gets that of the first row. Those that are there
            already stay as they are.
        places: settings of the runs that change nothing but where they run.
        changes: fields of the configuration that are given anew; ``seeds`` never become fewer.

    Raises:
        LayerSelectError: no comparison is there, or it was made by a release that did not write its rows down.
    """
    saved = _saved(folder)
    if saved is None:
        raise LayerSelectError(f"{str(folder)!r} holds no comparison of layerselect: give the --out of one")
    if "rows" not in saved or "seeds" not in saved:
        raise LayerSelectError(
            f"the comparison in {str(folder)!r} does not say its rows, as an earlier release made it: repeat its "
            "command once, which trains nothing that is finished"
        )
    base = {**saved["settings"], **(places or {})}
    own = {name: base.pop(name) for name in ("folds", "task", "adapter_lr") if name in base}
    first = saved["rows"][0].partition("@")[0].rpartition("/")[2]
    task = TASKS[own.get("task", CompareConfig.task)]
    added = [each.name for each in parse_variants(add, [first], task.methods, task.paper)] if add else []
    rows = [*saved["rows"], *(each for each in added if each not in saved["rows"])]
    shown = {name: value for name, value in saved.get("shown", {}).items() if value is not None}
    changes["seeds"] = max(saved["seeds"], changes.get("seeds", 1))
    return CompareConfig(
        out=str(folder), base=base, methods=tuple(rows), adapters=(first,), **{**own, **shown, **changes}
    )


def _saved(folder: Path) -> dict[str, Any] | None:
    try:
        saved: dict[str, Any] = read_json(folder / STATE, _KIND, advice="remove it", constants=True)
    except DamagedFile:
        return None
    return saved
