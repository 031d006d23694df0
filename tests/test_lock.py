"""One writer in a work directory, and what becomes of a lock whose holder was killed."""
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from unet_jax import lock
from unet_jax.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import sys, time, pathlib
from unet_jax import lock
with lock.held(pathlib.Path(sys.argv[1])):
    print('held', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, 'BEAT', 0.05)
    monkeypatch.setattr(lock, 'PATIENCE', 0.5)


def other(folder) -> subprocess.Popen:
    """Another process that holds `folder`."""
    process = subprocess.Popen([sys.executable, '-c', HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                               env=os.environ | {'JAX_PLATFORMS': 'cpu'})
    assert process.stdout.readline() == 'held\n'
    return process


def write_lock(folder, **changes):
    folder.mkdir(exist_ok=True)
    (folder / lock.FILE).write_text(json.dumps({**lock.whoami(), 'token': 'x', **changes}))


def test_a_second_process_is_told_who_holds_it_and_a_killed_one_is_replaced_at_once(tmp_path, caplog):
    process = other(tmp_path)
    try:
        with pytest.raises(InputError) as told, lock.held(tmp_path):
            pass
        said = str(told.value)
        assert f'{tmp_path} is in use by process {process.pid} on ' in said and ' since 20' in said
        assert 'wait for its end, end it, or name another --workdir' in said and (tmp_path / lock.FILE).exists()
        process.send_signal(signal.SIGKILL)  # and not waited for: a zombie is dead too
        start = time.monotonic()
        while lock.began(process.pid) and time.monotonic() < start + 10:
            time.sleep(0.01)
        with lock.held(tmp_path):
            assert lock.read(tmp_path / lock.FILE)['process'] == os.getpid()
        assert f'held by process {process.pid}' in caplog.text and 'taken over' in caplog.text
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert not list(tmp_path.iterdir())


def test_it_is_released_at_the_end_and_on_errors_and_leaves_no_empty_folder(tmp_path):
    with pytest.raises(KeyError), lock.held(tmp_path / 'a/w'):
        with lock.held(tmp_path / 'a/w'):  # a mode that calls another
            pass
        assert (tmp_path / 'a/w' / lock.FILE).exists()
        raise KeyError
    assert not (tmp_path / 'a/w').exists()
    with lock.held(tmp_path / 'a/w'):
        (tmp_path / 'a/w/x').touch()
    assert [path.name for path in (tmp_path / 'a/w').iterdir()] == ['x']


def test_a_number_that_another_process_has_by_now_is_not_the_holder(tmp_path):
    write_lock(tmp_path, process=1, began='0')
    with lock.held(tmp_path):
        pass
    write_lock(tmp_path, process=1, began=lock.began(1))
    with pytest.raises(InputError, match='in use by process 1 on'), lock.held(tmp_path):
        pass


def test_a_holder_on_another_system_is_known_by_its_signs_of_life(tmp_path, quick, caplog):
    write_lock(tmp_path, host='elsewhere', system='another boot', process=99)
    ended = threading.Event()
    living = threading.Thread(target=lock.beat, args=(tmp_path / lock.FILE, 'x', ended))
    living.start()
    try:
        with pytest.raises(InputError, match='process 99 on elsewhere since'), lock.held(tmp_path):
            pass
    finally:
        ended.set()
        living.join()
    start = time.monotonic()
    with lock.held(tmp_path):
        assert time.monotonic() - start > 0.4
    assert 'waiting up to' in caplog.text and 'taken over' in caplog.text
    write_lock(tmp_path, system='another boot')
    os.utime(tmp_path / lock.FILE, (1, 1))  # long ago by the file server's clock: nothing to wait for
    start = time.monotonic()
    with lock.held(tmp_path):
        assert time.monotonic() - start < 0.4


def test_who_is_slower_in_taking_over_leaves_the_new_holder_alone(tmp_path):
    write_lock(tmp_path, token='new')
    lock.remove(tmp_path / lock.FILE, {'token': 'old'})
    assert lock.read(tmp_path / lock.FILE)['token'] == 'new' and len(list(tmp_path.iterdir())) == 1


def test_a_holder_that_was_stopped_too_long_ends_when_it_finds_another(tmp_path, quick, monkeypatch, capsys):
    write_lock(tmp_path, token='new')
    ends = []
    monkeypatch.setattr(lock.os, '_exit', lambda status: (ends.append(status), ended.set()))
    ended = threading.Event()
    lock.beat(tmp_path / lock.FILE, 'old', ended)
    assert ends == [2] and 'is now held by process' in capsys.readouterr().err


def test_file_systems_without_hard_links_are_served_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, 'Operation not permitted')

    monkeypatch.setattr(lock.os, 'link', refuse)
    with lock.held(tmp_path):
        assert lock.is_mine(lock.read(tmp_path / lock.FILE))
        assert not lock.link(tmp_path / lock.FILE, tmp_path / lock.FILE)


def test_of_several_processes_the_first_holds_it_for_all(tmp_path, monkeypatch):
    write_lock(tmp_path, process=1, began=lock.began(1))
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    with lock.held(tmp_path):
        pass
    assert lock.read(tmp_path / lock.FILE)['process'] == 1


def test_a_folder_that_cannot_be_made_is_a_message(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='--workdir=.*file/w: cannot be written .*name another'), \
            lock.held(tmp_path / 'file/w'):
        pass
