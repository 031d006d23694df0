"""One writer in a work directory: lock.json there says who it is, and that it lives.

A lock is a file that is linked to its name, which only one can do, on NFS too. Whether its holder still lives is known
by process number and start where it ran on this system (this boot of this kernel, these process numbers: containers
have their own), so that a killed run is gone on from at once. Elsewhere its sign of life decides: the holder touches
the file every BEAT seconds, and who finds it untouched for PATIENCE seconds takes it over. Times are compared as the
file server gives them, so clocks of hosts may differ.
"""
import json
import logging
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path

import jax

from unet_jax.errors import InputError

FILE = 'lock.json'
BEAT = 10.0  # seconds between signs of life
PATIENCE = 120.0  # seconds without one after which a holder elsewhere is taken for dead

log = logging.getLogger('unet_jax')


class Busy(InputError):
    """Another process that lives holds the folder."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The work directory `folder` is this process's to write into; of several of one run, process 0's for all.

    Inside itself it does nothing more. Raises Busy where another process has it, saying who, since when and what to
    do, and InputError where `folder` cannot be written. A holder that was killed is replaced, which a line says.
    """
    if jax.process_index() or is_mine(read(folder / FILE)):
        yield
        return
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mine = take(folder)
    except OSError as error:
        raise InputError(f'--workdir={folder}: cannot be written ({error}); name another') from error
    ended = threading.Event()
    threading.Thread(target=beat, args=(folder / FILE, mine['token'], ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        if (read(folder / FILE) or {}).get('token') == mine['token']:
            (folder / FILE).unlink(missing_ok=True)
        if new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def writer(mode: Callable) -> Callable:
    """`mode(config, folder, …)`, run as the one that writes into `folder`."""
    @wraps(mode)
    def alone(config, folder: Path, *arguments, **options):
        with held(folder):
            return mode(config, folder, *arguments, **options)

    return alone


def take(folder: Path) -> dict:
    """The lock of `folder`, now this process's. Raises Busy where its holder lives."""
    path, mine = folder / FILE, {**whoami(), 'token': uuid.uuid4().hex}
    candidate = folder / f'.{FILE}.{mine["token"]}'
    candidate.write_text(json.dumps(mine, indent=1) + '\n', encoding='utf-8')
    try:
        while not link(candidate, path):
            holder = read(path)
            if holder is None:
                continue  # released meanwhile
            if not is_dead(holder, path, candidate):
                if read(path) == holder:
                    raise Busy(refusal(folder, holder))
                continue
            log.warning('%s was held by %s, which ended without a farewell: taken over', folder, told(holder))
            remove(path, holder)
        return mine
    finally:
        candidate.unlink(missing_ok=True)


def link(candidate: Path, path: Path) -> bool:
    """Gives `candidate` the name `path` too; False where there is one. Where the file system has no hard links, the
    file is made anew, exclusively."""
    try:
        os.link(candidate, path)
    except FileExistsError:
        return os.stat(candidate).st_nlink == 2  # NFS: done, but the answer was lost and the request repeated
    except OSError:
        try:
            with open(path, 'x', encoding='utf-8') as file:
                file.write(candidate.read_text(encoding='utf-8'))
        except FileExistsError:
            return False
    return True


def remove(path: Path, holder: dict) -> None:
    """Takes away the lock of `holder`; puts back what is another's, who was faster in taking it over."""
    aside = path.with_name(f'.{path.name}.{uuid.uuid4().hex}')
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if read(aside) != holder:
        link(aside, path)
    aside.unlink(missing_ok=True)


def read(path: Path) -> dict | None:
    """Who holds a lock, {} where the file does not say (it is being written), None where there is none."""
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def whoami() -> dict:
    return {'host': socket.gethostname(), 'process': os.getpid(), 'began': began(os.getpid()), 'system': system(),
            'since': time.strftime('%Y-%m-%d %H:%M:%S %z'), 'command': shlex.join(sys.argv)}


def is_mine(holder: dict | None) -> bool:
    return bool(holder) and all(holder.get(key) == value for key, value in whoami().items()
                                if key in ('host', 'process', 'began', 'system'))


def system() -> str:
    """What process numbers are unique in, from one start of the kernel to the next."""
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return f'{boot} {os.readlink("/proc/self/ns/pid")}'
    except OSError:  # no Linux: there are no containers that share a kernel
        return socket.gethostname()


def began(process: int) -> str:
    """When a process of this system began, by its kernel; '' where there is none (any more), '?' where it is another
    user's and hidden."""
    try:
        with suppress(PermissionError):  # then it lives
            os.kill(process, 0)
    except ProcessLookupError:
        return ''
    try:
        state, *fields = Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()
        return '' if state in 'ZX' else fields[18]
    except OSError:
        if sys.platform == 'linux':
            return '?'
    found = subprocess.run(['ps', '-o', 'lstart=', '-p', str(process)], capture_output=True, text=True)
    return found.stdout.strip()


def is_dead(holder: dict, path: Path, candidate: Path) -> bool:
    """Whether the holder of `path` has ended without releasing it. Where only signs of life can tell, this waits for
    one; `candidate`, beside `path`, gets touched to know the file server's time."""
    if holder.get('system') == system():
        now = began(int(holder['process']))
        if now != '?':
            return now != holder.get('began')
    first, waited = touched(path), False
    while first is not None:
        os.utime(candidate)  # the file server's now
        quiet = (touched(candidate) or first) - first
        if quiet > PATIENCE:
            return True
        if not waited:
            log.warning('%s is held by %s: waiting up to %.0f s for its next sign of life', path.parent, told(holder),
                        PATIENCE - max(quiet, 0))
            waited = True
        time.sleep(min(1.0, BEAT))
        if touched(path) != first:
            return False
    return False


def touched(path: Path) -> float | None:
    """When a file was last written; opened for it, as NFS then asks its server."""
    try:
        with open(path, 'rb') as file:
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return None


def beat(path: Path, token: str, ended: threading.Event) -> None:
    """Gives signs of life until `ended`. A process that finds another's lock, after it was stopped for longer than
    PATIENCE, ends at once: what it has saved is whole, and the other goes on from there."""
    while not ended.wait(BEAT):
        holder = read(path)
        if holder and holder.get('token') != token and not ended.is_set():
            print(f'error: {path} is now held by {told(holder)}, since nothing was heard of this process for '
                  f'{PATIENCE:.0f} s. It ends here, so that only one writes', file=sys.stderr, flush=True)
            os._exit(2)
        with suppress(OSError):  # a file server that is away for a moment
            os.utime(path)


def told(holder: dict) -> str:
    return (f'process {holder.get("process", "?")} on {holder.get("host", "?")} since {holder.get("since", "?")} '
            f'({holder.get("command", "?")})')


def refusal(folder: Path, holder: dict) -> str:
    return (f'{folder} is in use by {told(holder)}. Two would write over each other: wait for its end, end it, or '
            'name another --workdir. Processes of one run must find each other: see docs/scaling.md, "Several hosts". '
            f'If that process is surely gone, remove {folder / FILE}')
