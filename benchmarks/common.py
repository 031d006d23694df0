"""What the benchmarks share: workers that take turns, medians of pairs, tables, and the line that says on what.

Nothing here imports jax or torch: each library has a worker process of its own, which is stopped, with its threads and
its own processes, while the other one's is measured.
"""
import argparse
import contextlib
import ctypes
import datetime
import importlib.metadata
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / 'results'
CPUINFO = Path('/proc/cpuinfo')
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'torch', 'monai', 'segmentation-models-pytorch',
            'albumentations', 'nnunetv2', 'onnx', 'onnxruntime', 'openvino')
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for unet_jax and configs, however the script was started


def cpuinfo(field: str) -> str:
    """What the first line with this name says, '' without one."""
    text = CPUINFO.read_text() if CPUINFO.exists() else ''
    found = re.search(rf'^(?:{field})\s*:\s*(.*)', text, re.MULTILINE)
    return found.group(1).strip() if found else ''


def flags() -> set[str]:
    return set(cpuinfo('flags|Features').split())


def bfloat16() -> bool:
    """Whether the processor has instructions for it (x86 or ARM); without, PyTorch emulates it, at 15 s a step."""
    return not flags().isdisjoint({'avx512_bf16', 'amx_bf16', 'bf16'})


def processor() -> str:
    """The processor's name, its cores, and its widest vectors."""
    wide = 'AVX-512' if 'avx512f' in flags() else 'AVX2' if 'avx2' in flags() else platform.machine()
    bf16 = ', bf16 instructions' if bfloat16() else ''
    return f'{os.cpu_count()} cores of {cpuinfo("model name") or platform.processor()} ({wide}{bf16})'


def accelerator() -> str:
    """The name of the first NVIDIA GPU, '' without one."""
    try:
        found = subprocess.run(['nvidia-smi', '--query-gpu=name', '--format=csv,noheader'], capture_output=True,
                               text=True)
    except OSError:
        return ''
    return found.stdout.splitlines()[0].strip() if found.returncode == 0 and found.stdout else ''


def memory() -> str:
    return f'{os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30:.0f} GiB'


def versions() -> str:
    found = [f'Python {platform.python_version()}']
    for name in PACKAGES:
        try:
            found.append(f'{name} {importlib.metadata.version(name)}')
        except importlib.metadata.PackageNotFoundError:
            continue
    return ', '.join(found)


