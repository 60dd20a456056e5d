"""A second process is refused where one writes; a killed one is no obstacle."""

import errno
import os
import socket
import subprocess
import sys

import pytest
from layerselect import LayerSelectError
from layerselect.utils import claims
from layerselect.utils.claims import Claim

HOLD = """
import sys
from pathlib import Path
from layerselect.utils.claims import Claim
claim = Claim(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that writes ``new/out``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "new" / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_refused_and_the_first_not_disturbed(holder, tmp_path):
    target = tmp_path / "new" / "out"
    for _ in range(2):
        with pytest.raises(
            LayerSelectError, match=rf"another run is writing to .*out.partial' \(process {holder.pid} on"
        ):
            Claim(target)
    Claim(tmp_path / "new" / "other").release()
    holder.communicate()  # which ends it
    assert not (tmp_path / "new").exists()  # nothing came into the folder that was made for it
    Claim(target).release()


def test_what_a_killed_process_left_does_not_block(holder, tmp_path):
    holder.kill()
    holder.wait()
    lock = tmp_path / "new" / ".out.lock"
    assert lock.exists()
    Claim(tmp_path / "new" / "out").release()
    assert not lock.exists()


def test_a_folder_with_something_in_it_stays(tmp_path):
    claim = Claim(tmp_path / "a" / "b" / "out")
    (tmp_path / "a" / "kept").write_text("")
    claim.release()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "kept"]


def test_the_other_processes_of_a_launch_claim_nothing(holder, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    Claim(tmp_path / "new" / "out").release()
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(LayerSelectError, match="another run"):
        Claim(tmp_path / "new" / "out")


class _NoLocks:
    LOCK_EX = LOCK_NB = 0

    @staticmethod
    def lockf(descriptor, flags):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize("locks", [_NoLocks, None], ids=["a file system without locks", "a system without locks"])
def test_without_locks_the_process_is_looked_for(holder, tmp_path, monkeypatch, locks):
    monkeypatch.setattr(claims, "fcntl", locks)
    target = tmp_path / "new" / "out"
    with pytest.raises(LayerSelectError, match="another run .* or remove .*out.lock' if that run has ended"):
        Claim(target)
    holder.kill()
    holder.wait()
    Claim(target).release()


HOST = socket.gethostname()
LEFT = {
    "nothing": ("", False),
    "no process": ("none of ours\n", False),
    "a digit that is none": ("² here 1\n", False),
    "a huge number": (f"{10**30} {HOST} 1\n", False),
    "bytes": ("\ufffd\0\n", False),
    "the number given to another process": (f"1 {HOST} 12345678901\n", False),
    "another machine": ("1 elsewhere 5\n", True),
    "a living process": (f"{os.getppid()} {HOST} {claims._started(os.getppid())}\n", True),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_a_lock_without_locks_may_hold(tmp_path, monkeypatch, case):
    monkeypatch.setattr(claims, "fcntl", None)
    content, blocks = LEFT[case]
    (tmp_path / ".out.lock").write_text(content)
    if blocks:
        with pytest.raises(LayerSelectError, match="another run"):
            Claim(tmp_path / "out")
    else:
        Claim(tmp_path / "out").release()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(LayerSelectError, match="nothing can be written in .*Read-only"):
        Claim(tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
