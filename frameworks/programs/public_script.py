"""A public script, with its models and data made local and the selector's lines put in: ``public_script SOURCE PATH
ARGUMENT ...``, whose words are those of :func:`frameworks.public_scripts.options`.
"""

from __future__ import annotations

import runpy
import sys

from ..public_scripts import options, patched


def main(source: str, path: str, *words: str, mode: str) -> None:
    script = patched(source, path)
    sys.argv = [str(script), *options(words)]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
