"""Pictures and the page of a run.

matplotlib is imported here, before any module of this folder, whatever the environment says of it: notebooks hand
MPLBACKEND=module://matplotlib_inline.backend_inline to all that they start, which another Python environment may not
have, and where the home cannot be written matplotlib warns and begins with a slow search for fonts. Pictures need no
backend: a Figure without pyplot is drawn by Agg, or as SVG.
"""
import contextlib
import os
from collections.abc import Iterator
from types import ModuleType

from unet_jax import folders
from unet_jax.errors import InputError


@contextlib.contextmanager
def _environment(**changes: str | None) -> Iterator[None]:
    """os.environ with `changes`, None for what shall not be there, and as it was afterwards."""
    before = {name: os.environ.get(name) for name in changes}

    def apply(values: dict[str, str | None]) -> None:
        for name, value in values.items():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}

    apply(changes)
    try:
        yield
    finally:
        apply(before)


def _config_folder() -> str | None:
    """What MPLCONFIGDIR shall be: as it is, wherever matplotlib can write; else a folder beside our caches."""
    given, home = os.environ.get('MPLCONFIGDIR'), os.path.expanduser('~')
    own = [os.path.join(os.environ.get(f'XDG_{name}_HOME') or os.path.join(home, below), 'matplotlib')
           for name, below in (('CONFIG', '.config'), ('CACHE', '.cache'))]
    if all(os.path.isabs(place) and not folders.obstacle(place) for place in ([given] if given else own)):
        return given
    return str(folders.default_folder() / 'matplotlib')


def _import() -> ModuleType:
    """matplotlib. Raises InputError where it cannot be imported, so before a run rather than after."""
    backend = os.environ.get('MPLBACKEND')
    try:
        with _environment(MPLBACKEND=None, MPLCONFIGDIR=_config_folder()):
            import matplotlib
            matplotlib.get_configdir(), matplotlib.get_cachedir()  # found once, and remembered
    except (ImportError, OSError, ValueError) as error:
        raise InputError(f'matplotlib, which draws the report, cannot be imported ({type(error).__name__}: {error}); '
                         'install requirements.txt again, or mend its settings (matplotlibrc)') from error
    if backend:
        with contextlib.suppress(ValueError):  # for a notebook whose first plot comes after ours
            matplotlib.rcParams['backend'] = backend
    return matplotlib


_matplotlib = _import()
# Whatever a matplotlibrc or a notebook's style says: with text.usetex, say, a report would need LaTeX.
_settings = {name: value for name, value in _matplotlib.rcParamsDefault.items() if name != 'backend'}
plainly = _matplotlib.rc_context(_settings)  # a decorator: what is drawn inside looks the same for everyone
