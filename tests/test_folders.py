"""Whether a folder can be written to is tried, and caches find one that can."""
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from unet_jax import folders
from unet_jax.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def forget():
    folders._first_writable.cache_clear()
    yield
    folders._first_writable.cache_clear()


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path):
    assert not folders.obstacle(tmp_path) and not folders.obstacle(tmp_path / 'not' / 'yet')
    assert not list(tmp_path.iterdir())


def test_files_dangling_links_and_read_only_places_are_named(tmp_path):
    (tmp_path / 'file').touch()
    (tmp_path / 'link').symlink_to(tmp_path / 'gone')
    for name in ('file', 'file/below', 'link', 'link/below'):
        with pytest.raises(InputError, match=rf'--workdir={tmp_path}/{name}: .*{name.split("/")[0]} is no folder'):
            folders.check_writable(tmp_path / name, '--workdir')
    if sys.platform == 'linux':
        assert 'nothing can be written into /proc' in folders.obstacle('/proc/w')


@pytest.mark.parametrize('failing', ['write_bytes', 'rename'])
def test_what_fails_only_when_it_is_done_is_found_too(failing, tmp_path, monkeypatch):
    """A quota, a full disk, a file system that cannot rename."""
    def refuse(*_):
        raise OSError(122, 'Disk quota exceeded')

    monkeypatch.setattr(folders.Path, failing, refuse)
    assert folders.obstacle(tmp_path / 'w') == f'nothing can be written into {tmp_path}: Disk quota exceeded'
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != 'posix', reason='users by number')
def test_permissions_count():
    """Also where the tests are run by root, who may write everywhere, and becomes somebody else."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o555)
        code = ('import os; from unet_jax import folders; os.getuid() or os.setuid(65534); '
                f'print(folders.obstacle({place!r}))')
        done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f'nothing can be written into {place}: Permission denied\n', done.stderr


def test_caches_lie_where_the_user_says_else_at_home_else_in_a_temporary_folder(tmp_path, monkeypatch, caplog):
    (tmp_path / 'file').touch()
    (tmp_path / 'temporary').mkdir()
    monkeypatch.setattr(folders.tempfile, 'tempdir', str(tmp_path / 'temporary'))
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    assert folders.default_folder() == tmp_path / 'cache' / 'unet_jax'
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert folders.default_folder() == tmp_path / 'home' / '.cache' / 'unet_jax' and not caplog.text
    monkeypatch.setenv('HOME', str(tmp_path / 'file'))
    for _ in range(2):
        found = folders.default_folder()
        assert found == tmp_path / 'temporary' / f'unet_jax-{os.getuid()}'
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    assert caplog.text.count('The cache goes to') == 1 and f'{tmp_path}/file is no folder' in caplog.text


def test_a_user_without_a_home_has_a_cache(tmp_path, monkeypatch, caplog):
    """As in a container with --user=12345: expanduser leaves '~' where the number has no name."""
    monkeypatch.setattr(folders.os.path, 'expanduser', lambda path: path)
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr(folders.tempfile, 'tempdir', str(tmp_path))
    assert folders.default_folder().parent == tmp_path and 'this user has no home' in caplog.text


@pytest.mark.parametrize('planted', ['open to all', 'a link', 'a file'])
def test_a_temporary_folder_that_somebody_else_could_have_filled_is_not_taken(planted, tmp_path, monkeypatch):
    """What is compiled is code."""
    monkeypatch.setattr(folders.tempfile, 'tempdir', str(tmp_path))
    known = tmp_path / f'unet_jax-{os.getuid()}'
    if planted == 'open to all':
        known.mkdir()
        known.chmod(0o777)
    elif planted == 'a link':
        (tmp_path / 'theirs').mkdir()
        known.symlink_to(tmp_path / 'theirs')
    else:
        known.touch()
    found = folders._temporary('')
    assert found != known and found.parent == tmp_path and stat.S_IMODE(found.stat().st_mode) == 0o700


def test_no_folder_at_all_is_a_message(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setattr(folders.tempfile, 'tempdir', str(tmp_path / 'file'))
    with pytest.raises(InputError, match='there is no folder for caches .*XDG_CACHE_HOME=DIR'):
        folders._temporary('the home is a file')
