"""Kills training again and again, and compares the run that comes out with one that was left alone.

    python benchmarks/kill_and_resume.py --kills=100

Every other kill comes at a random moment, the rest while a checkpoint is being written. Prints how many kills there
were, what each one hit, and in how many runs parameters, averages, optimiser state and metrics.jsonl came out the
same, bit for bit; leaves with status 1 if one did not, or if a killed trainer left a process or shared memory behind.
"""
import argparse
import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
OVERRIDES = ('data.phantom.train=12', 'data.phantom.valid=4', 'data.phantom.test=2', 'data.phantom.size=32',
             'data.size=(16,16)', 'model.features=(4,8)', 'model.encoder_blocks=(1,1)', 'model.decoder_blocks=(1,)',
             'train.batch_size=4', 'evaluation.batch_size=4', 'train.log_every=7', 'train.evaluate_every=20',
             'train.checkpoint_every=3', 'optimizer.warmup=5')


def start(folder: Path, steps: int) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / 'main.py'), f'--config={ROOT / "configs/phantom.py"}', f'--workdir={folder}',
               f'--config.train.steps={steps}', *(f'--config.{override}' for override in OVERRIDES)]
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_backend_optimization_level=0'}
    with open(folder.with_suffix('.log'), 'a') as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def writing(folder: Path) -> bool:
    """Whether a checkpoint is there that is not complete."""
    return any('orbax-checkpoint-tmp' in p.name or (p.name.isdigit() and not (p / 'seal.json').exists())
               for p in (folder / 'checkpoints').glob('*'))


def doing(folder: Path) -> str:
    if writing(folder):
        return 'writing a checkpoint'
    if (folder / 'evaluation').exists() or (folder / 'predictions').exists():
        return 'evaluating'
    return 'training' if list((folder / 'checkpoints').glob('*')) else 'starting'


def wait_and_kill(process: subprocess.Popen, folder: Path, seconds: float, half_written: bool) -> bool:
    """SIGKILL after so many seconds, or while a checkpoint is written from then on. False if it ended before."""
    due = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() > due and (not half_written or writing(folder)):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.0005 if half_written else 0.01)
    if process.returncode:
        sys.exit(f'the run failed: see {folder.with_suffix(".log")}')
    return False


def left_behind(group: int, shared: set[str]) -> list[str]:
    """Processes of the killed trainer's group, and files in shared memory that were not there before."""
    found = subprocess.run(['ps', '-o', 'pid=', '-g', str(group)], capture_output=True, text=True).stdout.split()
    return [f'process {pid}' for pid in found] + sorted(shared_memory() - shared)


def shared_memory() -> set[str]:
    return {str(p) for p in Path('/dev/shm').rglob('*')} if Path('/dev/shm').exists() else set()


def result(folder: Path, steps: int) -> tuple[bytes, list]:
    """The metric lines, and every array of the last checkpoint."""
    import jax
    import numpy as np

    from unet_jax import experiment, workdir
    from unet_jax.training import checkpoint, loop
    programs = loop.create_programs(experiment.create(workdir.load_config(folder)), devices=jax.devices()[:1])
    state = checkpoint.restore(folder / 'checkpoints', steps, programs.abstract, programs.shardings)
    return (folder / 'metrics.jsonl').read_bytes(), [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=100)
    parser.add_argument('--steps', type=int, default=60)
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    os.environ['JAX_PLATFORMS'] = 'cpu'
    folder, chance = Path(tempfile.mkdtemp(prefix='kill_and_resume_')), random.Random(arguments.seed)
    begun = time.monotonic()
    wait_and_kill(start(folder / 'straight', arguments.steps), folder / 'straight', float('inf'), False)
    duration = time.monotonic() - begun
    expected = result(folder / 'straight', arguments.steps)
    hit, same, runs, leftovers = collections.Counter(), 0, 0, []
    while hit.total() < arguments.kills:
        run, alive = folder / f'run_{runs}', True
        while alive:
            shared, half = shared_memory(), hit.total() % 2 == 1
            process = start(run, arguments.steps)
            alive = wait_and_kill(process, run, chance.uniform(0, 0.8 * duration), half)
            if alive:
                leftovers += left_behind(process.pid, shared)
                hit[doing(run)] += 1
                print(f'\r{hit.total()} kills, {same} of {runs} runs identical', end='', file=sys.stderr, flush=True)
        runs += 1
        same += result(run, arguments.steps) == expected
    moments = ', '.join(f'{n} {what}' for what, n in hit.most_common())
    print(f'\n{hit.total()} kills with SIGKILL ({moments}) in {runs} runs of {arguments.steps} steps; {same} of '
          f'{runs} ended with the same bits as the one left alone; left behind: {", ".join(leftovers) or "nothing"}. '
          f'{time.monotonic() - begun:.0f} s')
    if same < runs or leftovers:
        sys.exit(f'see {folder}')
    shutil.rmtree(folder)


if __name__ == '__main__':
    main()
