"""The command starts itself again with glibc's huge pages, once, unless someone decided already."""
import subprocess
import sys
from pathlib import Path

import pytest

from unet_jax import huge_pages

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os, sys
from unet_jax import huge_pages
huge_pages.restart(__file__)
print(os.getpid(), os.environ.get('GLIBC_TUNABLES'), sys.argv[1:], sys.flags.utf8_mode, sys.stdin.read())
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc is a matter of Linux')
def test_the_same_process_starts_again_with_everything_it_was_given(tmp_path, monkeypatch):
    monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
    program = tmp_path / 'program.py'
    program.write_text(PROGRAM)
    with subprocess.Popen([sys.executable, '-X', 'utf8', program, 'a b', '--c=d'], cwd=tmp_path, text=True, stdin=-1,
                          stdout=-1, env={'PYTHONPATH': str(ROOT)}) as process:
        said, _ = process.communicate('input')
    assert process.returncode == 0
    assert said.split(maxsplit=1)[0] == str(process.pid)
    assert said.split(maxsplit=1)[1] == "glibc.malloc.hugetlb=1 ['a b', '--c=d'] 1 input\n"


@pytest.mark.parametrize('platform, given, added', [
    ('linux', None, {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}),
    ('linux', 'glibc.malloc.check=1', {'GLIBC_TUNABLES': 'glibc.malloc.check=1:glibc.malloc.hugetlb=1'}),
    ('linux', 'glibc.malloc.hugetlb=0', {}), ('darwin', None, {})])
def test_what_someone_decided_stays(monkeypatch, platform, given, added):
    monkeypatch.setattr(huge_pages.sys, 'platform', platform)
    monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
    if given is not None:
        monkeypatch.setenv('GLIBC_TUNABLES', given)
    assert huge_pages.environment() == added
    if not added:
        huge_pages.restart(__file__)  # returns
