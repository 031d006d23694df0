"""Progress bars with an ETA on standard error; where that is no terminal, a line twice a minute."""
import sys

from tqdm import tqdm


class Lines:
    """A stream that gets a line for every redrawing, as a log file wants it."""

    def write(self, text: str) -> None:
        text = text.strip('\r\n ')
        if text:
            print(text, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


def bar(iterable=None, **options) -> tqdm:
    """tqdm with the project's settings; `options` are tqdm's."""
    if sys.stderr.isatty():
        return tqdm(iterable, dynamic_ncols=True, **options)
    return tqdm(iterable, file=Lines(), mininterval=30, maxinterval=30, ncols=100, ascii=True, **options)
