"""Seconds from the command to the first training step, cold and warm; and that evaluation compiles nothing per case.

    python benchmarks/startup.py                     # configs/phantom.py
    python benchmarks/startup.py --root=DIR          # configs/coco.py on a COCO folder

Cold: an empty cache folder (XDG_CACHE_HOME), so that images are decoded and every program is compiled. Warm: the
second and later runs in new work directories. Each runs main.py itself; a run's first line of timing.jsonl, with
log_every = 1, says that the first step is done. Phantoms, where used, are written before.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common


def command(root: str, workdir: Path) -> list[str]:
    config = 'coco' if root != str(workdir.parent / 'phantoms') else 'phantom'
    fields = {'data.root': root, 'train.log_every': 1, 'train.steps': 10_000}
    return [sys.executable, str(common.ROOT / 'main.py'), f'--config={common.ROOT / "configs"}/{config}.py',
            f'--workdir={workdir}', *(f'--config.{k}={v}' for k, v in fields.items())]


def first_step(root: str, workdir: Path, cache: Path) -> float:
    """Seconds until the first step is done; then the run is ended."""
    timing, log = workdir / 'timing.jsonl', workdir.with_suffix('.log')
    # programs that a folder of the user's holds would make a cold start warm
    around = {name: value for name, value in os.environ.items() if name != 'JAX_COMPILATION_CACHE_DIR'}
    with open(log, 'w') as output:
        start = time.perf_counter()
        process = subprocess.Popen(command(root, workdir), stdout=output, stderr=output,
                                   env={**around, 'XDG_CACHE_HOME': str(cache)})
        while not (timing.exists() and timing.stat().st_size):
            if process.poll() is not None:
                sys.exit(log.read_text()[-3000:])
            time.sleep(0.005)
        found = time.perf_counter() - start
        process.kill()
        process.wait()
    return found


def importing() -> float:
    """Seconds that Python takes to start and import what main.py does before it trains."""
    start = time.perf_counter()
    subprocess.run([sys.executable, '-c', 'from unet_jax.modes import start, train'], cwd=common.ROOT, check=True)
    return time.perf_counter() - start


def worker(folder: Path, cases: int) -> None:
    """Evaluates so many cases of a run, and counts the programs that were compiled, or fetched from the cache."""
    import jax
    from absl import logging as absl_logging

    from unet_jax.annotations import frame as frames
    from unet_jax.modes import evaluate, start
    from unet_jax.workdir import load_config
    absl_logging.set_verbosity(absl_logging.WARNING)
    config = load_config(folder)
    start.start(config, folder)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith('backend_compile_duration') else None)

    def run():
        frame = frames.load(folder / 'annotations.parquet')
        keep = frame[frame.subset == 'test'].image_id.unique()[:cases]
        copy = folder / f'first_{cases}'
        copy.mkdir()
        for name in ('config.json', 'metrics.jsonl', 'timing.jsonl', 'audit.json', 'audit.txt', 'environment.json',
                     'checkpoints'):
            os.symlink(folder / name, copy / name)
        frames.save(frame[(frame.subset != 'test') | frame.image_id.isin(keep)], copy)
        evaluate.evaluate(config, copy, subset='test', which='latest')
        return {'cases': len(keep), 'programs': len(compiled)}

    common.serve({'run': run})


def count_programs(folder: Path) -> list[dict]:
    """The programs that an evaluation compiles, for few and for many cases, each in a process of its own."""
    run = folder / 'evaluated'
    fields = {'train.steps': 20, 'train.evaluate_every': 20, 'train.checkpoint_every': 20, 'optimizer.warmup': 5,
              'data.root': folder / 'few', 'data.phantom.train': 16, 'data.phantom.valid': 4, 'data.phantom.test': 60}
    subprocess.run([sys.executable, str(common.ROOT / 'main.py'), f'--config={common.ROOT / "configs"}/phantom.py',
                    f'--workdir={run}', *(f'--config.{k}={v}' for k, v in fields.items())], check=True,
                   capture_output=True)
    found = []
    for cases in (10, 20, 60):
        with common.Worker(__file__, 'count', f'--folder={run}', f'--cases={cases}') as counting:
            found.append(counting.ask('run'))
    return found


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument('--root', default='', help='a COCO folder; made-up brains without it')
    parser.add_argument('--cold', type=int, default=3, help='cold starts')
    parser.add_argument('--folder', type=Path, help='of the worker')
    parser.add_argument('--cases', type=int, default=0, help='of the worker')
    options = parser.parse_args()
    if options.worker:
        return worker(options.folder, options.cases)
    folder = Path(tempfile.mkdtemp(prefix='startup_'))
    root = options.root or str(folder / 'phantoms')
    if not options.root:
        write = f'from unet_jax.phantom import write_coco; write_coco({root!r}, train=240, valid=40, test=60)'
        subprocess.run([sys.executable, '-c', write], cwd=common.ROOT, check=True)
    times = {'cold': [first_step(root, folder / f'cold_{k}', folder / f'cache_{k}') for k in range(options.cold)]}
    times['warm'] = [first_step(root, folder / f'warm_{k}', folder / 'cache_0') for k in range(options.rounds)]
    times['of it: imports'] = [importing() for _ in range(options.rounds)]
    counts = [] if options.root else count_programs(folder)
    rows = [[name, common.median(values), min(values), max(values), len(values)] for name, values in times.items()]
    parts = [common.table(['start', 'seconds to the first step, median', 'lowest', 'highest', 'runs'], rows)]
    if counts:
        same = len({line['programs'] for line in counts}) == 1
        parts += ['Programs that one evaluation compiled, or fetched from the cache:\n\n' + common.table(
            ['cases', 'programs'], [[line['cases'], line['programs']] for line in counts]),
            'Nothing is compiled per case.' if same else 'The number grows with the cases.']
    name = Path(options.root).name or 'phantom'
    common.report('startup', f'Start: {name}', parts, results=options.results, variant=name)
    print(json.dumps(times), file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == '__main__':
    main()
