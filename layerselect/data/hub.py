"""Revision sets of the hub, read through `datasets` (no scripts are run: only data files)."""

from __future__ import annotations

import logging

from ._extras import require
from .arrow_tables import class_names, name_classes
from .schema import CorpusError
from .splits import split_name
from .tables import Table

log = logging.getLogger(__name__)


def read_hub(name: str) -> list[Table]:
    """Every split of a hub set as a table; class numbers become their names.

    Raises:
        CorpusError: there is no such set, or it cannot be reached from here.
    """
    datasets = require("datasets", f"Reading {name} from the hub")
    log.info("reading %s from the hub (no file or folder has this name)", name)
    try:
        found = datasets.load_dataset(name)
    # The hub client raises errors of four libraries (HTTP, files, formats, its own), most of them
    # without a common base; each means the same for the user, and is named in the message.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise CorpusError(
            f"there is no local file or folder {name}, and it could not be loaded from the hub "
            f"({type(error).__name__}: {reason}): check the name or the connection"
        ) from error
    tables = []
    for split, rows in found.items():
        names = class_names(rows.features.to_dict())
        table = Table(f"{name}[{split}]", columns=list(rows.column_names), split=split_name(split) or "")
        for number, record in enumerate(rows, start=1):
            table.add(number, name_classes(record, names))
        tables.append(table)
    if not any(table.records for table in tables):
        raise CorpusError(f"the hub set {name} has no rows")
    return tables
