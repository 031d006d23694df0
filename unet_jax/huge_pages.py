"""Memory in pages of 2 MiB instead of 4 KiB, for what the host computes and decodes.

A training step on CPUs touches fresh memory: 97,000 page faults in the 2-D case of benchmarks/step.py, 336,000 in its
3-D case. With huge pages there are 800 and 11,000, and steps take 1.17 s instead of 1.35 and 2.7 instead of 3.4 (2
cores, AVX2). Linux gives them to who asks ("madvise", the usual setting), and glibc from 2.35 on asks when
GLIBC_TUNABLES said so before the process started.
"""
import os
import sys
from contextlib import suppress

TUNABLE = 'glibc.malloc.hugetlb'


def environment() -> dict[str, str]:
    """What to add to the environment of a process to start; nothing where it, or the user, decided already."""
    given = os.environ.get('GLIBC_TUNABLES', '')
    if sys.platform != 'linux' or TUNABLE in given:
        return {}
    return {'GLIBC_TUNABLES': ':'.join(filter(None, [given, f'{TUNABLE}=1']))}


def restart(program: str) -> None:
    """Starts this very command again, in the same process, with `environment`; returns where there is nothing to add,
    and where the user did not start `program` (its file, or '-m NAME') itself: `python -m pdb main.py`, %run, a
    debugger, a profiler or pytest would lose all that they hold.

    For the first lines of a program: 20 ms, nothing read yet. GLIBC_TUNABLES=glibc.malloc.hugetlb=0 goes without.
    """
    added = environment()
    if added and sys.executable and not watched() and started(sys.orig_argv) in (program, os.path.realpath(program)):
        with suppress(OSError):  # it is only for speed
            os.execve(sys.executable, sys.orig_argv, {**os.environ, **added})


def started(command: list[str]) -> str | None:
    """What an interpreter's command line starts: a file, resolved, or '-m NAME'; None for -c, standard input and a
    prompt."""
    rest = iter(command[1:])
    for part in rest:
        if not part.startswith('-'):
            return os.path.realpath(part)
        if part.startswith('--'):
            if part == '--check-hash-based-pycs':
                next(rest, None)
            continue
        letters = part[1:]  # of a cluster such as -OOu; from m, c, W or X on it is that option's own word
        taken = next((k for k, letter in enumerate(letters) if letter in 'mcWX'), None)
        if not letters or taken is not None and letters[taken] == 'c':
            return None
        if taken is not None and letters[taken] == 'm':
            return f'-m {letters[taken + 1:] or next(rest, "")}'
        if taken == len(letters) - 1:
            next(rest, None)
    return None


def watched() -> bool:
    """Whether a debugger, a profiler or coverage looks on."""
    monitoring = getattr(sys, 'monitoring', None)  # from Python 3.12 on
    tools = monitoring and any(monitoring.get_tool(k) for k in range(6))
    return bool(sys.gettrace() or sys.getprofile() or tools)
