"""A run that configures itself: fingerprint, plan and a config file with reasons, before the first step."""
import json
import shlex
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from unet_jax import config_check
from unet_jax import workdir as files
from unet_jax.experiment import read_frame, settle
from unet_jax.planning import decisions, fingerprint
from unet_jax.planning.memory import GB, fit
from unet_jax.shipped import PROGRAM
from unet_jax.training import processes


def planned(config: ConfigDict, folder: Path, frame: pd.DataFrame | None = None, *, memory: float | None = None
            ) -> ConfigDict:
    """`config`, settled, with everything decided that it leaves at its default; config.train.plan is then False.

    Writes fingerprint.json, plan.json and plan.py, a config that can be read, edited and run, into `folder`, and
    prints the decisions. frame: read from the data where it is None. memory: bytes a device may use. Every process
    comes here.
    """
    frame = read_frame(config) if frame is None else frame
    config = settle(config, frame)
    path = folder / 'fingerprint.json'
    with processes.first_process_first('fingerprint'):
        if not jax.process_index():
            folder.mkdir(parents=True, exist_ok=True)
            files.write_text(path, json.dumps(fingerprint.fingerprint(config, frame), indent=1) + '\n')
    found = json.loads(path.read_text(encoding='utf-8'))
    on = decisions.device(memory)
    smallest = multihost_utils.process_allgather(np.float64(on.memory)).min() if jax.process_count() > 1 else on.memory
    on = on._replace(memory=float(smallest))
    config = decided_here(config)
    decided, used = fit(config, found, on)
    result = decisions.applied(config, decided)
    config_check.check_config(result)
    if not jax.process_index():
        write(folder, result, found, decided, on, used)
        print(text(found, decided, on, used))
        print(f'The plan: {folder}/plan.json; to change it, edit {folder}/plan.py and run\n'
              f'{PROGRAM} --config={shlex.quote(str(folder / "plan.py"))}')
    return result


def decided_here(config: ConfigDict) -> ConfigDict:
    """A copy that is no longer to be planned."""
    result = config.copy_and_resolve_references()
    with result.unlocked():
        result.train.plan = False
    return result.lock()


def adopted(config: ConfigDict, run: ConfigDict) -> ConfigDict:
    """The config of `run`, which was planned, with what `config` sets itself: what a run goes on with."""
    own = {name: value for name, value in decisions.given(config).items()
           if name not in ('train.plan', 'data.format')}
    return decisions.applied(run, [decisions.Decision(own, 'given')])


def write(folder: Path, config: ConfigDict, found: dict, decided: list[decisions.Decision], on: decisions.Device,
          used: dict[str, float]) -> None:
    plan = {'device': on._asdict(), 'memory': used, 'hints': decisions.hints(found),
            'prose': fingerprint.prose(found),
            'decisions': [{'changes': d.changes, 'reason': d.reason, 'line': d.line()} for d in decided]}
    files.write_text(folder / 'plan.json', json.dumps(plan, indent=1) + '\n')
    files.write_text(folder / 'plan.py', source(config, decided, found))


def text(found: dict, decided: list[decisions.Decision], on: decisions.Device, used: dict[str, float]) -> str:
    """What is printed."""
    lines = [fingerprint.prose(found), '', *(d.line() for d in decided), '',
             f'{used["used"] / GB:.2f} of {used["limit"] / GB:.1f} GB on each of {on.count} × {on.name}, by what XLA '
             f'assigns to the compiled step ({used["programs"]} compiled)']
    return '\n'.join([*lines, *(f'Look: {hint}' for hint in decisions.hints(found))])


def source(config: ConfigDict, decided: list[decisions.Decision], found: dict) -> str:
    """A config file in Python: what the user gave, then a decision a paragraph, its reason above it."""
    chosen = decisions.changes(decided)
    own = {name: value for name, value in decisions.given(config).items() if name not in chosen}

    def assign(name: str, value: Any) -> str:
        return f'        config.{name} = {value!r}'

    lines = ['"""' + escape(wrapped(fingerprint.prose(found), '')), '', f'    {PROGRAM} --config=THIS_FILE', '"""',
             'from unet_jax.config import default', '', '', 'def get_config():', '    config = default()',
             '    with config.unlocked():', '        # as given, and as found in the data']
    lines += [assign(name, value) for name, value in own.items()]
    for decision in decided:
        lines += [wrapped(decision.reason, '        # '), *(assign(*item) for item in decision.changes.items())]
    return '\n'.join([*lines, '    return config.lock()', ''])


def escape(told: str) -> str:
    """For inside a docstring, whatever files are called."""
    return told.replace('\\', '\\\\').replace('"""', "'''")


def wrapped(told: str, before: str, width: int = 118) -> str:
    lines, line = [], before
    for word in told.split():
        if len(line) + len(word) + 1 > width and line != before:
            lines.append(line)
            line = before
        line += word if line == before else f' {word}'
    return '\n'.join([*lines, line])
