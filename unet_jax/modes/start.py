"""What every mode does first."""
import importlib
import logging
import os
from pathlib import Path

import jax
from jax._src import xla_bridge  # whether jax has started: nothing public tells without starting it
from ml_collections import ConfigDict

from unet_jax import config_check, folders, formats
from unet_jax.errors import InputError
from unet_jax.inference import model_file
from unet_jax.pipeline import cache_limit
from unet_jax.training import processes

log = logging.getLogger('unet_jax')
SCORED = ('evaluation', 'pictures', 'predictions')
WRITTEN = {  # mode: where in a work directory it writes
    'annotate': ('',), 'train': ('', 'checkpoints', 'nonfinite', 'tensorboard', *SCORED), 'evaluate': ('', *SCORED),
    'predict': ('predictions',), 'compare': ('evaluation',), 'plan': ('',),
    'report': ('', 'pictures')}
APPENDED = ('metrics.jsonl', 'timing.jsonl', 'resumed.jsonl', 'config_changes.jsonl')  # by training


def start(config: ConfigDict, folder: Path, *, distributed: bool | None = False, mode: str = '',
          output: str | None = None) -> None:
    """Settings of the process, before jax starts: other processes are joined (`distributed`: see `processes.join`),
    compiled programs are kept in the user's cache folder. What `mode` will need at its end is tried now.

    Raises InputError for a config that cannot be followed, for a folder that cannot be
    written to, and where jax finds no such devices as the environment names.
    """
    config_check.check_config(config)
    make_absolute(config, folder)
    try_ends(config, folder, mode=mode, output=output)
    set_flags(config)
    processes.join(distributed)
    check_devices()
    log.setLevel(logging.ERROR if jax.process_index() else logging.INFO)
    keep_programs()


def make_absolute(config: ConfigDict, folder: Path) -> None:
    """Paths of `config.data` as seen from anywhere, since a work directory is used from other folders later; data that
    the project makes lie in `folder`."""
    if formats.named(config.data.format).make and not config.data.root and not model_file.is_model(folder):
        config.data.root = str(folder / 'phantoms')
    for field in ('root', 'cache', 'split_file'):
        if config.data[field]:
            config.data[field] = os.path.abspath(os.path.expanduser(config.data[field]))
    if config.train.init_from:
        config.train.init_from = os.path.abspath(os.path.expanduser(config.train.init_from))


def try_ends(config: ConfigDict, folder: Path, *, mode: str, output: str | None) -> None:
    """Raises InputError where `mode` could not write, or draw, what it is started for. Nothing is left behind.

    A mode that needs a work directory which is not there says so itself.
    """
    from_file = mode in ('predict', 'evaluate') and model_file.is_model(folder)
    if from_file:
        model_file.read_json(folder, 'model.json')
    writes = mode in ('annotate', 'train') or mode == 'plan' and config.train.plan
    if mode in ('predict', 'evaluate', 'export') and output:
        folders.check_writable(Path(output).parent if mode == 'export' else output, '--output')
    elif writes or mode in WRITTEN and os.path.lexists(folder) and not from_file:
        for name in WRITTEN[mode]:
            folders.check_writable(folder / name, '--workdir')
    for path in (folder / name for name in APPENDED if mode == 'train'):
        if os.path.lexists(path) and not (path.is_file() and os.access(path, os.W_OK)):
            raise InputError(f'{path}: cannot be written to; make it a writable file, or name another --workdir')
    cache = config.data.cache
    if mode in ('train', 'evaluate') and cache and (reason := folders.obstacle(cache)):
        if not os.path.isdir(cache):
            raise InputError(f'config.data.cache={cache}: cannot be written to ({reason}); name a folder that can')
        log.warning('config.data.cache=%s: only what is in it already can be used (%s)', cache, reason)
    if mode in ('train', 'evaluate', 'predict', 'report'):
        importlib.import_module('unet_jax.report')  # 0.1 s, for matplotlib and its settings


