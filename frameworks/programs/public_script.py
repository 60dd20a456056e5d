"""A public script, with its models and data made local and the selector's lines put in: ``public_script SOURCE PATH
ARGUMENT ...``.

``MODEL KIND``, ``DATA KIND`` and ``FOLDER KIND`` stand for the options with a small model and a small data set of that
kind, and for the data set's folder.
"""

from __future__ import annotations

import runpy
import sys

from ..public_scripts import patched
from ..tiny import data_folder, folder


def main(source: str, path: str, *words: str, mode: str) -> None:
    script = patched(source, path)
    sys.argv = [str(script), *_options(list(words))]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


def _options(words: list[str]) -> list[str]:
    options = []
    while words:
        word = words.pop(0)
        if word == "MODEL":
            options += ["--model_name_or_path", folder(words.pop(0))]
        elif word == "DATA":
            options += ["--dataset_name", data_folder(words.pop(0))]
        elif word == "FOLDER":
            options.append(data_folder(words.pop(0)))
        else:
            options.append(word)
    return options
