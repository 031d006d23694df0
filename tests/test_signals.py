"""SIGTERM and Ctrl-C where there is nothing to save: the program ends at once, with status 0 and the way to go on."""
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from unet_jax import command_line, signals

# the program with a thread that sends a signal as soon as the main thread is in XLA's compiler; says when
IN_THE_COMPILER = '''
import os, signal, sys, threading, time
from unet_jax import command_line

def send():
    while sys._current_frames()[threading.main_thread().ident].f_code.co_name != 'backend_compile_and_load':
        time.sleep(0.01)
    time.sleep(0.3)
    print('sent', time.time(), flush=True)
    os.kill(os.getpid(), getattr(signal, os.environ['KIND']))

threading.Thread(target=send, daemon=True).start()
command_line.run()
'''


def wait_with_a_signal(*kinds):
    """Waits for something that never comes, while the signals do."""
    for k, kind in enumerate(kinds):
        threading.Timer(0.1 + 0.1 * k, os.kill, [os.getpid(), kind]).start()
    assert not threading.Event().wait(30)


@pytest.mark.parametrize('kind', ['SIGTERM', 'SIGINT'])
def test_a_signal_ends_a_wait_with_the_command_that_goes_on(kind, capsys, monkeypatch):
    monkeypatch.setattr(signals.sys, 'argv', ['main.py', '--workdir=a b', '--mode=evaluate'])

    def evaluate(_):
        with signals.raised():
            wait_with_a_signal(getattr(signal, kind))

    monkeypatch.setattr(signals.os, '_exit', sys.exit)
    with pytest.raises(SystemExit) as left:
        command_line.explain(evaluate, None)
    assert left.value.code == 0
    assert f"{kind}: stopped" in (said := capsys.readouterr().out)
    assert "python main.py '--workdir=a b' --mode=evaluate" in said
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # as it was before


def test_what_is_only_noted_ends_at_once_with_a_second_ctrl_c():
    with signals.raised(), signals.noted() as received:
        signal.raise_signal(signal.SIGTERM)
        assert received == ['SIGTERM']
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_ctrl_c_leaves_without_python_s_own_end(capfd, monkeypatch):
    """In the first step XLA may be compiling, as in the test below."""
    monkeypatch.setattr(signals.os, '_exit', lambda status: sys.exit(f'left with {status}'))

    def train(_):
        with signals.noted():
            wait_with_a_signal(signal.SIGINT, signal.SIGINT)

    with pytest.raises(SystemExit, match='left with 130'):
        command_line.explain(train, None)
    assert 'SIGINT: saves and stops after this step; Ctrl-C ends at once' in capfd.readouterr().err


def test_a_signal_while_xla_compiles_ends_the_program_within_two_seconds(tmp_path):
    """A plan of a network that takes longer to compile than that."""
    kind, root = 'SIGINT', Path(__file__).resolve().parents[1]
    regions = "--config.data.regions=(('WT',(1,2,3),1),)"
    done = subprocess.run(
        [sys.executable, '-c', IN_THE_COMPILER, '--config=configs/brats3d.py:small', '--mode=plan', regions,
         '--config.data.categories=(1,2,3)', '--config.data.channels=4', '--config.data.size=(32,32,32)',
         f'--config.data.root={tmp_path}', f'--workdir={tmp_path}/w'], capture_output=True, text=True, timeout=120,
        cwd=root, env={**os.environ, 'KIND': kind, 'XLA_FLAGS': '', 'XDG_CACHE_HOME': str(tmp_path)})
    ended = time.time()
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    sent, said = done.stdout.splitlines()[:2]
    assert said.startswith(f'{kind}: stopped, nothing is lost') and ended - float(sent.split()[1]) < 2


BUSY = '''
import hashlib, os, signal, sys, threading
from unet_jax import signals
which, kinds = sys.argv[1], sys.argv[2:]
for k, kind in enumerate(kinds):
    threading.Timer(0.2 + 0.2 * k, os.kill, [os.getpid(), getattr(signal, kind)]).start()
with getattr(signals, which)():
    hashlib.pbkdf2_hmac('sha256', b'', b'', 2 ** 28)  # a minute or more in which Python runs no handler
'''


@pytest.mark.parametrize('which, kinds, status, said', [
    ('raised', ['SIGTERM'], 0, 'SIGTERM: stopped'), ('noted', ['SIGINT', 'SIGINT'], 130, 'interrupted'),
    ('noted', ['SIGTERM', 'SIGINT'], 130, 'interrupted')])
def test_a_signal_ends_a_main_thread_that_runs_no_python(which, kinds, status, said):
    """As XLA's compiler of jax 0.12 does."""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, '-c', BUSY, which, *kinds], capture_output=True, text=True, timeout=20,
                          cwd=root)
    assert done.returncode == status and said in done.stdout + done.stderr, done


def test_one_signal_that_comes_late_is_noted_and_waited_for():
    root = Path(__file__).resolve().parents[1]
    shorter = BUSY.replace('2 ** 28', '2 ** 23').replace('():', '() as received:') + '    print(received)'
    done = subprocess.run([sys.executable, '-c', shorter, 'noted', 'SIGINT'], capture_output=True, text=True,
                          timeout=20, cwd=root)
    assert (done.returncode, done.stdout) == (0, "['SIGINT']\n"), done
