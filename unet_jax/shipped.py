"""The configs that come with the project, found by name from any folder."""
import os
from pathlib import Path

from unet_jax.errors import InputError

HERE = Path(__file__).resolve().parent
PROGRAM = 'python main.py' if (HERE.parent / 'main.py').is_file() else 'unet_jax'  # how it is started, in messages
FOLDERS = (HERE / 'configs', HERE.parent / 'configs')  # of an installation; of a checkout


def names() -> dict[str, Path]:
    """{name: file} of the shipped configs."""
    folder = next((folder for folder in FOLDERS if (folder / 'default.py').is_file()), FOLDERS[0])
    return {path.stem: path for path in sorted(folder.glob('*.py')) if path.stem != '__init__'}


def find(given: str) -> tuple[str, str]:
    """(the file of a config, with what `given` says behind a colon: FILE.py, FILE.py:small, or the same without .py;
    what to tell of it, where it is not plain which file that is, else '').

    A file of the user's counts before a shipped one of that name; brats and configs/brats.py name a shipped one.
    Raises InputError where there is neither.
    """
    path, colon, argument = given.partition(':')
    own = next((p for p in (path, f'{path}.py') if os.path.isfile(p)), None)
    place = Path(path)
    name = place.stem if place.suffix in ('', '.py') and str(place.parent) in ('.', 'configs') else ''
    known = names().get(name)
    if own is None and known is None:
        raise InputError(f'--config={given}: no such file, and none of the shipped configs is called so: '
                         f'{", ".join(names())}')
    told = f'config {path}: the shipped {known}' if own is None else ''
    if own and known and not os.path.samefile(own, known):
        told = f'config {path}: your {os.path.abspath(own)}, not the shipped {known}'
    return f'{own or known}{colon}{argument}', told
