"""How help is laid out: paragraphs are wrapped, examples keep their lines."""

from __future__ import annotations

import argparse
import textwrap


class HelpText(argparse.HelpFormatter):
    """Wraps the paragraphs of a description and of an epilog; one with an indented line is left as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = (
            paragraph if "\n " in paragraph else textwrap.fill(" ".join(paragraph.split()), width)
            for paragraph in text.strip("\n").split("\n\n")
        )
        return textwrap.indent("\n\n".join(paragraphs), indent)
