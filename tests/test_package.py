"""What pip installs, and the commands of an installation beside another project's configs/. The wheel and the sdist
themselves: make test-package."""
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from unet_jax import shipped
from unet_jax.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))
FOREIGN = 'raise SystemExit("a config of another project was run")\n'


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The folder of another project, with configs of its own."""
    (tmp_path / 'configs').mkdir()
    for name in ('__init__', 'default', 'brats'):
        (tmp_path / 'configs' / f'{name}.py').write_text(FOREIGN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_folder_with_code_is_packaged_and_the_requirements_stand_in_one_list():
    tool, folders = PROJECT['tool']['setuptools'], {p.parent for p in (ROOT / 'unet_jax').rglob('*.py')}
    found = {'.'.join(folder.relative_to(ROOT).parts) for folder in folders}
    assert {*tool['packages']} == found | {'unet_jax.configs'}, 'name it in packages of pyproject.toml'
    assert tool['package-dir']['unet_jax.configs'] == 'configs' and 'dependencies' not in PROJECT['project']
    assert tool['dynamic']['dependencies'] == {'file': ['requirements.txt']}
    assert {*PROJECT['project']['optional-dependencies']} == {'cuda13', 'tpu', 'export', 'dicom'}
    data = [p.relative_to(ROOT / 'unet_jax') for p in (ROOT / 'unet_jax').rglob('*.*') if '.py' not in p.suffix]
    unpackaged = [p for p in data if not any(p.match(pattern) for pattern in tool['package-data']['unet_jax'])]
    assert not unpackaged, 'name it in package-data of pyproject.toml'


def test_shipped_configs_ask_nothing_of_a_folder_called_configs():
    for path in shipped.names().values():
        assert not re.search(r'^\s*(from|import) configs', path.read_text(), re.MULTILINE), path


@pytest.mark.parametrize('given', ['phantom', 'phantom.py', 'configs/phantom.py', 'configs/phantom'])
def test_a_shipped_config_is_found_by_name_from_anywhere_and_said(given, elsewhere):
    file = ROOT / 'configs/phantom.py'
    assert shipped.find(given) == (str(file), f'config {given}: the shipped {file}')
    assert shipped.find(f'{given}:small')[0] == f'{file}:small'


def test_a_file_of_the_users_counts_before_a_shipped_one_and_it_is_said(elsewhere):
    path, told = shipped.find('configs/brats.py')
    assert path == 'configs/brats.py'
    assert told.endswith(f'your {elsewhere}/configs/brats.py, not the shipped {ROOT}/configs/brats.py')
    assert shipped.find('brats')[0] == str(ROOT / 'configs/brats.py')  # a name alone is looked for in no folder
    (elsewhere / 'mine.py').touch()
    assert shipped.find('mine') == ('mine.py', '') and shipped.find('mine.py:x') == ('mine.py:x', '')
    for wrong in ('brats2', 'elsewhere/brats.py', 'configs/brats.txt'):
        with pytest.raises(InputError, match=f'--config={wrong}: no such file, .*: auto, brats, brats3d, coco'):
            shipped.find(wrong)


def test_the_command_needs_no_folder_of_its_own(elsewhere):
    command = [sys.executable, '-m', 'unet_jax', '--config', 'phantom', '--mode=annotate', '--workdir=w',
               '--config.data.phantom.train=1', '--config.data.phantom.valid=1', '--config.data.phantom.test=0',
               '--config.data.phantom.size=32']
    done = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, env=os.environ | {
        'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'XDG_CACHE_HOME': str(elsewhere)})
    assert done.returncode == 0, done.stderr
    assert f'config phantom: the shipped {ROOT}/configs/phantom.py' in done.stdout
    assert (elsewhere / 'w/annotations.parquet').exists()


def test_importing_the_package_imports_no_framework():
    code = ('import sys, unet_jax; assert "load" in dir(unet_jax); '
            'print(*{"jax", "numpy", "pandas", "flax"} & set(sys.modules))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout == '\n', done.stderr
