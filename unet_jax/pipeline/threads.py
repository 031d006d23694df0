"""Work done by threads, its results in order, and noticed where it hangs."""
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from unet_jax.errors import InputError

PATIENCE = 600.0  # seconds to wait for one result
FAREWELL = 10.0  # seconds that threads get to finish, and clear away, what they are at


def in_order(work: Callable[[int], Any], numbers: range, *, threads: int, ahead: int, name: Callable[[int], str],
             timeout: float = PATIENCE, stop: Callable[[], bool] = lambda: False) -> Iterator[Any]:
    """`work(number)` of all `numbers`, in their order; each thread is up to `ahead` results before they are asked for.

    What a thread raises comes out here, in turn. Ends early where a result is waited for and `stop()`. Raises
    InputError, which begins with `name(number)`, where one is not there `timeout` seconds after it was asked for.
    Threads rather than processes: nothing outlives a killed program. Daemons, neither grain's nor an executor's, which
    keep a program from ending while they hang.
    """
    stopped = threading.Event()
    shelves = [queue.Queue(ahead) for _ in range(threads)]

    def run(thread: int) -> None:
        for number in numbers[thread::threads]:
            try:
                found = work(number), None
            except Exception as error:  # any: it is raised where the result is used
                found = None, error
            shelves[thread].put(found)
            if stopped.is_set():
                return

    running = [threading.Thread(target=run, args=(thread,), name=f'input-{thread}', daemon=True)
               for thread in range(threads)]
    hung = False
    for thread in running:
        thread.start()
    try:
        for k, number in enumerate(numbers):
            found, error = _take(shelves[k % threads], timeout, stop)
            hung = found is _NOTHING
            if hung and stop():
                return
            if hung:
                raise InputError(f'{name(number)} is not there after {timeout:g} s: a file system or disk under '
                                 'config.data.root or config.data.cache hangs')
            if error:
                raise error
            yield found
    finally:
        stopped.set()
        for shelf in shelves:  # a thread that waits for room goes on, sees that it is over, and ends
            while not shelf.empty():
                shelf.get()
        deadline = time.monotonic() + (0 if hung else FAREWELL)
        for thread in running:
            thread.join(max(0.0, deadline - time.monotonic()))


_NOTHING = object()


def _take(shelf: queue.Queue, timeout: float, stop: Callable[[], bool]) -> tuple[Any, Exception | None]:
    """The next of a shelf; (_NOTHING, None) after `timeout` seconds, or where there is none at hand and `stop()`."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return shelf.get(timeout=min(0.1, timeout))
        except queue.Empty:
            if stop() or time.monotonic() >= deadline:
                return _NOTHING, None
