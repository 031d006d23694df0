"""What a run writes down while it trains: metrics.jsonl, timing.jsonl, nonfinite/ and TensorBoard events."""
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from tensorboardX import SummaryWriter

from unet_jax import workdir as files

log = logging.getLogger('unet_jax')


class Journal:
    """The metrics of the steps since the last line, and where lines go.

    metrics.jsonl holds nothing that depends on the machine, so that an interrupted run writes the same file as one
    that was not: lines after the step a run goes on from are dropped, and `notes`, the open window and the count of
    skipped updates, come with the checkpoint. Speeds are in timing.jsonl. Metrics are read one step late, so that
    the device never waits for the host. Of several processes all read and count, and the first writes.
    """

    def __init__(self, folder: Path, *, start: int, notes: dict, skip_nonfinite: int,
                 samples_of: Callable[[int], list[dict]]):
        self.folder, self.allowed, self.samples_of = folder, skip_nonfinite, samples_of
        self.window = list(notes.get('window', ()))  # metrics a step; None where not finite
        self.skipped = notes.get('skipped', 0)  # in a row, up to now
        self.pending: tuple[int, dict] | None = None
        self.problem = ''  # why the run has to stop
        self.writer = None
        if not jax.process_index():
            due = notes.get('validation_due', False)
            files.cut_lines(folder / 'metrics.jsonl', lambda line: line['step'] < start or line['step'] == start and
                            not (due and line['split'] == 'valid'))
            files.cut_lines(folder / 'timing.jsonl', lambda line: line['step'] <= start)
            self.writer = SummaryWriter(str(folder / 'tensorboard'), purge_step=start + 1)
        self.restart_clock()

    @property
    def notes(self) -> dict:
        """What a run that goes on from here must know; JSON."""
        return {'window': self.window, 'skipped': self.skipped}

    def restart_clock(self) -> None:
        self.since, self.waited, self.images = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around waiting for input."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def record(self, step: int, metrics: dict[str, jax.Array], images: int) -> None:
        """Keeps the metrics of a step that is still running; reads those of the one before.

        Of several steps in one program the metrics are (n,), `step` is the last, and `images` those of all.
        """
        self.read_pending()
        self.pending, self.images = (step, metrics), self.images + images

    def read_pending(self) -> None:
        """Sets `problem` when loss or gradient were not finite more often in a row than allowed."""
        if self.pending is None:
            return
        last, metrics = self.pending
        self.pending = None
        columns = {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}
        rows = [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
        for step, values in enumerate(rows, start=last - len(rows) + 1):
            self.read(step, values)

    def read(self, step: int, values: dict[str, float]) -> None:
        """The metrics of one step."""
        self.window.append({name: value if math.isfinite(value) else None for name, value in values.items()})
        self.skipped = 0 if values['finite'] else self.skipped + 1
        if self.skipped:
            self.write_nonfinite(step, values)
        if self.skipped > self.allowed and not self.problem:
            self.problem = (f'step {step}: loss or gradient were not finite {self.skipped} times in a row, more than '
                            f'config.train.skip_nonfinite; the samples are named in {self.folder / "nonfinite"}. '
                            'Look at them, or try a lower config.optimizer.learning_rate or float32')

    def write_nonfinite(self, step: int, values: dict[str, float]) -> None:
        """nonfinite/step_N.json: the metrics and the samples of a step whose update was skipped."""
        samples, path = self.samples_of(step), self.folder / 'nonfinite' / f'step_{step}.json'
        log.warning('step %d: loss %s, gradient norm %s: not finite, so the update was skipped. Its samples: %s%s; '
                    'all are in %s', step, values['loss'], values['gradient_norm'],
                    ', '.join(sample['path'] for sample in samples[:4]), ', …' if len(samples) > 4 else '', path)
        if self.writer:
            path.parent.mkdir(exist_ok=True)
            named = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
            files.write_text(path, json.dumps({'step': step, 'metrics': named, 'samples': samples}, indent=1) + '\n')

    def write_window(self, step: int) -> str:
        """A line with the means since the last one (of the learning rate: the last). Returns what a bar shows.

        Means are over the steps where a metric was finite; `finite` is the share of steps that were.
        """
        self.read_pending()
        line = {'step': step, 'split': 'train'}
        for name in self.window[0]:
            values = [metrics[name] for metrics in self.window if metrics[name] is not None]
            line[name] = float(np.mean(values)) if values else None
        self.write({**line, 'learning_rate': self.window[-1]['learning_rate']})
        seconds = max(time.perf_counter() - self.since, 1e-9)
        timing = {'images_per_second': self.images / seconds, 'waiting': self.waited / seconds}
        if self.writer:
            files.append_line(self.folder / 'timing.jsonl', {'step': step, **timing})
        self.window = []
        self.restart_clock()
        return figures(line['loss'], **timing)

    def write(self, line: dict) -> None:
        if self.writer is None:
            return
        files.append_line(self.folder / 'metrics.jsonl', line)
        for name, value in line.items():
            if name not in ('step', 'split') and value is not None:
                self.writer.add_scalar(f'{line["split"]}/{name}', value, line['step'])
        self.writer.flush()

    def close(self) -> None:
        if self.writer:
            self.writer.close()


def figures(loss: float | None, *, images_per_second: float, waiting: float) -> str:
    """What a bar shows beside itself, in at most 35 columns; a loss that was never finite is nan."""
    shown = 'nan' if loss is None else f'{loss:.3f}' if loss < 1000 else f'{loss:.1e}'
    speed = f'{images_per_second:.0f}' if images_per_second >= 10 else f'{images_per_second:.1f}'
    return f'loss {shown}, {speed} images/s, wait {waiting:.0%}'
