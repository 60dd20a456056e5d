"""What asks a command to stop: Ctrl-C and signals to end, at whatever moment they come."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

# 128 and the number of the signal, as shells expect.
EXIT_INTERRUPTED = 130

#: What asks a process to end. A terminal that is closed sends the second.
_ENDS = ("SIGTERM", "SIGHUP")


class Ended(KeyboardInterrupt):
    """A signal that asks the process to end: what is open is closed as after an interruption by hand."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.status = 128 + number


#: Seconds after which a request that was swallowed comes again.
_AGAIN = 0.05


class Stops:
    """The last request to stop, which stays known where somebody else's code has made another error of it, and comes
    again where Python has swallowed it: while it destroys an object it lets no exception out.
    """

    def __init__(self) -> None:
        self.request: KeyboardInterrupt | None = None

    def interrupt(self, number: int, frame: object) -> NoReturn:
        self.request = KeyboardInterrupt()
        raise self.request

    def end(self, number: int, frame: object) -> NoReturn:
        self.request = Ended(number)
        raise self.request

    def swallowed(self, found: Any, before: Callable[[Any], object]) -> None:
        """What ``sys.unraisablehook`` does: ``before``, unless the exception is the request."""
        if self.request is None or found.exc_value is not self.request:
            before(found)
            return
        number = self.request.status - 128 if isinstance(self.request, Ended) else signal.SIGINT
        # Not here, where it would be swallowed again.
        again = threading.Timer(_AGAIN, _send, (number,))
        again.daemon = True
        again.start()


def _send(number: int) -> None:
    """Sends a signal to the main thread, which alone handles them, whatever that waits for."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        _thread.interrupt_main(number)


@contextmanager
def stops() -> Iterator[Stops]:
    """Lets Ctrl-C and signals to end close what is open, unless somebody (``nohup``) has decided what they do."""
    asked = Stops()
    ours = dict.fromkeys(_ENDS, (signal.SIG_DFL, asked.end))
    ours["SIGINT"] = (signal.default_int_handler, asked.interrupt)
    before = {}
    hook = sys.unraisablehook
    if threading.current_thread() is threading.main_thread():  # only there can it be decided
        for name, (usual, handler) in ours.items():
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == usual:
                before[number] = signal.signal(number, handler)
        sys.unraisablehook = lambda found: asked.swallowed(found, hook)
    try:
        yield asked
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Lets what is in it be done before a Ctrl-C ends the process, with one line."""
    came = False

    def remember(number: int, frame: object) -> None:
        nonlocal came
        came = True

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) == signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, remember)
    try:
        yield
    except KeyboardInterrupt:
        came = True
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        sys.stderr.write("\nlayerselect: interrupted\n")
        raise SystemExit(EXIT_INTERRUPTED)
