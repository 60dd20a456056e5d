"""``layerselect`` from a process that has imported everything already: a command begins at once.

Importing torch, transformers and peft takes longer than most commands of the pages. This process imports them once;
each command is a fork of it, with the arguments, folder, environment and files of its caller.

    python -m docs_tests.warm SOCKET
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import struct
import sys
import traceback
from pathlib import Path

#: Of others only: what this package imports, it may import elsewhere tomorrow.
_HEAVY = (
    "torch",
    "transformers.trainer",
    "transformers.generation.utils",
    "peft",
    "accelerate",
    "datasets",
    "pandas",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.feature_extraction.text",
    "matplotlib.pyplot",
    "rich.progress",
)

CALLER = """\
#!{python} -SE
import json, os, socket, struct, sys
there = socket.socket(socket.AF_UNIX)
there.connect({place!r})
said = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(there, [struct.pack("!I", len(said))], [0, 1, 2])
there.sendall(said)
sys.exit(int(there.recv(16) or b"70"))
"""


def write_caller(program: Path, place: Path) -> None:
    """A program ``layerselect`` that asks the process at ``place``."""
    program.write_text(CALLER.format(python=sys.executable, place=str(place)), encoding="utf-8")
    program.chmod(0o755)


def serve(place: str) -> None:
    """Answers one caller after the other, until the process is ended."""
    os.environ.setdefault("MPLBACKEND", "agg")
    for name in _HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(place)
    listening.listen()
    while True:
        caller, _ = listening.accept()
        with caller:
            header, files, _, _ = socket.recv_fds(caller, 4, 3)
            (length,) = struct.unpack("!I", header)
            said = b""
            while len(said) < length:
                said += caller.recv(length - len(said))
            child = os.fork()
            if child == 0:
                listening.close()
                caller.close()
                os._exit(_run(*json.loads(said), files))
            for file in files:
                os.close(file)
            _, status = os.waitpid(child, 0)
            with contextlib.suppress(OSError):
                caller.sendall(str(os.waitstatus_to_exitcode(status) & 255).encode())


def _run(arguments: list[str], folder: str, environment: dict[str, str], files: list[int]) -> int:
    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww"))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["layerselect", *arguments]
    try:
        from layerselect.cli import main

        return main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
