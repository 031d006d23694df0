"""SIGTERM and SIGINT (Ctrl-C): noted by the training loop, which saves first, and an exception everywhere else."""
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupted(BaseException):
    """The program was told to end, where there is nothing to save. Its text says how to go on."""


def leave(message: str, status: int, file=None) -> None:
    """Says `message` and ends this process at once, for who has caught what a signal raised.

    Without Python's own end: an exception that a signal raises while XLA compiles leaves the compiler at work in a
    thread of its own, and Python's end waits for it and then crashes (a segmentation fault, measured with jax 0.10.2).
    """
    print(message, file=file)
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)


@contextmanager
def handled(handle: Callable[[int], None]) -> Iterator[None]:
    """`handle(number)` for both signals, and what was before afterwards."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: handle(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def raised() -> Iterator[None]:
    """Either signal raises Interrupted, also while something is waited for."""
    def end(number: int) -> None:
        raise Interrupted(f'{signal.Signals(number).name}: stopped, nothing is lost. To go on, run the same command '
                          f'again: python {shlex.join(sys.argv)}')

    with handled(end):
        yield


@contextmanager
def noted() -> Iterator[list[str]]:
    """A list that is empty until one of them comes; a second SIGINT ends the program at once."""
    received: list[str] = []

    def note(number: int) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)
        # not by print, within which the signal may have come; a step that is being compiled takes up to minutes
        os.write(2, f'\n{received[-1]}: saves and stops after this step; Ctrl-C ends at once\n'.encode())

    with handled(note):
        yield received
