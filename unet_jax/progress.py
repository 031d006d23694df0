"""Progress bars with an ETA, on standard error; a line every half minute where that is not a terminal."""
import sys

from tqdm import tqdm


def bar(iterable=None, **options) -> tqdm:
    """tqdm with the project's settings; `options` are tqdm's."""
    quiet = not sys.stderr.isatty()
    return tqdm(iterable, dynamic_ncols=True, mininterval=30 if quiet else 0.2, **options)
