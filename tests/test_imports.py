"""Folders import only from those to their left in README's row, and each framework is known to one of them."""
import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROW = re.search(r'^ {4}(annotations/.*report/)$', (ROOT / 'README.md').read_text(encoding='utf-8'), re.MULTILINE)[1]
ORDER = [name.strip('/') for name in ROW.split(' → ')]
OWNERS = {'flax': 'model', 'orbax': 'training'}


def imported(path: Path) -> set[str]:
    """Full names of what a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f'{node.module}.{alias.name}' for alias in node.names}
    return names


def test_the_row_has_every_folder_that_data_passes_through():
    folders = {path.parent.name for path in (ROOT / 'unet_jax').glob('*/__init__.py')}
    assert folders - {'modes'} == set(ORDER)


@pytest.mark.parametrize('folder', ORDER)
def test_a_folder_imports_only_to_the_left(folder):
    right = {'modes', *ORDER[ORDER.index(folder) + 1:]}
    wrong = [f'{path.name}: {name}' for path in (ROOT / 'unet_jax' / folder).glob('*.py') for name in imported(path)
             if name.startswith('unet_jax.') and name.split('.')[1] in right]
    assert not wrong


@pytest.mark.parametrize('package, owner', OWNERS.items())
def test_a_framework_is_imported_in_one_folder(package, owner):
    files = [path.relative_to(ROOT / 'unet_jax') for path in (ROOT / 'unet_jax').rglob('*.py')]
    users = {path.as_posix() for path in files
             if package in {name.split('.')[0] for name in imported(ROOT / 'unet_jax' / path)}}
    assert {path.split('/')[0] for path in users} == {owner}
