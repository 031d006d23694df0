"""Several real processes: joined by jax.distributed they train as one; killed ones leave nothing and lose nothing."""
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from unet_jax import experiment
from unet_jax import workdir as files
from unet_jax.modes.evaluate import evaluate
from unet_jax.training import checkpoint, loop

ROOT = Path(__file__).resolve().parents[1]
STEPS = 10
SMALL = ['data.phantom.train=12', 'data.phantom.valid=5', 'data.phantom.test=3', 'data.phantom.size=32',
         'data.size=(16,16)', 'model.features=(4,8)', 'model.encoder_blocks=(1,1)', 'model.decoder_blocks=(1,)',
         f'train.steps={STEPS}', 'train.batch_size=4', 'train.log_every=1', 'train.evaluate_every=5',
         'train.checkpoint_every=3', 'evaluation.batch_size=4', 'evaluation.pictures=1', 'optimizer.warmup=2']


def start(workdir: Path, *arguments, number: int | None = None, processes: int = 2, port: int = 0) -> subprocess.Popen:
    """main.py in a process of its own session; as process `number` of several where one is given."""
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_backend_optimization_level=0',
                                'XDG_CACHE_HOME': str(workdir.parent / 'cache')}
    if number is not None:
        environment |= {'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}', 'JAX_NUM_PROCESSES': str(processes),
                        'JAX_PROCESS_ID': str(number)}
        arguments = [*arguments, '--distributed']
    config = [f'--config={ROOT / "configs" / "phantom.py"}', *(f'--config.{field}' for field in SMALL)]
    command = [sys.executable, str(ROOT / 'main.py'), f'--workdir={workdir}',
               *([] if '--mode=evaluate' in arguments else config), *arguments]
    log = open(workdir.parent / f'{workdir.name}.{number}.log', 'a')  # noqa: SIM115  (the process writes to it)
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT, start_new_session=True)


def finish(processes: list[subprocess.Popen], folder: Path, seconds: float = 120) -> str:
    """Waits for all; what they wrote. Fails with it unless all end with status 0."""
    codes = [process.wait(timeout=seconds) for process in processes]
    said = ''.join(path.read_text() for path in sorted(folder.glob('*.log')))
    assert codes == [0] * len(codes), said
    return said


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def wait_for(happened, processes: list[subprocess.Popen], folder: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline or any(process.poll() for process in processes):
            pytest.fail(''.join(path.read_text() for path in sorted(folder.glob('*.log'))))
        time.sleep(0.002)


def kill(process: subprocess.Popen) -> None:
    """SIGKILL; nothing of its session and no shared memory may be left."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = subprocess.run(['ps', '-o', 'pid=,stat=', '-s', str(process.pid)], capture_output=True, text=True).stdout
    assert not [line for line in left.splitlines() if 'Z' not in line]


def train_to_the_end(workdir: Path) -> None:
    """Goes on until the last checkpoint is sealed; then killed, in the evaluation, which has its own tests."""
    process = start(workdir)
    wait_for((workdir / f'checkpoints/{STEPS}/seal.json').exists, [process], workdir.parent)
    kill(process)


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """(the work directory of a run of one process, the folder that logs and caches of all runs go to)."""
    folder = tmp_path_factory.mktemp('processes')
    train_to_the_end(folder / 'alone')
    return folder / 'alone', folder


def state(workdir: Path) -> list:
    programs = loop.create_programs(experiment.create(files.load_config(workdir)), devices=jax.devices()[:1])
    restored = checkpoint.restore(workdir / 'checkpoints', STEPS, programs.abstract, programs.shardings)
    return jax.tree.leaves(restored)


def test_a_trainer_killed_at_a_random_moment_and_in_writing_a_checkpoint_ends_with_the_same_bits(alone):
    straight, folder = alone
    shared = set(Path('/dev/shm').rglob('*')) if Path('/dev/shm').exists() else set()
    process, seconds = start(folder / 'killed'), random.uniform(0, 1)
    wait_for((folder / 'killed/metrics.jsonl').exists, [process], folder)
    time.sleep(seconds)
    kill(process)
    print(f'killed {seconds} s after the journal was opened')
    if not (folder / f'killed/checkpoints/{STEPS}').exists():
        process = start(folder / 'killed')
        wait_for(lambda: list((folder / 'killed').glob('checkpoints/*orbax-checkpoint-tmp*')), [process], folder)
        kill(process)
    train_to_the_end(folder / 'killed')
    assert not {path for path in shared ^ set(Path('/dev/shm').rglob('*')) if path.exists()} - shared
    assert (folder / 'killed/metrics.jsonl').read_bytes() == (straight / 'metrics.jsonl').read_bytes()
    assert all(np.array_equal(a, b) for a, b in zip(state(folder / 'killed'), state(straight), strict=True))


def test_two_processes_are_stopped_by_a_signal_to_one_go_on_and_evaluate_as_one(alone):
    """The second start finds the end of the first, at whichever step that was."""
    straight, folder = alone
    port = free_port()
    pair = [start(folder / 'pair', number=k, port=port) for k in range(2)]
    wait_for((folder / 'pair/checkpoints/3/seal.json').exists, pair, folder)
    pair[1].send_signal(signal.SIGTERM)  # to one: both save the same step and end
    said, port = finish(pair, folder), free_port()
    if not (folder / 'pair/evaluation').exists():  # else they were done, or scoring, before the signal came
        assert said.count('To go on: python main.py') == 1  # process 0 says it
    finish([start(folder / 'pair', number=k, port=port) for k in range(2)], folder)
    found, expected = lines(folder / 'pair'), lines(straight)
    assert [(x['step'], x['split']) for x in found] == [(x['step'], x['split']) for x in expected]
    for name in ('loss', 'dice/tumour'):
        values = [[x[name] for x in lines if name in x] for lines in (found, expected)]
        assert values[0] == pytest.approx(values[1], rel=1e-5)
    cases = pd.read_csv(folder / 'pair/evaluation/test/cases.csv')
    config = files.load_config(folder / 'pair')
    with config.unlocked():
        config.evaluation.batch_size = 8  # of the eight devices here
    evaluate(config, folder / 'pair', subset='test', which='best')
    one = pd.read_csv(folder / 'pair/evaluation/test/cases.csv')
    assert len(cases) == 3
    pd.testing.assert_frame_equal(cases, one, check_exact=False, rtol=1e-6)
