"""Memory in pages of 2 MiB instead of 4 KiB, for what the host computes and decodes.

A training step on CPUs touches fresh memory: 97,000 page faults in the 2-D case of benchmarks/step.py, 336,000 in its
3-D case. With huge pages there are 800 and 11,000, and steps take 1.17 s instead of 1.35 and 2.7 instead of 3.4 (2
cores, AVX2). Linux gives them to who asks ("madvise", the usual setting), and glibc from 2.35 on asks when
GLIBC_TUNABLES said so before the process started.
"""
import os
import sys

TUNABLE = 'glibc.malloc.hugetlb'


def environment() -> dict[str, str]:
    """What to add to the environment of a process to start; nothing where it, or the user, decided already."""
    given = os.environ.get('GLIBC_TUNABLES', '')
    if sys.platform != 'linux' or TUNABLE in given:
        return {}
    return {'GLIBC_TUNABLES': ':'.join(filter(None, [given, f'{TUNABLE}=1']))}


def restart() -> None:
    """Starts this very command again, in the same process, with `environment`; returns where there is nothing to add.

    For the first lines of a program: 20 ms, nothing read yet. GLIBC_TUNABLES=glibc.malloc.hugetlb=0 goes without.
    """
    added = environment()
    if added and sys.executable:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **added})