def set_flags(config: ConfigDict) -> None:
    """XLA's flags, which it reads when jax starts. Those that the user has set, in XLA_FLAGS, stay as they are.

    Raises InputError where jax has started already and the run's promise would not hold.
    """
    given = given_flags()
    names = {flag.partition('=')[0]: flag.partition('=')[2] for flag in given.split()}
    wanted = {}
    if config.train.deterministic:
        wanted['--xla_gpu_deterministic_ops'] = 'true'
    if jax.__version_info__ < (0, 11):
        # Its convolutions on CPUs keep 1.4 of 2 cores busy; without: forward 33 ms instead of 43, gradient 147
        # instead of 172 (configs/coco.py, 12 images). jax 0.12 is as fast without the flag.
        wanted['--xla_cpu_experimental_ynn_fusion_type'] = ''
    if config.train.deterministic and names.get('--xla_gpu_deterministic_ops', '').lower() in ('false', '0'):
        log.warning('XLA_FLAGS turns off what config.train.deterministic asks for, and counts: on a GPU, equal runs '
                    'will not be equal bits')
    added = {name: value for name, value in wanted.items() if name not in names}
    if added and xla_bridge.backends_are_initialized():
        return tell_of_late_flags(added)
    if added:
        os.environ['XLA_FLAGS'] = ' '.join([given, *(f'{name}={value}' for name, value in added.items())]).strip()


def given_flags() -> str:
    """XLA_FLAGS, or the flags in the file that it names. Raises InputError where that cannot be read."""
    text = os.environ.get('XLA_FLAGS', '').strip()
    if not text or text.startswith('-'):
        return text
    try:
        return ' '.join(Path(text).read_text(encoding='utf-8').split())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'XLA_FLAGS={text}: without a dash it names a file of flags, which cannot be read '
                         f'({error}); give flags, as --xla_..., or unset it') from error


def tell_of_late_flags(added: dict[str, str]) -> None:
    """Says what of the flags `added` matters on these devices and comes too late for a jax that has started."""
    device, again = jax.default_backend(), "Start a new process, or restart the notebook's kernel and begin with this"
    if device == 'gpu' and '--xla_gpu_deterministic_ops' in added:
        raise InputError('config.train.deterministic comes too late: jax has started in this process already, without '
                         f'XLA_FLAGS=--xla_gpu_deterministic_ops=true. {again}')
    if device == 'cpu' and '--xla_cpu_experimental_ynn_fusion_type' in added:
        log.warning('jax has started in this process already, so a flag that makes steps on CPUs a sixth faster comes '
                    'too late. %s', again)


def check_devices() -> None:
    """Starts jax. Raises InputError where what JAX_PLATFORMS names is not there, or does not start."""
    asked = jax.config.jax_platforms
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # which of them is jax's choice
        what = f'JAX_PLATFORMS={asked}: no such device is here' if asked else 'there is no device that jax can use'
        told = str(error).splitlines()[0].partition(' (set JAX_PLATFORMS')[0] if str(error) else ''
        reason = f' ({told})' if told else ''
        raise InputError(f'{what}{reason}.{others() if asked else ""} For a GPU or TPU, jax must be installed for it, '
                         'as README says') from error


def others() -> str:
    """What there is beside what JAX_PLATFORMS asked for."""
    asked = jax.config.jax_platforms
    try:
        jax.config.update('jax_platforms', None)
        found = sorted({device.platform for device in jax.local_devices()})
    except (RuntimeError, AssertionError):
        return ''
    finally:
        jax.config.update('jax_platforms', asked)
    return f' There is: {", ".join(found)}. Unset JAX_PLATFORMS to take what is there.'


def keep_programs() -> None:
    """Compiled programs are kept from run to run in the user's cache folder, unless the user has named another
    (JAX_COMPILATION_CACHE_DIR), or wants none (JAX_ENABLE_COMPILATION_CACHE=false)."""
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    programs = folders.default_folder() / 'compiled'
    if not jax.process_index() and jax.config.jax_compilation_cache_max_size == -1:  # else the user chose one
        cache_limit.trim_programs(programs)
    jax.config.update('jax_compilation_cache_dir', str(programs))
