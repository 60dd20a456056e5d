"""What is said of the hidden states that a run keeps: their size before they are written, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..utils.sizes import show_bytes


def cache_size_line(record: Mapping[str, Any]) -> str:
    """What the hidden states below a cut will take, by ``layerselect.tasks.run.cache_size.size_record``."""
    memory = show_bytes(record["memory"])
    if record["folder"] is None:
        where = f"up to {memory} in memory, the rest in a temporary folder"
    else:
        where = f"in {record['folder']} (up to {memory} of it also in memory)"
    return (
        f"hidden states below layer {record['cut']} of {record['layers']}: {record['bytes_per_token']:,} bytes a "
        f"token, about {show_bytes(record['bytes'])} for {record['tokens']:,} tokens, {where}"
    )


def cache_sentence(facts: Mapping[str, Any]) -> str | None:
    """:func:`cache_facts_line` as a sentence of a page."""
    line = cache_facts_line(facts)
    return None if line is None else f"{line[0].upper()}{line[1:]}."


def cache_facts_line(facts: Mapping[str, Any]) -> str | None:
    """What a training did with the hidden states below its cut, by its facts; ``None`` where none were to be kept."""
    if "states_cached" not in facts:
        return None
    cut = facts["cut"]
    if not facts["states_cached"]:
        if cut is None:
            return "no hidden states were kept: the training ended before the cut was chosen"
        if cut == 0:
            return "no hidden states were kept: the rule for the cut selects the lowest layer"
        return (
            f"no hidden states were kept: below layer {cut} of {facts['num_layers']}, which never trained, computing "
            "them is faster than reading"
        )
    half = " in half precision" if facts["state_cache_precision"] == "half" else ""
    return (
        f"hidden states below layer {cut} of {facts['num_layers']}{half}: {facts['states_computed']:,} examples "
        f"computed, {facts['states_read']:,} read; {facts['states_memory_mb']:,.1f} MB in memory, "
        f"{facts['states_written_mb']:,.1f} MB written"
    )
