"""Streams as shells leave them: closed, of another encoding, full, or without a reader."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time

import layerselect.tasks.intent as task
import pytest
from layerselect.cli import main
from layerselect.cli.interrupts import held_back
from layerselect.cli.streams import json_line, prepare_streams, write_data

ODD = "größe 文 \U0001f600"
COMMAND = ["intent", "--data", "demo", "--model", "demo", "--out", "x"]


class Stream(io.TextIOWrapper):
    """A stream of some encoding whose bytes can be read afterwards."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)

    def written(self):
        self.flush()
        return self.buffer.getvalue()


class Broken(io.TextIOWrapper):
    def __init__(self, number):
        super().__init__(io.BytesIO(), encoding="utf-8")
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


@pytest.fixture(autouse=True)
def usual_interrupts():
    """A shell that runs the tests in the background has Ctrl-C ignored, and commands leave that as it is."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def fails(monkeypatch, tmp_path):
    """Lets ``layerselect intent`` fail with an error."""
    monkeypatch.chdir(tmp_path)

    def with_error(error):
        def run(*args, **kwargs):
            raise error

        monkeypatch.setattr(task, "run_intent", run)

    return with_error


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16", "utf-8"])
def test_no_character_stops_a_command(monkeypatch, encoding):
    stream = Stream(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_streams()
    stream.write(ODD)
    assert "gr" in stream.written().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("value", [ODD, "\ud800", "\u2028\x85\0"])
def test_what_programs_read_is_utf8_whatever_the_locale_says(monkeypatch, encoding, value):
    stream = Stream(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    write_data(json_line({"text": value}))
    assert json.loads(stream.written().decode("utf-8")) == {"text": value}


def test_a_corpus_is_described_as_json_in_any_encoding(monkeypatch, tmp_path):
    rows = "".join(f"It are {i}.,It is {i}.,{ODD}\n" for i in range(6))
    (tmp_path / "c.csv").write_text("before,after,label\n" + rows, encoding="utf-8")
    stream = Stream("ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["data", "describe", str(tmp_path / "c.csv"), "--json"]) == 0
    assert ODD in str(json.loads(stream.written().decode("utf-8")))


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_a_closed_stream_gets_an_end(monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    prepare_streams()
    opened = getattr(sys, name)
    assert opened.read() == "" if name == "stdin" else opened.write(ODD)
    opened.close()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("20", "60"),
        ("0", "60"),
        ("-5", "80"),
        ("many", "80"),
        ("²", "80"),
        ("120", "120"),
        ("", ""),
        ("9" * 5000, None),
    ],
)
def test_columns_in_which_a_table_says_something(monkeypatch, given, wanted):
    monkeypatch.setenv("COLUMNS", given)
    prepare_streams()
    assert os.environ["COLUMNS"] == (given if wanted is None else wanted)


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_an_output_whose_reader_is_gone(monkeypatch, capsys, more):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["data", "describe", "demo", *more]) == 141
    assert capsys.readouterr().err == ""


def test_an_output_that_is_full(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken(errno.ENOSPC))
    assert main(["data", "describe", "demo"]) == 2
    message = capsys.readouterr().err
    assert "the disk is full" in message and message.count("\n") == 1


def test_an_error_that_cannot_be_said_keeps_its_status(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", Broken(errno.EPIPE))
    assert main(["data", "describe", str(tmp_path / "nowhere.csv")]) == 2


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "a/file"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        RuntimeError("basic_ios::clear: iostream error"),
        type("SafetensorError", (Exception,), {})(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),
    ],
)
def test_a_full_disk_is_one_sentence_that_says_how_to_go_on(capsys, fails, error):
    fails(error)
    assert main(COMMAND) == 2
    message = capsys.readouterr().err
    assert "the disk is full" in message and "--resume" in message and message.count("\n") == 1


@pytest.mark.parametrize("number", [errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES])
def test_what_is_wrong_with_a_disk_is_one_sentence_whoever_says_it(capsys, fails, number):
    """safetensors and tokenizers are written in Rust, whose errors have no number but in their text."""
    text = os.strerror(number)
    for error in (OSError(number, text), RuntimeError(f"Error while serializing: {text} (os error {number})")):
        fails(error)
        assert main(COMMAND) == 2
        message = capsys.readouterr().err
        assert text in message and message.count("\n") == 1
        assert ("--resume" in message) == (number == errno.EFBIG)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")]
)
def test_too_little_memory_is_one_sentence(capsys, fails, error):
    fails(error)
    assert main(COMMAND) == 2
    assert "not enough memory" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("no"), KeyError("x")])
def test_a_defect_keeps_its_traceback(fails, error):
    fails(error)
    with pytest.raises(type(error)):
        main(COMMAND)


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_request_to_stop_that_an_import_makes_another_error_of(monkeypatch, capsys, tmp_path, name, status):
    monkeypatch.chdir(tmp_path)

    def run(*args, **kwargs):
        try:
            signal.raise_signal(getattr(signal, name))
        except BaseException:
            raise ModuleNotFoundError("Could not import module 'BloomPreTrainedModel'") from None

    monkeypatch.setattr(task, "run_intent", run)
    assert main(COMMAND) == status
    assert capsys.readouterr().err.count("layerselect: ") == 1
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_an_interruption_that_is_held_back_comes_afterwards(capsys):
    done = []
    with pytest.raises(SystemExit) as caught, held_back():
        signal.raise_signal(signal.SIGINT)
        done.append("loaded")
    assert (caught.value.code, done) == (130, ["loaded"])
    assert capsys.readouterr().err == "\nlayerselect: interrupted\n"
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_end_is_said_and_leaves_nothing_behind(monkeypatch, capsys, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests under nohup ignores SIGHUP
    try:
        monkeypatch.setattr(task, "run_intent", lambda *args, **kwargs: signal.raise_signal(number))
        assert main(COMMAND) == 128 + number
        message = capsys.readouterr().err
        assert "ended by a signal; continue with the same command and --resume" in message
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_so(monkeypatch, tmp_path):
    """As ``nohup`` leaves it."""
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        seen = []
        monkeypatch.setattr(task, "run_intent", lambda *args, **kwargs: seen.append(signal.raise_signal(signal.SIGHUP)))
        with pytest.raises(Exception, match="NoneType"):  # it went on, and there is no result to print
            main(COMMAND)
        assert seen == [None]
    finally:
        signal.signal(signal.SIGHUP, before)


_INTERRUPTED = """
import builtins, sys
real = builtins.__import__
def interrupted(name, *args, **kwargs):
    if name == "torch":
        raise KeyboardInterrupt
    return real(name, *args, **kwargs)
builtins.__import__ = interrupted
sys.argv = ["layerselect", "intent", "--help"]
import runpy
runpy.run_module("layerselect", run_name="__main__")
"""


def test_an_interruption_while_torch_is_imported_is_one_line(environment):
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (130, "\nlayerselect: interrupted\n")


class Dropped:
    """Takes a request to stop while it is destroyed, where Python lets no exception out."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_a_request_to_stop_that_python_swallows_comes_again(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    hook = sys.unraisablehook

    def run(*args, **kwargs):
        Dropped()
        time.sleep(30)

    monkeypatch.setattr(task, "run_intent", run)
    assert main(COMMAND) == 130
    assert capsys.readouterr().err.strip() == "layerselect: interrupted; continue with the same command and --resume"
    assert sys.unraisablehook is hook
