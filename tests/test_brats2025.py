"""The convention brats2025 from the config to the tables: which labels are scored, and what is said of the rules."""
import numpy as np
import pandas as pd
import pytest

from unet_jax import config as configs
from unet_jax.annotations import schemas
from unet_jax.evaluation import cases, metrics, summary, table
from unet_jax.evaluation.matched import Sizes
from unet_jax.experiment import create
from unet_jax.report import scores as report


def experiment(release: str, **evaluation):
    """That of a release's labels, as `settle` writes them out."""
    schema = schemas.schema(release)
    classes = schemas.classes(release)
    values = configs.flat(configs.default()) | {
        'data.format': 'nifti', 'data.size': (16, 16, 16), 'augment.flip': (False,) * 3, 'model.features': (4, 8),
        'model.encoder_blocks': (1, 1), 'model.decoder_blocks': (1,), 'data.channels': 4, 'data.categories': classes,
        'data.names': tuple(schema.names[c] for c in classes), 'data.regions': tuple(map(tuple, schema.regions)),
        'evaluation.convention': 'brats2025', **{f'evaluation.{name}': value for name, value in evaluation.items()}}
    return create(configs.build(values))


def case(name='a') -> cases.Case:
    """The first label in one corner, found; the second in another, missed."""
    reference = np.zeros((20, 20, 20), np.uint8)
    reference[2:6, 2:6, 2:6], reference[12:16, 12:16, 12:16] = 1, 2
    return cases.Case(name, name, (1.0,) * 3, reference, np.where(reference == 1, reference, 0).astype(np.uint8))


@pytest.mark.parametrize(('release', 'regions'), [
    ('2024-GLI', ['WT', 'TC', 'ET', 'RC', 'NETC', 'SNFH']), ('2024-PED', ['WT', 'TC', 'ET', 'NET', 'CC', 'ED'])])
def test_labels_that_are_no_region_are_scored_too(release, regions):
    lines = {line['region']: line for line in cases.score(experiment(release), case())}
    assert list(lines) == regions
    first, second = (schemas.schema(release).names[c] for c in (1, 2))
    assert (lines[first]['dice'], lines[first]['lesion_f1']) == (1, 1)
    assert (lines[second]['dice'], lines[second]['lesion_hd95'], lines[second]['lesion_fn']) == (0, np.inf, 1)
    assert np.isnan(lines[regions[3]]['dice']) or regions[3] in (first, second)
    assert len(cases.score(experiment(release, convention='brats'), case())) == len(schemas.regions(release))


def test_every_table_names_the_rules():
    made = experiment('2023', lesions='MET', whole_tolerance=0.7, large_lesion=30.0, found_dice=0.2)
    settings = made.config.evaluation
    assert metrics.sizes(settings) == Sizes(30, 0.2)
    assert metrics.sizes(experiment('2023').config.evaluation) is None
    frame = pd.DataFrame(cases.score(made, case('a')) + cases.score(made, case('b')))
    found = summary.summarise(frame, convention='brats2025', units='mm', whole_tolerance=0.7, lesion='MET',
                              sizes=metrics.sizes(settings))
    text = table.text(found)
    for words in ('nsd (0.7 mm)', 'lesion nsd (1 mm)', 'lesion f1', 'lesion pq', 'convention brats2025',
                  'large dice (from 30 mm³, found at Dice 0.2)', 'read F1 beside them'):
        assert words in text
    page = report.metrics_table(found)
    assert 'Lesion-wise NSD (1 mm)' in page and 'from 30 mm³, found at Dice 0.2' in page
    assert found['regions']['WT']['lesion_dice']['mean'] == 1 and found['regions']['WT']['lesion_f1']['mean'] == 2 / 3
    assert 'lesion_tp' not in found['regions']['WT']
