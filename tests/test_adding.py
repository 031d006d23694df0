"""docs/adding.md is followed literally: its loss, network and metric go into a copy of the project, which then trains
with them and evaluates. (Its format: tests/test_formats.py.)"""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_main import SMALL, environment

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / 'docs' / 'adding.md').read_text(encoding='utf-8')


def blocks(title):
    """The two pieces of code of a section: what to write, and the line of the table."""
    section = re.search(rf'^## {title}\n(.*?)(?=^## |\Z)', PAGE, re.MULTILINE | re.DOTALL)[1]
    code, line = re.findall(r'```python\n(.*?)```', section, re.DOTALL)
    assert line.count('\n') == 1
    return code, line


def put(path, before, text):
    """Writes `text` into a file, before the one line that begins with `before`."""
    old = path.read_text(encoding='utf-8')
    assert len(re.findall(f'^{re.escape(before)}', old, re.MULTILINE)) == 1
    path.write_text(re.sub(f'^{re.escape(before)}', lambda found: text + found[0], old, flags=re.MULTILINE))


def name_in(path, table, line):
    """Adds a line to a table, as its last."""
    old = path.read_text(encoding='utf-8')
    new, count = re.subn(rf'^({table} = .*?)(^[}}\]])', lambda found: found[1] + line + found[2], old,
                         flags=re.MULTILINE | re.DOTALL)
    assert count == 1
    path.write_text(new)


@pytest.fixture
def project(tmp_path):
    """A copy of the project with everything of the page in it."""
    for name in ('unet_jax', 'configs'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copy(ROOT / 'main.py', tmp_path)
    code, line = blocks('A loss')
    losses = tmp_path / 'unet_jax/training/losses.py'
    put(losses, '# name in config.loss.terms', f'{code}\n\n')
    name_in(losses, 'LOSSES', line)
    for title, folder, name, table, where in (('A network', 'model', 'flat', 'NETWORKS', 'networks'),
                                              ('A metric', 'evaluation', 'volume_error', 'METRICS', 'metrics')):
        code, line = blocks(title)
        assert f'here `{name}.py`' in PAGE and f'import it in `unet_jax/{folder}/{where}.py`' in PAGE
        (tmp_path / 'unet_jax' / folder / f'{name}.py').write_text(code, encoding='utf-8')
        path = tmp_path / 'unet_jax' / folder / f'{where}.py'
        put(path, f'from unet_jax.{folder} import', f'from unet_jax.{folder} import {name}\n')
        name_in(path, table, line)
    return tmp_path


def test_what_the_page_adds_is_trained_with_and_scored(project):
    def run(*arguments):
        command = [sys.executable, 'main.py', '--config=configs/phantom.py', '--workdir=w', *SMALL, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=project, env=environment(project / 'cache'))

    few = ['--config.train.steps=2', '--config.optimizer.warmup=1', '--config.train.log_every=1',
           '--config.train.evaluate_every=2']
    done = run(*few, '--config.loss.terms=dice,squared', '--config.model.name=flat', '--config.model.features=4,4')
    assert done.returncode == 0, done.stderr
    line = json.loads((project / 'w/metrics.jsonl').read_text().splitlines()[0])
    assert line['loss'] == pytest.approx(line['loss/dice'] + line['loss/squared']) and line['loss/squared'] > 0
    cases = pd.read_csv(project / 'w/evaluation/test/cases.csv')
    off = (cases.volume_prediction - cases.volume_reference).abs() / cases.volume_reference
    assert cases.volume_error.dropna().to_numpy() == pytest.approx(off[cases.volume_reference > 0].to_numpy())
    summary = json.loads((project / 'w/evaluation/test/summary.json').read_text())
    assert 'mean' in summary['regions']['tumour']['volume_error']
    refused = run('--config.model.name=flatt')
    assert refused.returncode == 2 and "config.model.name is 'flatt'; give one of unet, flat" in refused.stderr
