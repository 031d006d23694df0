"""The files of a work directory that are not arrays: config, environment, metric lines."""
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from unet_jax.errors import InputError

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'ml-collections', 'numpy', 'pandas')


def write_text(path: Path, text: str) -> None:
    """Whole or not at all: written beside, flushed to disk, then renamed."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    with open(temporary, 'w', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def tuples(value: Any) -> Any:
    """JSON has no tuples, configs have no lists."""
    if isinstance(value, (list, tuple)):
        return tuple(tuples(v) for v in value)
    return {k: tuples(v) for k, v in value.items()} if isinstance(value, dict) else value


def save_config(workdir: Path, config: ConfigDict) -> None:
    write_text(workdir / 'config.json', json.dumps(config.to_dict(), indent=2) + '\n')


def load_config(workdir: Path) -> ConfigDict:
    """The config that a run was started with. Raises InputError where `workdir` holds none."""
    path = Path(workdir) / 'config.json'
    try:
        values = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise InputError(f'{path}: no such file, so {workdir} is no work directory; train first: '
                         f'python main.py --config=configs/phantom.py --workdir={workdir}') from error
    except ValueError as error:
        raise InputError(f'{path}: is not JSON ({error})') from error
    return ConfigDict(tuples(values)).lock()


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
            'cpu_cores': os.cpu_count(), 'command': ' '.join(sys.argv)}


def read_lines(path: Path) -> list[dict]:
    """The objects of a .jsonl file; a last line that was cut off is left out."""
    lines = []
    for text in path.read_text(encoding='utf-8').splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def append_line(path: Path, line: dict) -> None:
    with open(path, 'a', encoding='utf-8') as file:
        file.write(json.dumps(line) + '\n')


def cut_lines(path: Path, step: int) -> None:
    """Drops the lines after `step`, which a resumed run is about to write again."""
    kept = [line for line in read_lines(path) if line['step'] <= step]
    write_text(path, ''.join(json.dumps(line) + '\n' for line in kept))
