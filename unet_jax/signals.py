"""SIGTERM and SIGINT (Ctrl-C): noted by the training loop, which saves first, and an exception everywhere else."""
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupted(BaseException):
    """The program was told to end, where there is nothing to save. Its text says how to go on."""


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

    with handled(note):
        yield received
