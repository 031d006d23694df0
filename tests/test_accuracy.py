"""benchmarks/accuracy.py: folds by patient, means and tables, and that a peer's probabilities are
scored as our own masks are."""
import argparse
import importlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_patients import config_of, patients_set

from unet_jax import experiment
from unet_jax.annotations import pairs
from unet_jax.modes import image_kind


@pytest.fixture
def accuracy(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / 'benchmarks')
    return importlib.import_module('accuracy')


def test_folds_hold_every_patient_once_and_validation_is_taken_from_the_others(accuracy, tmp_path):
    frame = pairs.read_frame(patients_set(tmp_path, people=8, count=3))
    folds = [accuracy.patients_of(frame, 4, k, 0.2, 0) for k in range(4)]
    assert sorted(case for fold in folds for case in fold['test']) == [f'P{k}' for k in range(8)]
    for fold in folds:
        assert all(fold.values()) and sorted(sum(fold.values(), [])) == [f'P{k}' for k in range(8)]


def test_probabilities_of_a_peer_are_scored_as_volumes_and_images(accuracy, tmp_path):
    config = config_of(patients_set(tmp_path / 'set', people=4, count=4), tmp_path / 'cache', size=(24, 24))
    frame = experiment.read_frame(config)
    one = experiment.create(experiment.settle(config, frame))
    rows = image_kind.rows(one, frame)
    test = rows[rows.subset == 'test'].sort_values(['case', 'slice'])
    true = np.stack([np.asarray(Image.open(tmp_path / 'set' / path.replace('.png', '_mask.png'))) > 0
                     for path in test.path])[..., None]
    found = accuracy.score(one, rows, np.float16(true * 0.9))
    assert {line['dice'] for line in found['cases'] + found['images']} == {1.0}
    assert len(found['images']) == len(test) and len(found['cases']) == test.case.nunique()
    assert sum(line['present'] for line in found['images']) == 2 * test.case.nunique()
    assert accuracy.mean(accuracy.score(one, rows, np.float16(true * 0.1))['cases']) == 0


def test_the_table_has_every_patient_and_both_means(accuracy, tmp_path):
    def scores(*dices):
        lines = [{'case': f'P{k}', 'region': 'tumour', 'dice': d, 'present': k > 0, 'tp': int(d * 10), 'fp': 10 - int(
            d * 10), 'fn': 10 - int(d * 10)} for k, d in enumerate(dices)]
        return {'cases': lines, 'images': lines}

    took = {'seconds': 60.0, 'cpu': 100.0, 'steps': 7}
    fold = {'fold': 0, 'cases': {'train': 3, 'test': 3}, 'images': {}, 'stacked': True, 'flips': True, 'size': [8, 8],
            'took': {'here': took | {'planning': 4.0, 'compiling': 5.0},
                     'monai': took | {'bfloat16': False, 'parameters': 9}},
            'scores': {'here': scores(1.0, 0.5, 0.7), 'monai': scores(0.0, 0.6, 0.6)}}
    options = argparse.Namespace(root='a/some set', folds=4, minutes=1.0, config='c.py', set=[], results=tmp_path)
    path = accuracy.write(options, [fold])
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in path.read_text().splitlines()]
    assert ['mean volume Dice of the cases that have it', '0.6', '0.6'] in rows
    assert ['mean over all images', '0.7333', '0.4'] in rows
    assert ['P1', '1', 'tumour', '0.5', '0.6'] in rows and path.name == 'accuracy-some set.md'
    assert pd.notna(json.loads(path.with_suffix('.json').read_text())['folds'][0]['took']['here']['cpu'])
