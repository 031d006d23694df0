"""Planned bytes of a training step against what it takes: on a CPU the growth of the process's peak resident memory,
on a GPU what its allocator reports.

    python benchmarks/planned_memory.py [--config=configs/coco.py] [--batch=8,32]

Each batch runs in a process of its own. The peak's growth is counted from behind compilation, and what the first state
takes is added, as it is there by then; freed memory is handed back before, so that nothing of the compiler's counts.
"""
import argparse
import ctypes
import json
import subprocess
import sys

from common import commit, processor, table, versions


def status(field: str) -> int:
    """Bytes, of this process, by /proc."""
    with open('/proc/self/status', encoding='ascii') as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f'{field}:'))


def measure(path: str, batch_size: int) -> dict[str, float]:
    import jax
    import numpy as np

    from unet_jax.experiment import create
    from unet_jax.planning import memory
    from unet_jax.training import loop
    config = load(path)
    with config.ignore_type(), config.unlocked():
        config.train.batch_size = config.evaluation.batch_size = batch_size
        if not config.data.categories:
            config.data.categories, config.data.regions = (1,), (('tumour', (1,), 1),)
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
        return {'planned': planned, 'measured': device.memory_stats()['peak_bytes_in_use']}
    state = jax.block_until_ready(programs.create())
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    ctypes.CDLL('libc.so.6').malloc_trim(0)
    with open('/proc/self/clear_refs', 'w', encoding='ascii') as file:
        file.write('5')  # the peak begins anew
    before = status('VmRSS')
    for _ in range(3):
        state, metrics = step(state, {name: jax.numpy.asarray(a) for name, a in arrays.items()})
        jax.block_until_ready(metrics)
    return {'planned': planned, 'measured': status('VmHWM') - before + held}


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
                              capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append([given.config, int(batch), found['planned'] / 1e6, found['measured'] / 1e6,
                     found['measured'] / found['planned']])
    print(table(['config', 'batch', 'planned MB', 'measured MB', 'measured / planned'], rows))
    print(f'\n{processor()}. {versions()}. Commit {commit()}.')


if __name__ == '__main__':
    main()
