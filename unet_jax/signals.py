"""SIGTERM and SIGINT (Ctrl-C): noted by the training loop, which saves first, and an exception everywhere else."""
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 1.0  # seconds


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
def handled(handle: Callable[[int], None], overdue: Callable[[int], None]) -> Iterator[None]:
    """`handle(number)` for both signals, and what was before afterwards.

    Python runs `handle` in the main thread, between two steps of its own code. XLA's compiler keeps the main thread
    for up to minutes (with jax 0.12; 0.10 looked at signals in between). So a signal that `handle` has not answered
    within PATIENCE is passed to `overdue`, in a thread.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    waiting, told = socket.socketpair()
    told.setblocking(False)  # Python writes the number of every signal there, whatever the main thread is doing
    answered = threading.Semaphore(0)

    def watch() -> None:
        while number := waiting.recv(1):
            if number[0] in numbers and not answered.acquire(timeout=PATIENCE):
                overdue(number[0])
        waiting.close()

    def answer(number: int, _) -> None:
        answered.release()
        handle(number)

    threading.Thread(target=watch, daemon=True).start()
    before = {number: signal.signal(number, answer) for number in numbers}
    other = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(other)
        for number, handler in before.items():
            signal.signal(number, handler)
        told.close()


@contextmanager
def raised() -> Iterator[None]:
    """Either signal raises Interrupted, also while something is waited for."""
    def message(number: int) -> str:
        return (f'{signal.Signals(number).name}: stopped, nothing is lost. To go on, run the same command again: '
                f'python {shlex.join(sys.argv)}')

    def end(number: int) -> None:
        raise Interrupted(message(number))

    with handled(end, lambda number: leave(message(number), 0)):
        yield


@contextmanager
def noted() -> Iterator[list[str]]:
    """A list that is empty until one of them comes; a second SIGINT ends the program at once."""
    received: list[str] = []
    late: list[int] = []

    def note(number: int) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signal.Signals(number).name)
        # not by print, within which the signal may have come; a step that is being compiled takes up to minutes
        os.write(2, f'\n{received[-1]}: saves and stops after this step; Ctrl-C ends at once\n'.encode())

    def overdue(number: int) -> None:
        late.append(number)
        if number == signal.SIGINT and len(received) + len(late) > 1:
            leave('interrupted', 130, sys.stderr)

    with handled(note, overdue):
        yield received