def commit() -> str:
    """The commit of the code, with -dirty if it was changed since; 'unknown' outside a checkout."""
    command = ['git', '-C', str(ROOT), 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*']
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip() or 'unknown'
    except OSError:
        return 'unknown'


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; columns of numbers to the right."""
    cells = [[text(x) for x in row] for row in rows]
    width = [max(len(line[k]) for line in [list(head), *cells]) for k in range(len(head))]
    right = [bool(rows) and all(isinstance(row[k], (int, float)) or row[k] in ('', None) for row in rows)
             for k in range(len(head))]

    def line(values):
        return '| ' + ' | '.join(v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, width, right)) + ' |'

    rule = '|' + '|'.join('-' * (w + 1) + (':' if r else '-') for w, r in zip(width, right)) + '|'
    return '\n'.join([line(head), rule, *map(line, cells)])


def text(x: object) -> str:
    """Four significant digits; what was not measured is said so."""
    if x is None:
        return 'not measured'
    if isinstance(x, float):
        return f'{x:,.0f}' if abs(x) >= 1000 else f'{x:.4g}'
    return f'{x:,}' if isinstance(x, int) else str(x)


def report(name: str, title: str, parts: Sequence[str], *, results: Path = RESULTS, variant: str = '',
           dated: bool = True) -> Path:
    """Prints the parts (tables and notes), writes them to <name>[-variant]-<date>-<hardware>.md, returns the path; the
    name ends with the variant unless `dated`."""
    hardware = accelerator() or processor()
    today = datetime.date.today().isoformat()
    about = [f'Date: {today}', '; '.join(filter(None, [f'Hardware: {processor()}, {memory()}', accelerator()])),
             f'Versions: {versions()}', f'Commit: {commit()}',
             f'Command: python benchmarks/{Path(sys.argv[0]).name} {" ".join(sys.argv[1:])}'.rstrip()]
    whole = '\n\n'.join([f'# {title}', '\n'.join(f'- {line}' for line in about), *parts]) + '\n'
    print(whole, flush=True)
    short = re.sub(r'[^a-z0-9]+', '-', re.sub(r'\(.*?\)', '', hardware).lower()).strip('-')
    path = results / f'{name}{"-" + variant if variant else ""}{f"-{today}-{short}" if dated else ""}.md'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(whole, encoding='utf-8')
    return path


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """(median, lowest, highest) of theirs / ours by pairs of one round each: above 1 we are faster."""
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f'{len(ours)} against {len(theirs)} measurements are no pairs')
    pairs = [b / a for a, b in zip(ours, theirs)]
    return median(pairs), min(pairs), max(pairs)


def in_turn(entries: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """{name: a measurement a round}; every round measures all of them, every other one in reverse order."""
    found = {name: [] for name in entries}
    for k in range(rounds):
        for name in list(entries)[::1 if k % 2 == 0 else -1]:
            found[name].append(entries[name]())
        print(f'round {k + 1} of {rounds}: ' + ', '.join(f'{n} {v[-1]:.4g}' for n, v in found.items()),
              file=sys.stderr, flush=True)
    return found


def seconds(run: Callable[[], object], *, least: float = 0.5, calls: int = 2) -> float:
    """Mean seconds of `run()`, which must wait for its result, after one call that is not counted."""
    run()
    start, count = time.perf_counter(), 0
    while count < calls or time.perf_counter() - start < least:
        run()
        count += 1
    return (time.perf_counter() - start) / count


def resident() -> float:
    """MiB of this process in memory, after what malloc keeps was given back."""
    ctypes.CDLL('libc.so.6').malloc_trim(0)
    return _status('VmRSS')


def peak_resident(run: Callable[[], object]) -> float:
    """The most MiB of this process in memory during `run()`. Linux only."""
    resident()
    Path('/proc/self/clear_refs').write_text('5')  # resets VmHWM
    run()
    return _status('VmHWM')


def _status(field: str) -> float:
    return int(re.search(rf'{field}:\s*(\d+) kB', Path('/proc/self/status').read_text()).group(1)) / 1024


class Worker:
    """A process that runs `script --worker=KIND`, with huge pages as main.py has, and answers commands;
    use it in a `with`. Until it is asked, its process group is stopped: imports, threads that spin and nnU-Net's
    loaders, which look at their queues 500 times a second (0.11 of a core), would slow down whoever is measured."""

    def __init__(self, script: str, kind: str, *arguments: str, environment: dict[str, str] | None = None):
        from unet_jax import huge_pages
        command = [sys.executable, script, f'--worker={kind}', *arguments]
        environment = {**os.environ, **huge_pages.environment(), **(environment or {})}
        self.kind = kind
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=environment, process_group=0)
        self.send(signal.SIGSTOP)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.send(signal.SIGCONT if kind is None else signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait()

    def send(self, number: int) -> None:
        """A signal to the whole group, if anything of it is left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def ask(self, command: str, **arguments):
        """What the worker's function `command` returns. Raises RuntimeError where the worker ended."""
        self.send(signal.SIGCONT)
        self.process.stdin.write(json.dumps({'command': command, **arguments}) + '\n')
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f'the {self.kind} worker ended with status {self.process.wait()} at {command!r}')
        self.send(signal.SIGSTOP)
        return json.loads(answer)


def serve(commands: dict[str, Callable]) -> None:
    """The worker's side: a JSON object a line in, the answer a line out; whatever else is printed goes to stderr."""
    out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = commands[asked.pop('command')](**asked)
        out.write(json.dumps(answer) + '\n')
        out.flush()


def parser(doc: str) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument('--worker', default='', help=argparse.SUPPRESS)
    found.add_argument('--rounds', type=int, default=7, help='measurements of each, in turn')
    found.add_argument('--results', type=Path, default=RESULTS, help='folder for the tables')
    return found
