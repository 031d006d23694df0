"""A model in one file: a zip of data, sealed, without any code that this program runs.

    model.json           what this is, the version of its layout, the checkpoint it holds
    config.json          the settled config of the run, without paths
    params.safetensors   the parameters that prediction uses, by name (huggingface.co/docs/safetensors, "Format")
    postprocess.json     the limits of post-processing and what they were tuned for, where they were
    calibration.json     the temperatures of the regions and what they were fitted for, where they were
    used.json            [subset, case, group, path] of what it was trained on or chosen by, as `name_digest`s
    card.json, README.md the model card, for programs and for people
    model.onnx, run.json the network for programs without jax, and run.py, which segments files by them: only where
    and run.py           they could be made; nothing here reads them
    seal.json            sha256 of every file above, and of itself

Nothing is compressed and all times are 1980, so the same content is the same bytes. Fields that a later version adds
have defaults; VERSION is raised when a file that is there today gets another meaning.
"""
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from unet_jax.errors import InputError
from unet_jax.shipped import PROGRAM
from unet_jax.text_file import write_bytes

FORMAT, VERSION = 'unet_jax model', 1
AGAIN = f'get the file again, or export it anew: {PROGRAM} --workdir=DIR --mode=export --output=model.zip'
TIME = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold


class Model(NamedTuple):
    """What a model file holds."""
    config: dict  # as in config.json of a work directory
    step: int  # the checkpoint
    params: dict[str, np.ndarray]  # by names such as encoder_0_block_0/first/conv/kernel
    postprocess: dict | None = None  # as postprocess.json of a work directory
    used: list[list[str]] = []
    card: dict = {}
    page: str = ''  # the card in Markdown
    calibration: dict | None = None  # as calibration.json of a work directory
    beside: dict[str, bytes] = {}  # model.onnx, run.json and run.py, for other programs


def is_model(path: str | Path) -> bool:
    """Whether `path`, given where a work directory may stand, is to be read as a model file: whether it is a file."""
    return Path(path).is_file()


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Parameters by name, from the tree that the network takes."""
    return {name_of(path): np.ascontiguousarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def name_of(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')


def fill(like: Any, params: Mapping[str, np.ndarray], where: str | Path) -> Any:
    """`params` as the tree `like` (arrays or their shapes). Raises InputError, naming the parameter and the file
    `where`, for one that is missing or has another shape."""
    def one(path: tuple, leaf: Any) -> np.ndarray:
        found = params.get(name_of(path))
        if found is None or found.shape != leaf.shape:
            raise InputError(f'{where}: does not fit the network of its config: {name_of(path)} is '
                             f'{"missing" if found is None else found.shape}, and should be {leaf.shape}')
        return found

    return jax.tree_util.tree_map_with_path(one, like)


def params_digest(params: Mapping[str, np.ndarray]) -> str:
    """32 hex digits that name the parameters, wherever they are kept."""
    found = hashlib.sha256()
    for name in sorted(params):
        found.update(f'{name} {params[name].dtype} {params[name].shape}\n'.encode())
        found.update(np.ascontiguousarray(params[name]))
    return found.hexdigest()[:32]


def name_digest(name: Any) -> str:
    """By this a case is known again by those who know its name, and not read by those who do not."""
    return hashlib.sha256(str(name).encode('utf-8', 'surrogatepass')).hexdigest()[:16]


def pack(model: Model) -> bytes:
    """The bytes of a model file."""
    def text(value: Any) -> bytes:
        return (json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + '\n').encode()

    files = {'model.json': text({'format': FORMAT, 'version': VERSION, 'checkpoint': model.step}),
             'config.json': text(model.config), 'params.safetensors': safetensors.save(model.params),
             'used.json': json.dumps(model.used).encode(), 'card.json': text(model.card),
             'README.md': model.page.encode(), **model.beside}
    files |= {f'{name}.json': text(content) for name, content in
              (('postprocess', model.postprocess), ('calibration', model.calibration)) if content is not None}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files['seal.json'] = text({'files': sums, 'sha256': sums_digest(sums)})
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, 'w') as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, TIME), content)
    return whole.getvalue()


def sums_digest(sums: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def write(path: Path, model: Model) -> None:
    """The model file `path`, whole or not at all."""
    write_bytes(path, pack(model))


def read(path: str | Path) -> Model:
    """The model in a file. Raises InputError for a file that is none, is of a newer version, or was changed since it
    was written, naming the part."""
    about, config, params = (read_json(path, 'model.json'), read_json(path, 'config.json'), read_params(path))
    page = read_file(path, 'README.md')
    return Model(config, about['checkpoint'], params, read_json(path, 'postprocess.json'),
                 read_json(path, 'used.json') or [], read_json(path, 'card.json') or {}, (page or b'').decode(),
                 read_json(path, 'calibration.json'))


def read_params(path: str | Path) -> dict[str, np.ndarray]:
    """The parameters by name; raises as `read`."""
    try:
        return safetensors.load(read_file(path, 'params.safetensors'))
    except (SafetensorError, TypeError, KeyError) as error:
        raise InputError(f'{path}: params.safetensors cannot be read ({error}); {AGAIN}') from error


def read_json(path: str | Path, name: str) -> Any:
    """What the JSON file `name` in a model file holds, None where it has none; raises as `read`."""
    content = read_file(path, name)
    try:
        return None if content is None else json.loads(content)
    except ValueError as error:
        raise InputError(f'{path}: {name} in it is not JSON ({error}); {AGAIN}') from error


def read_file(path: str | Path, name: str) -> bytes | None:
    """The bytes of one file in a model file, as they were sealed; None where an optional one is not there."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_version(path, archive)
            seal = json.loads(stored(path, archive, 'seal.json'))
            if seal['sha256'] != sums_digest(seal['files']):
                raise InputError(f'{path}: seal.json in it was changed since it was written; {AGAIN}')
            missing = sorted(seal['files'].keys() - set(archive.namelist()))
            if missing:
                raise InputError(f'{path}: {missing[0]} is missing in it; {AGAIN}')
            if name not in seal['files']:
                if name in ('config.json', 'params.safetensors'):
                    raise InputError(f'{path}: holds no {name}; {AGAIN}')
                return None
            content = stored(path, archive, name)
    except InputError:
        raise
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f'{path}: is no model file, or a damaged one ({error}); {AGAIN}') from error
    if hashlib.sha256(content).hexdigest() != seal['files'][name]:
        raise InputError(f'{path}: {name} in it was changed since it was written; {AGAIN}')
    return content


def check_version(path: str | Path, archive: zipfile.ZipFile) -> None:
    """Raises InputError for another kind of zip, and for a model file that only a newer version can read."""
    if 'model.json' not in archive.namelist():
        raise InputError(f'{path}: is no model file of unet_jax, as it holds no model.json; {AGAIN}')
    about = json.loads(stored(path, archive, 'model.json'))
    if about.get('format') != FORMAT or not isinstance(about.get('version'), int):
        raise InputError(f'{path}: is no model file of unet_jax: its model.json says {str(about)[:100]}; {AGAIN}')
    if about['version'] > VERSION:
        raise InputError(f'{path}: is a model file of version {about["version"]}, and this program reads up to '
                         f'{VERSION}; install a newer unet_jax')


def stored(path: str | Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of the zip; only what is not compressed, so that nothing grows as it is read."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise InputError(f'{path}: {name} in it is compressed, so another program packed it anew; {AGAIN}')
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, EOFError) as error:
        raise InputError(f'{path}: {name} in it was changed since it was written ({error}); {AGAIN}') from error
