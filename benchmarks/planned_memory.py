"""Planned bytes of a training step against what it takes: on a CPU the growth of the process's peak resident memory,
on a GPU what its allocator reports.

    python benchmarks/planned_memory.py [--config=configs/coco.py] [--batch=8,32]

Each batch runs in a process of its own. The peak's growth in a step is counted from before it, and what the state
takes is added, as it is there by then. The first step is told apart: beside what every step takes, the runtime's
threads take memory then that they keep. Memory of files, such as libraries, is not counted, and glibc is told to hand
all larger blocks back at once (MALLOC_MMAP_THRESHOLD_), as else a step's scratch hides in what the one before freed.
"""
import argparse
import json
import os
import subprocess
import sys
import threading
import time

from common import commit, processor, table, versions


def status(field: str) -> int:
    """Bytes, of this process, by /proc."""
    with open('/proc/self/status', encoding='ascii') as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f'{field}:'))


def growth(run) -> int:
    """Bytes by which this process's anonymous memory grows at most while `run()` runs, looked at every millisecond."""
    before, peak, done = status('RssAnon'), [0], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], status('RssAnon'))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return peak[0] - before


def measure(path: str, batch_size: int) -> dict[str, float]:
    import jax
    import numpy as np

    from unet_jax.experiment import create
    from unet_jax.modes import start
    from unet_jax.planning import memory
    from unet_jax.training import loop
    config = load(path)
    with config.ignore_type(), config.unlocked():
        config.train.batch_size = config.evaluation.batch_size = batch_size
        if not config.data.categories:
            config.data.categories, config.data.regions = (1,), (('tumour', (1,), 1),)
    start.set_flags(config)
    experiment = create(config)
    programs = loop.create_programs(experiment)
    arrays = {name: np.zeros(x.shape, x.dtype) for name, x in memory.abstract_batch(experiment, batch_size).items()}
    step = programs.train.lower(programs.abstract, arrays).compile()
    planned = memory.assigned(step, sum(array.nbytes for array in arrays.values()))['together']
    device = jax.local_devices()[0]
    if device.platform != 'cpu':
        state = programs.create()
        for _ in range(3):
            state, metrics = step(state, jax.device_put(arrays, device))
        jax.block_until_ready(metrics)
        peak = device.memory_stats()['peak_bytes_in_use']
        return {'planned': planned, 'first': peak, 'later': peak}
    state = jax.block_until_ready(programs.create())
    held, steps = sum(leaf.nbytes for leaf in jax.tree.leaves(state)), []

    def once():
        nonlocal state
        state = jax.block_until_ready(step(state, {name: jax.numpy.asarray(a) for name, a in arrays.items()}))[0]

    for _ in range(4):
        steps.append(held + growth(once))
    return {'planned': planned, 'first': steps[0], 'later': max(steps[1:])}


def load(path: str):
    import importlib.util

    from common import ROOT
    name, _, argument = path.partition(':')
    spec = importlib.util.spec_from_file_location('config', ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(*[argument] * bool(argument)).copy_and_resolve_references()
    with config.unlocked():
        config.data.root = 'nowhere'
    return config


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--config', default='configs/coco.py')
    parser.add_argument('--batch', default='8,32')
    parser.add_argument('--one', type=int, default=0, help='measure this batch in this process')
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.config, given.one)))
        return
    rows = []
    for batch in given.batch.split(','):
        done = subprocess.run([sys.executable, __file__, f'--config={given.config}', f'--one={batch}'],
                              capture_output=True, text=True, env=os.environ | {'MALLOC_MMAP_THRESHOLD_': '65536',
                                                                                'MALLOC_ARENA_MAX': '1'})
        if done.returncode:
            sys.exit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append([given.config, int(batch), found['planned'] / 1e6, found['later'] / 1e6,
                     found['later'] / found['planned'], (found['first'] - found['later']) / 1e6])
    print(table(['config', 'batch', 'planned MB', 'a step MB', 'a step / planned', 'the first besides MB'], rows))
    print(f'\n{processor()}. {versions()}. Commit {commit()}.')


if __name__ == '__main__':
    main()
