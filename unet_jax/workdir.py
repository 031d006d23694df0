"""The files of a work directory that are not arrays: config, environment, metric lines."""
import json
import logging
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from unet_jax.config import FIELDS, build, default, flat
from unet_jax.errors import InputError
from unet_jax.inference import model_file
from unet_jax.shipped import PROGRAM
from unet_jax.text_file import write_text

# Fields of the network and its input, in which runs must be alike to be used together, and those that are free
ALIKE = ('model.', 'loss.activation', 'data.size', 'data.channels', 'data.standardise', 'data.neighbours',
         'data.categories', 'data.regions', 'data.modalities', 'data.spacing', 'data.orientation')
FREE = ('evaluation.', 'report.', 'data.root', 'data.cache', 'data.on_error', 'data.max_skipped',
        'data.missing_modalities', 'model.dtype', 'model.remat',
        'train.input_timeout')  # change no parameter, nor what it was trained for
log = logging.getLogger('unet_jax')
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'ml-collections', 'numpy', 'pandas')


def default_folder(config: str, *, root: str) -> Path:
    """runs/<config>-<data set>, of a config file's name (without what follows its colon) and config.data.root.

    The data set is called as its folder is, and the JSON file where that is the root; phantoms, which have no root of
    their own, lie in runs/phantom.
    """
    place = Path(os.path.abspath(os.path.expanduser(root))) if root else Path()
    parts = [Path(config.partition(':')[0]).stem, place.name]
    if place.suffix.lower() == '.json' and not place.is_dir():
        above = place.parent.parent if place.parent.name == 'annotations' else place.parent
        parts[1:] = above.name, place.stem
    return Path('runs') / re.sub(r'[^\w.-]+', '_', '-'.join(filter(None, parts)))


def tuples(value: Any) -> Any:
    """JSON has no tuples, configs have no lists."""
    if isinstance(value, (list, tuple)):
        return tuple(tuples(v) for v in value)
    return {k: tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


def save_config(workdir: Path, config: ConfigDict, home: Path | None = None) -> None:
    """config.json. Data that lie in `home`, by default the work directory, are named from there, so that both may be
    moved together."""
    values, home = config.to_dict(), os.path.abspath(home or workdir)
    root = os.path.abspath(values['data']['root'])
    if values['data']['root'] and os.path.commonpath([root, home]) == home:
        values['data']['root'] = os.path.relpath(root, workdir)
    write_text(workdir / 'config.json', json.dumps(values, indent=2) + '\n')


def load_config(workdir: Path) -> ConfigDict:
    """The config that a run was started with; fields that came later have their defaults, and are named.

    `workdir` may also be a model file. Raises InputError where it holds none.
    """
    path = Path(workdir) / 'config.json'
    try:
        values = model_file.read_json(workdir, path.name) if model_file.is_model(workdir) else \
            json.loads(path.read_text(encoding='utf-8'))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f'{path}: no such file, so {workdir} is no work directory; train first: '
                         f'{PROGRAM} --config=configs/phantom.py --workdir={workdir}') from error
    except (OSError, ValueError) as error:
        raise InputError(f'{path}: cannot be read as JSON ({error})') from error
    if not isinstance(values, dict):
        raise InputError(f'{path}: holds no JSON object, so it is no config')
    held = flat(tuples(values))
    later = {name: field.default for name, field in FIELDS.items() if name not in held}
    gone = [name for name in held if name not in FIELDS]
    if later or gone:
        tell_once(f'{path} was written by another version. What it lacks is as by default: '
                  + (', '.join(f'{name} = {value!r}' for name, value in later.items()) or 'nothing')
                  + (f'. Left out, as there is no such field: {", ".join(gone)}' if gone else ''))
    try:
        config = build({name: held.get(name, field.default) for name, field in FIELDS.items()})
    except InputError as error:
        raise InputError(f'{path}: {error}') from error
    if config.data.root:  # an absolute one stays as it is
        config.data.root = os.path.abspath(Path(workdir) / config.data.root)
    return config.lock()


def load_run(folder: Path) -> ConfigDict:
    """`load_config` of a single run. Raises InputError for the folder above the runs of several seeds, naming them."""
    config = load_config(folder)
    if config.train.seeds:
        names = ', '.join(f'--workdir={Path(folder) / f"seed_{seed}"}' for seed in config.train.seeds)
        raise InputError(f'{folder} holds a run for each of several seeds. Name one of them: {names}')
    return config


def inference_config(folder: Path, given: ConfigDict) -> ConfigDict:
    """The config of the run in `folder`, with what `given` says in the fields that are free for inference.

    So classes, names, regions, channels and all else that was settled from the data are the run's, whichever config
    is given; so is a data.root that is not there. Raises InputError naming the fields of the network or its input
    that `given` sets, being not as in configs/default.py, and not to what the run has.
    """
    run = load_run(folder)
    changed, given_here = differences(run, given), differences(default(), given)
    refused = {field: values for field, values in changed.items() if field in given_here
               and field.startswith((*ALIKE, 'data.format', 'data.schema')) and not field.startswith(FREE)}
    if refused:
        raise InputError(f'{folder} holds another network: ' + '; '.join(
            f'{field} is {there!r} there, {here!r} here' for field, (there, here) in refused.items()) +
            '. Leave out --config to use its own')
    found = run.copy_and_resolve_references()
    with found.unlocked():
        for field, (_, value) in changed.items():
            section, _, name = field.partition('.')
            nowhere = field in ('data.root', 'data.cache') and not value
            if field.startswith(FREE) and not nowhere and not (field == 'data.root' and not Path(value).exists()):
                found[section][name] = value
    return found.lock()


@cache
def tell_once(text: str) -> None:
    log.warning(text)


def differences(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """{field: (old, new)} of all fields that differ; a field that one lacks is None there."""
    def flat(config, prefix=''):
        for key, value in config.items():
            yield from flat(value, f'{prefix}{key}.') if isinstance(value, dict) else [(f'{prefix}{key}', value)]

    a, b = (dict(flat(tuples(c.to_dict()))) for c in (old, new))
    return {key: (a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}


def environment() -> dict[str, Any]:
    """Versions, devices and, where the code is a git checkout, its commit."""
    here = Path(__file__).resolve().parent
    git = ['git', '-C', str(here), 'describe', '--always', '--dirty', '--abbrev=12']
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip() or None
    except OSError:
        commit = None
    versions = {name: metadata.version(name) for name in PACKAGES}
    return {'python': platform.python_version(), 'platform': platform.platform(), **versions, 'commit': commit,
            'devices': [str(d.device_kind) for d in jax.devices()], 'processes': jax.process_count(),
            'cpu_cores': os.cpu_count(), 'command': shlex.join(sys.argv)}


def read_lines(path: Path) -> list[dict]:
    """The objects of a .jsonl file. A last line that was cut off is left out; so is a damaged one, with a warning."""
    lines, texts = [], path.read_text(encoding='utf-8', errors='replace').splitlines() if path.exists() else []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            if number < len(texts):
                log.warning('%s, line %d: left out, it is not JSON (%s)', path, number, error)
    return lines


def append_line(path: Path, line: dict) -> None:
    """On the disk before this returns: a checkpoint that is written later relies on it."""
    with open(path, 'a', encoding='utf-8') as file:
        file.write(json.dumps(line) + '\n')
        file.flush()
        os.fsync(file.fileno())


def cut_lines(path: Path, kept: Callable[[dict], bool]) -> None:
    """Drops the lines that are not `kept`, which a resumed run is about to write again."""
    write_text(path, ''.join(json.dumps(line) + '\n' for line in read_lines(path) if kept(line)))
