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


STARTS = {  # how the program is started: whether that is what the user typed
    'the program': (['PROGRAM', '-m', 'x'], True),
    'optimised': (['-OO', '-W', 'ignore', '-Xdev', 'PROGRAM'], True),
    'unbuffered': (['-uX', 'utf8', '--check-hash-based-pycs', 'never', 'PROGRAM'], True),
    'profiler': (['-m', 'cProfile', 'PROGRAM'], False),
    'debugger': (['-m', 'pdb', '-c', 'continue', 'PROGRAM'], False),
    'tracer': (['-m', 'trace', '--count', '-C', '.', 'PROGRAM'], False), 'module': (['-um', 'program'], False),
    'run_path, as %run does': (['-c', 'import runpy; runpy.run_path("program.py", run_name="__main__")'], False),
    'another program, as debugpy and coverage do': (['other.py', 'PROGRAM'], False),
    'coverage from the first line on': (['-c', 'TRACED'], False)}
TRACED = """import sys; sys.settrace(lambda *_: None); sys.orig_argv[1:] = ['program.py']
import runpy; runpy.run_path('program.py', run_name='__main__')"""


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc is a matter of Linux')
@pytest.mark.parametrize('arguments, again', STARTS.values(), ids=STARTS)
def test_only_what_the_user_started_itself_starts_again(arguments, again, tmp_path):
    program = tmp_path / 'program.py'
    program.write_text('import os\nfrom unet_jax import huge_pages\nhuge_pages.restart(__file__)\n'
                       'print("tunables:", os.environ.get("GLIBC_TUNABLES"))\n')
    (tmp_path / 'other.py').write_text('import runpy, sys\nsys.argv = sys.argv[1:]\n'
                                       'runpy.run_path(sys.argv[0], run_name="__main__")\n')
    words = [{'PROGRAM': 'program.py', 'TRACED': TRACED}.get(word, word) for word in arguments]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, text=True, capture_output=True, stdin=-3,
                          env={'PYTHONPATH': f'{ROOT}:{tmp_path}'})
    expected = f'tunables: {"glibc.malloc.hugetlb=1" if again else None}'
    assert expected in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc is a matter of Linux')
@pytest.mark.parametrize('start, again', [(['-um', 'program'], True), (['-m', 'pdb', '-m', 'program'], False)])
def test_a_module_that_is_started_by_its_name_starts_again(start, again, tmp_path):
    program = """import os
from unet_jax import huge_pages
huge_pages.restart('-m program')
print('tunables:', os.environ.get('GLIBC_TUNABLES'))
"""
    (tmp_path / 'program.py').write_text(program)
    done = subprocess.run([sys.executable, *start], cwd=tmp_path, text=True, capture_output=True, input='continue\n',
                          env={'PYTHONPATH': f'{ROOT}:{tmp_path}'})
    assert f'tunables: {"glibc.malloc.hugetlb=1" if again else None}' in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize('command, file', [
    ('python main.py a.py', 'main.py'), ('python -W ignore main.py', 'main.py'), ('python -Werror main.py', 'main.py'),
    ('python -BX dev -E main.py', 'main.py'), ('python -m main.py', '-m main.py'), ('python -Im a b', '-m a'),
    ('python -mmain', '-m main'), ('python', None),
    ('python - main.py', None), ('python -c main.py', None), ('python -O', None)])
def test_what_an_interpreter_starts(command, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = file if not file or file.startswith('-m') else str(tmp_path.resolve() / file)
    assert huge_pages.started(command.split()) == found


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
