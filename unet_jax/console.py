"""Standard output and error that never end the work."""
import errno
import io
import os
import sys


class Survivor(io.FileIO):
    """A file descriptor whose reader may leave, as `| head` does or a terminal that is closed: the rest is dropped."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            return len(data)


def forgive() -> None:
    """From here on letters that the encoding lacks are printed as \\xd7, and a reader that leaves, or never was, ends
    nothing.

    For the process's own streams: a notebook's or a test's stay what they are.
    """
    for name, number in (('stdout', 1), ('stderr', 2)):
        stream = getattr(sys, name)
        if stream is None:
            occupy(number)
            setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))
            continue
        if stream is not getattr(sys, f'__{name}__'):
            continue
        raw, whole = Survivor(number, 'w', closefd=False), stream.write_through  # of python -u
        setattr(sys, name, io.TextIOWrapper(
            raw if whole else io.BufferedWriter(raw), stream.encoding, 'backslashreplace',
            line_buffering=stream.line_buffering, write_through=whole))


def occupy(number: int) -> None:
    """Lets a closed file descriptor lead nowhere, else the next file that is opened gets what XLA says in C++."""
    try:
        os.fstat(number)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)
