"""Before a mode begins: paths that hold from anywhere, runs of older versions, what a mode needs at its end, and what
the environment says of jax."""
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from configs import default, phantom
from unet_jax import workdir
from unet_jax.errors import InputError
from unet_jax.modes import start


def test_paths_hold_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = default.get_config()
    config.data.update({'root': 'data/../set', 'split_file': 'split.json'})
    start.make_absolute(config, tmp_path / 'w')
    assert (config.data.root, config.data.split_file) == (f'{tmp_path}/set', f'{tmp_path}/split.json')
    assert config.data.cache == ''  # still the user's


@pytest.mark.parametrize('config, root, expected', [
    ('configs/phantom.py', '', 'phantom'), ('configs/coco.py', '/data/br35h/', 'coco-br35h'),
    ('configs/brats3d.py:small', 'sets/BraTS 2021', 'brats3d-BraTS_2021'), ('coco.py', '/d/a.coco', 'coco-a.coco'),
    ('coco.py', '/d/set/annotations/instances_train.json', 'coco-set-instances_train'), ('coco.py', '/', 'coco')])
def test_the_default_work_directory_names_config_and_data_set(config, root, expected):
    assert workdir.default_folder(config, root=root).as_posix() == f'runs/{expected}'


def test_a_run_that_is_older_than_a_field_has_its_default(tmp_path):
    config = phantom.get_config()
    with config.unlocked():
        config.train.steps = 7
        del config.evaluation.uncertainty
    workdir.save_config(tmp_path, config)
    found = workdir.load_config(tmp_path)
    assert workdir.differences(config, found) == {'evaluation.uncertainty': (None, False)}


def test_phantoms_move_with_their_work_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = phantom.get_config()
    old = tmp_path / 'old'
    (old / 'seed_1').mkdir(parents=True)
    start.make_absolute(config, old)
    for folder in (old, old / 'seed_1'):
        workdir.save_config(folder, config, old)
        assert workdir.load_config(folder).data.root == config.data.root == f'{old}/phantoms'
    old.rename('new')
    for folder in ('new', 'new/seed_1'):
        assert workdir.load_config(folder).data.root == f'{tmp_path}/new/phantoms'


ROOT = Path(__file__).parents[1]


def begin(folder, mode, output=None, **data):
    config = default.get_config()
    config.data.update(data)
    start.try_ends(config, folder, mode=mode, output=output)


@pytest.mark.parametrize('mode, name', [
    ('train', ''), ('annotate', ''), ('evaluate', ''), ('predict', ''), ('compare', ''), ('train', 'checkpoints'),
    ('train', 'tensorboard'), ('train', 'metrics.jsonl'), ('evaluate', 'evaluation'), ('evaluate', 'pictures'),
    ('predict', 'predictions'), ('compare', 'evaluation')])
def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(mode, name, tmp_path):
    place = tmp_path / 'w' / name
    place.parent.mkdir(exist_ok=True)
    place.mkdir() if name == 'metrics.jsonl' else place.touch()  # whichever it should not be
    with pytest.raises(InputError, match=f'{place}.*: (cannot be written to|is no model file)'):
        begin(tmp_path / 'w', mode)


def test_a_mode_tries_only_what_it_writes(tmp_path):
    folder = tmp_path / 'w'
    for mode in start.WRITTEN:
        begin(folder, mode)
    assert not folder.exists()
    folder.mkdir()
    (folder / 'checkpoints').touch(), (folder / 'predictions').touch()  # a run that is kept read-only, say
    begin(folder, 'compare')
    begin(folder, 'predict', str(tmp_path / 'masks'))
    with pytest.raises(InputError, match=f'--output={folder}/predictions: '):
        begin(folder, 'predict', str(folder / 'predictions'))
    begin(folder, 'plan')


def test_a_cache_that_cannot_be_written_to_is_refused_unless_it_may_hold_what_is_needed(tmp_path, monkeypatch, caplog):
    (tmp_path / 'file').touch()
    for mode in ('train', 'evaluate'):
        with pytest.raises(InputError, match=f'config.data.cache={tmp_path}/file: cannot be written to'):
            begin(tmp_path, mode, cache=str(tmp_path / 'file'))
    begin(tmp_path, 'compare', cache=str(tmp_path / 'file'))
    monkeypatch.setattr(start.folders, 'obstacle', lambda path: 'it is mounted read-only' * (path == str(tmp_path)))
    begin(tmp_path / 'w', 'train', cache=str(tmp_path))
    assert 'only what is in it already can be used (it is mounted read-only)' in caplog.text


@pytest.fixture
def early(monkeypatch):
    """As in a process in which jax has not started."""
    monkeypatch.setattr(start.xla_bridge, 'backends_are_initialized', lambda: False)
    monkeypatch.setattr(start.jax, '__version_info__', (0, 10, 2))
    return monkeypatch


def flags_of(environment, *, deterministic=False):
    config = default.get_config()
    config.train.deterministic = deterministic
    environment.setenv('XLA_FLAGS', os.environ.get('XLA_FLAGS', ''))  # so that it is put back
    start.set_flags(config)
    return os.environ['XLA_FLAGS'].split()


