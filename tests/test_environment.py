"""A whole run in an environment in which nothing is as it should be, and the commands that cannot work in theirs."""
import os
import subprocess

import pytest
from test_main import ROOT, SMALL, command

FOREIGN = ('JAX', 'XLA', 'XDG', 'MPL', 'LC_')
AROUND = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}


def test_a_run_in_a_container_without_a_home_with_a_notebooks_backend_and_a_reader_that_leaves(tmp_path):
    """Nothing of it may cost the run its end: scores, pictures, report."""
    for name in ('temporary', 'home is a file'):
        (tmp_path / name).mkdir() if name == 'temporary' else (tmp_path / name).touch()
    (tmp_path / 'matplotlibrc').write_text('text.usetex: True\n')
    odd = {'HOME': str(tmp_path / 'home is a file'), 'TMPDIR': str(tmp_path / 'temporary'), 'JAX_PLATFORMS': 'cpu',
           'MPLBACKEND': 'module://matplotlib_inline.backend_inline', 'LC_ALL': 'C', 'PYTHONIOENCODING': 'ascii',
           'XLA_FLAGS': '--xla_backend_optimization_level=0', 'MATPLOTLIBRC': str(tmp_path / 'matplotlibrc')}
    words = command('--config=configs/phantom.py', f'--workdir={tmp_path}/w', *SMALL, '--config.train.steps=4',
                    '--config.optimizer.warmup=1', '--config.train.evaluate_every=4')
    piped = '"$0" "$@" | head -1; exit ${PIPESTATUS[0]}'
    done = subprocess.run(['bash', '-c', piped, *words], capture_output=True, text=True, cwd=ROOT, env=AROUND | odd)
    assert done.returncode == 0 and 'Traceback' not in done.stderr and 'BrokenPipe' not in done.stderr, done.stderr
    assert (tmp_path / 'w/report.html').exists() and list((tmp_path / 'w/pictures').glob('worst-*.png'))
    cache = tmp_path / 'temporary' / f'unet_jax-{os.getuid()}'
    assert done.stderr.count(f'The cache goes to {cache}') == 1
    assert f'samples go to {cache}/samples: 0.00 GB there, about 0.00 to come, 100 allowed' in done.stderr
    assert list((cache / 'samples').glob('*/image.npy')) and list((cache / 'compiled').glob('*-cache'))


@pytest.mark.parametrize('options, environment, message', [
    (['--workdir=FILE'], {}, '--workdir=FILE: cannot be written to (FILE is no folder)'),
    (['--workdir=FILE/w', '--mode=annotate'], {}, '--workdir=FILE/w: cannot be written to (FILE is no folder)'),
    (['--workdir=w'], {'JAX_PLATFORMS': 'tpu,cpu'}, 'JAX_PLATFORMS=tpu,cpu: no such device is here')])
def test_what_cannot_work_is_one_message_before_any_work(options, environment, message, tmp_path):
    file = tmp_path / 'file'
    file.touch()
    words = command(f'--config={ROOT}/configs/phantom.py', *(option.replace('FILE', str(file)) for option in options))
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=AROUND | {
        'JAX_PLATFORMS': 'cpu', 'XDG_CACHE_HOME': str(tmp_path), **environment})
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr.startswith('error: ' + message.replace('FILE', str(file))) and done.stderr.count('\n') == 1
