"""What is printed never ends the work: not letters that an encoding lacks, nor a reader that leaves."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import contextlib, os, sys
from unet_jax import console, progress
console.forgive()
for k in progress.bar(range(3), desc='Größe ×'):
    print('128 × 128 … μ', k)
    print('Größe ×', file=sys.stderr)
    sys.stdout and sys.stdout.flush()
print('x' * 200_000)
with open(sys.argv[1], 'w') as end:
    for number in (1, 2):
        with contextlib.suppress(OSError):
            os.write(number, b'of XLA: ')
    end.write('done')
"""


def run(*arguments, redirect='', tmp_path, **environment):
    """What it said, and its exit status, where it came to its end."""
    (tmp_path / 'program.py').write_text(PROGRAM, encoding='utf-8')
    command = f'"$0" "$@" {redirect}' + '; exit ${PIPESTATUS[0]}'
    done = subprocess.run(['bash', '-c', command, sys.executable, *arguments, 'program.py', 'end'], cwd=tmp_path,
                          capture_output=True, timeout=60, env=os.environ | {'PYTHONPATH': str(ROOT)} | environment)
    assert (tmp_path / 'end').read_text() == 'done', done.stderr
    assert done.returncode == 0 and b'Traceback' not in done.stderr and b'rror' not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize('arguments', [(), ('-u',)])
@pytest.mark.parametrize('environment', [{'PYTHONIOENCODING': 'ascii', 'LC_ALL': 'C'}, {'LC_ALL': 'C'},
                                         {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}])
def test_an_encoding_that_lacks_letters_prints_what_stands_for_them(arguments, environment, tmp_path):
    said = run(*arguments, tmp_path=tmp_path, **environment).decode()
    assert said.startswith(('128 \\xd7 128 \\u2026 \\u03bc 0\n', '128 × 128 … μ 0\n')) and len(said) > 200_000


@pytest.mark.parametrize('arguments', [(), ('-u',)])
@pytest.mark.parametrize('redirect', ['| true', '2>&1 | head -1 >/dev/null', '>&-', '2>&-', '<&- >&- 2>&-'])
def test_a_reader_that_leaves_or_never_was_ends_nothing(arguments, redirect, tmp_path):
    run(*arguments, redirect=redirect, tmp_path=tmp_path)


def test_a_full_disk_is_still_told(tmp_path):
    if not os.path.exists('/dev/full'):
        pytest.skip('Linux has a device that is always full')
    done = subprocess.run([sys.executable, '-c', PROGRAM, tmp_path / 'end'], stdout=open('/dev/full', 'w'), stderr=-1,
                          env=os.environ | {'PYTHONPATH': str(ROOT)})
    assert done.returncode and b'No space left' in done.stderr
