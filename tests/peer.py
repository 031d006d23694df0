"""One of the two processes that test_devices.py starts: joined by jax.distributed, one device each."""
import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from test_devices import BATCH, SAMPLES, compiled_once, tiny

from unet_jax.errors import InputError
from unet_jax.experiment import create
from unet_jax.pipeline import stream
from unet_jax.training import loop, processes, sharding
from unet_jax.training import step as steps
from unet_jax.training.journal import Journal


def augmented(mesh) -> list[np.ndarray]:
    """The images and labels of three steps after augmentation, of both processes together."""
    split, found = sharding.split(mesh), []
    prepare = jax.jit(lambda batch: steps.prepare(batch, tiny(), jax.random.key(3)), in_shardings=split,
                      out_shardings=split)
    data = stream.dataset(SAMPLES['train'], seed=0, batch_size=BATCH, process=jax.process_index(), processes=2)
    for step in range(3):
        found += multihost_utils.process_allgather(prepare(sharding.put(data[step], mesh)), tiled=True)
    return found


def agreements(mesh) -> list[bool]:
    """Answers to four questions; process 1 wants to at the second."""
    agreed = processes.agreement(mesh)
    return [agreed(bool(jax.process_index()) and k == 1) for k in range(4)]


def train_until_killed(folder: Path) -> None:
    """Process 1 dies without a word at its third step; the other says what it makes of that."""
    record = Journal.record

    def die(self, step, *rest):
        if step == 3 and jax.process_index():
            os.kill(os.getpid(), signal.SIGKILL)
        record(self, step, *rest)

    Journal.record = die
    try:
        with processes.among_peers():
            loop.train(create(tiny()), SAMPLES, folder / 'killed')
    except InputError as error:
        (folder / 'lost.txt').write_text(str(error))
        sys.exit(1)


def main(folder: Path) -> None:
    """Leaves augmented.npz and told.json, the runs whole/ and sharded/, and lost.txt in `folder`."""
    processes.join(None)
    loop.create_programs = compiled_once(loop.create_programs)
    mesh, first = sharding.create_mesh(), jax.process_index() == 0
    told = {'gathered': processes.gather([{'process': jax.process_index()}] * (1 + jax.process_index())),
            'agreed': agreements(mesh), 'devices': jax.device_count()}
    arrays, did = augmented(mesh), []
    processes.by_the_first(lambda: did.append(1), 'test')
    told['alone'] = processes.gather([len(did)])
    if first:
        np.savez(folder / 'augmented.npz', *arrays)
        (folder / 'told.json').write_text(json.dumps(told))
    assert loop.train(create(tiny()), SAMPLES, folder / 'whole')
    assert loop.train(create(tiny(fsdp=2)), SAMPLES, folder / 'sharded')
    train_until_killed(folder)


if __name__ == '__main__':
    main(Path(sys.argv[1]))
