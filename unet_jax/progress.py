"""Progress bars with the time left on standard error; where that is no terminal, a line twice a minute. In a notebook
a bar of its own kind, or one in text where ipywidgets is not installed."""
import importlib.util
import shutil
import sys

from tqdm import tqdm

# both leave some columns for the bar beside 'loss 0.123, 108 images/s, wait 0%' and hours that are left
WIDE = '{desc} |{bar}| {n_fmt}/{total_fmt}, {remaining} left{postfix}'  # in 80 columns
NARROW = '{percentage:.0f}%|{bar}| {remaining} left{postfix}'  # in 60


class Lines:
    """A stream that gets a line for every redrawing, as a log file wants it."""

    def write(self, text: str) -> None:
        text = text.strip('\r\n ')
        if text:
            print(text, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


def layout(columns: int) -> str:
    """tqdm's bar_format for a terminal of so many columns."""
    return WIDE if columns >= 76 else NARROW


def in_notebook() -> bool:
    """Whether this runs in a kernel of Jupyter, whose output understands a bar though it is no terminal."""
    shell = getattr(sys.modules.get('IPython'), 'get_ipython', lambda: None)()
    return shell is not None and getattr(shell, 'kernel', None) is not None


def bar(iterable=None, **options) -> tqdm:
    """tqdm with the project's settings; `options` are tqdm's."""
    if in_notebook():
        if importlib.util.find_spec('ipywidgets'):
            from tqdm.notebook import tqdm as widget  # it warns where ipywidgets is missing, as tqdm.auto does
            return widget(iterable, **options)
        return tqdm(iterable, ncols=80, bar_format=WIDE, mininterval=1, **options)
    if sys.stderr.isatty():
        return tqdm(iterable, dynamic_ncols=True, bar_format=layout(shutil.get_terminal_size().columns), **options)
    return tqdm(iterable, file=Lines(), mininterval=30, maxinterval=30, ncols=100, ascii=True, bar_format=WIDE,
                **options)
