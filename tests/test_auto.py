"""configs/auto.py on made-up sets as they lie, with no flag but the root: recognised, planned, trained and scored.

Every day all are planned, and one is trained, with a network of two levels. `make test-sets` trains all, each with the
network that its plan chooses, and goes on with each from a kill.
"""
import json

import made_sets
import numpy as np
import pandas as pd
import pytest
from test_resume import Killed, at, die

from configs import auto
from unet_jax import config_check, workdir
from unet_jax.experiment import create, read_frame, settle
from unet_jax.formats import recognise
from unet_jax.modes import annotate, train
from unet_jax.modes import auto as planning
from unet_jax.planning import memory
from unet_jax.training import checkpoint


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


def config_of(root, **fields):
    """What the command line makes of configs/auto.py and a root, and fields, as section__name."""
    config = auto.get_config()
    with config.unlocked():
        config.data.root = str(root)
        for name, value in fields.items():
            section, field = name.split('__')
            config[section][field] = value
    return recognise.resolve(config, lambda text: None)


@pytest.mark.parametrize('name', made_sets.SETS)
def test_every_set_is_planned_and_annotated(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(memory, 'step_cost', lambda *_: ({'together': 1e9}, 0))  # which compiles
    make, form, names, channels = made_sets.SETS[name]
    config = config_of(make(tmp_path / 'set'))
    planned = planning.planned(config, tmp_path / 'run')
    told = capsys.readouterr().out
    config_check.check_config(planned)
    one = create(settle(planned, read_frame(planned)))
    assert one.config.data.format == form and tuple(one.config.data.names) == names
    assert one.settings.channels == channels and not one.config.train.plan and one.config.train.minutes > 0
    plan = json.loads((tmp_path / 'run/plan.json').read_text())
    assert all(d['line'] in told for d in plan['decisions'])
    assert (one.config.train.validate == 'train') == (name in ('UPENN-GBM', 'one case'))
    assert ('leave none to validate on' in ' '.join(plan['hints'])) == (name in ('UPENN-GBM', 'one case'))
    assert one.config.loss.batch_dice or name not in ('patients of slices', 'MET')
    assert one.config.data.standardise is (form in ('pairs', 'nnunet_images', 'table_images')
                                           and name != 'patients of slices')
    annotate.annotate(config, tmp_path / 'annotated')
    table = pd.read_csv(tmp_path / 'annotated/annotations.csv')
    assert table.segmentation[table.category_id.notna()].notna().all() and table.category_id.notna().any()


def train_and_go_on(config, folder, monkeypatch):
    """Runs it whole, and with a kill at its second checkpoint in another folder; both end alike. The whole run's."""
    whole, killed = folder / 'whole', folder / 'killed'
    assert train.train(config, whole)
    with monkeypatch.context() as patch:
        at(patch, checkpoint, 'save', 2, die)
        with pytest.raises(Killed):
            train.train(config, killed)
    assert train.train(config, killed)
    assert (killed / 'metrics.jsonl').read_bytes() == (whole / 'metrics.jsonl').read_bytes()
    for name in ('plan.json', 'fingerprint.json'):
        assert (killed / name).read_text() == (whole / name).read_text()
    a, b = (pd.read_csv(run / f'evaluation/{subset_of(run)}/cases.csv') for run in (whole, killed))
    pd.testing.assert_frame_equal(a, b)
    return whole


def subset_of(run):
    found, = [path.name for path in (run / 'evaluation').iterdir() if path.is_dir()]
    return found


def test_a_run_is_planned_trained_scored_and_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    config = config_of(made_sets.patients_of_slices(tmp_path / 'set'), train__steps=2, train__checkpoint_every=1,
                       model__features=(4, 8), evaluation__pictures=1)
    run = train_and_go_on(config, tmp_path, monkeypatch)
    saved = workdir.load_config(run)
    assert saved.data.format == 'pairs' and saved.train.steps == 2 and not saved.train.plan
    assert subset_of(run) == 'test' and '<h2>Plan</h2>' in (run / 'report.html').read_text()


@pytest.mark.slow
@pytest.mark.parametrize('name', made_sets.SETS)
def test_every_set_is_trained_by_its_own_plan(tmp_path, monkeypatch, name):
    config = config_of(made_sets.SETS[name][0](tmp_path / 'set'), train__steps=2, train__checkpoint_every=1)
    run = train_and_go_on(config, tmp_path, monkeypatch)
    losses = [json.loads(line)['loss'] for line in (run / 'metrics.jsonl').read_text().splitlines()
              if 'loss' in json.loads(line)]
    assert losses and np.isfinite(losses).all()
