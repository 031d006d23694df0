"""What a run writes down while it trains: metrics.jsonl, timing.jsonl and TensorBoard events."""
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from tensorboardX import SummaryWriter

from unet_jax import workdir as files
from unet_jax.errors import InputError

log = logging.getLogger('unet_jax')


class Journal:
    """The metrics of the steps since the last line, and where lines go.

    metrics.jsonl holds nothing that depends on the machine, so that an interrupted run writes the same file as one
    that was not: lines after the step a run goes on from are dropped, and the open window comes with the checkpoint.
    Speeds are in timing.jsonl. Metrics are read one step late, so that the device never waits for the host.
    """

    def __init__(self, folder: Path, *, start: int, window: list[dict], skip_nonfinite: int):
        self.folder, self.window, self.allowed = folder, list(window), skip_nonfinite
        self.pending: tuple[int, dict] | None = None
        self.bad = 0  # non-finite steps in a row
        for name in ('metrics.jsonl', 'timing.jsonl'):
            files.cut_lines(folder / name, start)
        self.writer = SummaryWriter(str(folder / 'tensorboard'), purge_step=start + 1)
        self.restart_clock()

    def restart_clock(self) -> None:
        self.since, self.waited, self.images = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around waiting for input."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def record(self, step: int, metrics: dict[str, jax.Array], images: int) -> None:
        """Keeps the metrics of a step that is still running; reads those of the one before."""
        self.read_pending()
        self.pending, self.images = (step, metrics), self.images + images

    def read_pending(self) -> None:
        """Raises InputError when loss or gradient were not finite more often in a row than allowed."""
        if self.pending is None:
            return
        step, metrics = self.pending
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self.pending = None
        self.window.append(values)
        self.bad = 0 if values['finite'] else self.bad + 1
        if self.bad:
            log.warning('step %d: loss %s, gradient norm %s: not finite, so the update was skipped', step,
                        values['loss'], values['gradient_norm'])
        if self.bad > self.allowed:
            raise InputError(f'step {step}: loss or gradient were not finite {self.bad} times in a row, more than '
                             'config.train.skip_nonfinite; try a lower config.optimizer.learning_rate or float32')

    def write_window(self, step: int) -> str:
        """A line with the means since the last one (of the learning rate: the last). Returns what a bar shows."""
        self.read_pending()
        means = {name: float(np.mean([m[name] for m in self.window])) for name in self.window[0]}
        self.write({'step': step, 'split': 'train', **means, 'learning_rate': self.window[-1]['learning_rate']})
        seconds = max(time.perf_counter() - self.since, 1e-9)
        timing = {'images_per_second': self.images / seconds, 'waiting': self.waited / seconds}
        files.append_line(self.folder / 'timing.jsonl', {'step': step, **timing})
        self.window = []
        self.restart_clock()
        return f'loss {means["loss"]:.3f}, {timing["images_per_second"]:.1f} images/s, waiting {timing["waiting"]:.1%}'

    def write(self, line: dict) -> None:
        files.append_line(self.folder / 'metrics.jsonl', line)
        for name, value in line.items():
            if name not in ('step', 'split'):
                self.writer.add_scalar(f'{line["split"]}/{name}', value, line['step'])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