def test_flags_of_the_user_win(early, caplog):
    early.setenv('XLA_FLAGS', '--xla_cpu_experimental_ynn_fusion_type=dot --xla_gpu_deterministic_ops=false --xla_a=1')
    assert flags_of(early, deterministic=True) == os.environ['XLA_FLAGS'].split() == [
        '--xla_cpu_experimental_ynn_fusion_type=dot', '--xla_gpu_deterministic_ops=false', '--xla_a=1']
    assert 'XLA_FLAGS turns off what config.train.deterministic asks for' in caplog.text


def test_flags_of_ours_are_added_once(early):
    early.setenv('XLA_FLAGS', '--xla_a=1')
    ours = ['--xla_gpu_deterministic_ops=true', '--xla_cpu_experimental_ynn_fusion_type=']
    assert flags_of(early, deterministic=True) == flags_of(early, deterministic=True) == ['--xla_a=1', *ours]
    early.setattr(start.jax, '__version_info__', (0, 12, 0))
    early.setenv('XLA_FLAGS', '')
    assert flags_of(early) == []


def test_a_file_of_flags_is_read_as_xla_would(early, tmp_path):
    (tmp_path / 'flags').write_text('--xla_a=1\n--xla_b=2\n')
    early.setenv('XLA_FLAGS', str(tmp_path / 'flags'))
    assert flags_of(early)[:2] == ['--xla_a=1', '--xla_b=2']
    early.setenv('XLA_FLAGS', 'xla_a=1')
    with pytest.raises(InputError, match='XLA_FLAGS=xla_a=1: without a dash it names a file'):
        flags_of(early)


def test_flags_that_come_too_late_are_told_and_not_set(early, caplog):
    early.setattr(start.xla_bridge, 'backends_are_initialized', lambda: True)
    early.setattr(start.jax, 'default_backend', lambda: 'cpu')
    early.setenv('XLA_FLAGS', '--xla_a=1')
    assert flags_of(early, deterministic=True) == ['--xla_a=1']
    assert 'a sixth faster comes too late' in caplog.text
    early.setattr(start.jax, 'default_backend', lambda: 'gpu')
    assert flags_of(early) == ['--xla_a=1']
    with pytest.raises(InputError, match='config.train.deterministic comes too late'):
        flags_of(early, deterministic=True)


def test_programs_are_kept_where_the_user_says(tmp_path, monkeypatch):
    asked, trimmed = [], []
    monkeypatch.setattr(start.cache_limit, 'trim_programs', trimmed.append)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    own = tmp_path / 'unet_jax' / 'compiled'
    for given, enabled, size, change in (('theirs', True, -1, False), (None, False, -1, False), (None, True, -1, True),
                                         (None, True, 10**9, True)):
        asked.clear(), trimmed.clear()
        monkeypatch.setattr(start.jax, 'config', SimpleNamespace(
            jax_compilation_cache_dir=given, jax_enable_compilation_cache=enabled, jax_compilation_cache_max_size=size,
            update=lambda *change: asked.append(change)))
        start.keep_programs()
        assert asked == [('jax_compilation_cache_dir', str(own))] * change and trimmed == [own] * (change and size < 0)


SAID = """
import os, sys
import jax
if sys.argv[1:]: jax.devices()
from configs import phantom
from unet_jax.errors import InputError
from unet_jax.modes import start
import pathlib
try:
    start.start(phantom.get_config(), pathlib.Path('w'))
except InputError as error:
    sys.exit(f'error: {error}')
print(os.environ.get('XLA_FLAGS'), jax.config.jax_compilation_cache_dir)
"""


def say(*arguments, cwd, **environment):
    around = {name: value for name, value in os.environ.items() if not name.startswith(('JAX', 'XLA'))}
    return subprocess.run([sys.executable, '-c', SAID, *arguments], cwd=cwd, capture_output=True, text=True,
                          env=around | {'PYTHONPATH': str(ROOT), 'XDG_CACHE_HOME': str(cwd)} | environment)


@pytest.mark.parametrize('asked', ['tpu', 'nonsense'])
def test_devices_that_are_not_there_are_a_message(asked, tmp_path):
    done = say(cwd=tmp_path, JAX_PLATFORMS=asked)
    assert done.stderr.startswith(f'error: JAX_PLATFORMS={asked}: no such device is here (')
    assert 'Traceback' not in done.stderr and 'There is: cpu. Unset JAX_PLATFORMS' in done.stderr


def test_devices_that_jax_leaves_out_without_a_word_are_a_message(monkeypatch):
    """JAX_PLATFORMS=cuda without a GPU ends in an AssertionError that says nothing."""
    def fail():
        raise AssertionError

    monkeypatch.setattr(start.jax, 'devices', fail)
    with pytest.raises(InputError, match='JAX_PLATFORMS=cpu: no such device is here. There is: cpu. '):
        start.check_devices()
    assert jax.config.jax_platforms == 'cpu'  # as it was


def test_a_new_process_has_the_flags_and_the_cache_and_a_late_one_says_so(tmp_path):
    done = say(cwd=tmp_path, JAX_PLATFORMS='cpu')
    late = say('late', cwd=tmp_path, JAX_PLATFORMS='cpu', JAX_COMPILATION_CACHE_DIR='/theirs')
    assert done.stdout.split()[-1] == f'{tmp_path}/unet_jax/compiled' and late.stdout.split()[-1] == '/theirs'
    if jax.__version_info__ < (0, 11):
        assert 'ynn' in done.stdout and 'too late' not in done.stderr
        assert late.stdout.startswith('None') and 'comes too late' in late.stderr
