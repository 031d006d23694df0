"""Dice by subset of modalities: every subset once, means by hand, and what a network finds with each."""
import numpy as np
import pandas as pd
import pytest
from test_api import save_run

import unet_jax
from unet_jax import config as fields
from unet_jax import config_check, phantom
from unet_jax.annotations import brats_h5, labels
from unet_jax.errors import InputError
from unet_jax.evaluation import cases, modalities
from unet_jax.experiment import read_frame, settle
from unet_jax.modes import kinds


def test_four_modalities_have_fifteen_subsets_and_the_last_is_all_of_them():
    found = modalities.subsets(('flair', 't1', 't1ce', 't2'))
    assert len(found) == len(set(found)) == 15 and found[0] == ('flair',)
    assert found[-1] == ('flair', 't1', 't1ce', 't2') and [len(s) for s in found] == [1] * 4 + [2] * 6 + [3] * 4 + [4]


def test_the_table_has_a_row_a_subset_and_the_mean_of_the_cases():
    dice = {'t1': (0.2, 0.4, 0.5, float('nan')), 'flair+t1': (0.6, 1, 0.7, 0.9)}
    scores = pd.DataFrame([{'case': case, 'group': case, 'region': region, 'modalities': name, 'dice': value,
                            'present': True}
                           for name, values in dice.items()
                           for case, region, value in zip('abab', ('WT', 'WT', 'ET', 'ET'), values)])
    lines = modalities.text(scores, convention='nnunet').splitlines()
    assert 'nnunet' in lines[0]
    assert [line.split() for line in lines[2:]] == [
        ['modalities', 'WT', 'ET'], ['t1', '0.3000', '(0.2000', '..', '0.4000)', '0.5000', '(-', '..', '-)'],
        ['flair+t1', '0.8000', '(0.6000', '..', '1.0000)', '0.8000', '(0.7000', '..', '0.9000)']]


def test_cases_that_lack_a_region_are_left_out_of_a_second_table():
    scores = pd.DataFrame([{'case': case, 'group': case, 'region': 'WT', 'modalities': 't1', 'dice': dice,
                            'present': dice < 1} for case, dice in zip('abc', (0.2, 0.4, 1.0))])
    first, second = modalities.text(scores, convention='brats').split('whose reference has the region')
    assert '0.5333' in first and '0.3000' in second and '0.5333' not in second


def test_what_no_case_defines_is_a_dash():
    scores = pd.DataFrame([{'case': 'a', 'group': 'a', 'region': 'WT', 'modalities': 't1', 'dice': float('nan'),
                            'present': True}])
    assert modalities.text(scores, convention='nnunet').split()[-4:] == ['-', '(-', '..', '-)']


def trained_without(folder, **changes):
    """The work directory of volumes, or slices, of a run that was never trained but goes without sequences."""
    changes = {'data.root': str(folder / 'data'), 'model.features': (4, 8), 'model.encoder_blocks': (1, 1),
               'model.decoder_blocks': (1,), 'evaluation.batch_size': 8, 'augment.modality_dropout': 0.5, **changes}
    name = 'brats' if len(changes['data.size']) == 2 else 'brats3d:small'
    config = unet_jax.get_config(name, changes)
    config = settle(config, read_frame(config))
    return save_run(config, folder / 'run')


def check_alone(run, kept, cases_of):
    """That a case in the table is what the API finds in the same case with the sequences `kept` alone."""
    predictor = unet_jax.load(run)
    network, experiment = predictor.network, predictor.network.experiment
    data = kinds.kind_of(experiment)
    rows = cases.by_case(data.rows(experiment, read_frame(experiment.config)))
    samples = data.open_samples(experiment, rows)
    chosen = modalities.subsets(predictor.sequences)
    found = list(data.segment_without(network, samples, chosen))
    assert len(found) == 15 * rows.case.nunique()
    for subset, case in found:
        if subset == kept:
            answers = predictor([{name: image[name] for name in kept} for image in cases_of(rows, case.name)])
            ids = np.squeeze(np.stack([answer.ids for answer in answers], -1))
            assert np.array_equal(labels.to_ids(case.prediction, experiment.classes), ids)
    assert len({case.prediction.tobytes() for _, case in found}) > 2


def test_slices_with_some_sequences_are_stacked_as_found_without_the_others(tmp_path):
    folder = phantom.write_brats_h5(tmp_path / 'data', volumes=2, shape=(4, 20, 24))

    def slices(rows, name):
        arrays = (brats_h5.read_slice(folder / path)[0] for path in rows.path[rows.case == name])
        return [dict(zip(('flair', 't1', 't1ce', 't2'), np.moveaxis(array, -1, 0))) for array in arrays]

    check_alone(trained_without(tmp_path, **{'data.size': (16, 16)}), ('t1', 't2'), slices)


def test_volumes_too_and_a_case_stands_only_for_sequences_that_it_has(tmp_path):
    folder = phantom.write_nifti(tmp_path / 'data', cases=2, shape=(18, 22, 20))
    run = trained_without(tmp_path, **{'data.size': (16, 16, 16), 'model.deep_supervision': 0, 'model.stem': 1})
    check_alone(run, ('t1', 't2'), lambda rows, name: [
        {m: folder / name / f'{name}_{m}.nii.gz' for m in ('t1', 't2')}])

    first, second = sorted(path for path in folder.iterdir() if path.is_dir())
    (second / f'{second.name}_flair.nii.gz').unlink()
    network = unet_jax.load(run).network
    config = unet_jax.load(run, changes={'data.missing_modalities': True}).config
    rows = kinds.VOLUMES.rows(network.experiment, read_frame(config))
    found = kinds.VOLUMES.segment_without(network, kinds.VOLUMES.open_samples(network.experiment, rows),
                                          modalities.subsets(('flair', 't1', 't1ce', 't2')))
    counts = pd.Series([case.name for _, case in found]).value_counts()
    assert counts.to_dict() == {first.name: 15, second.name: 7}


def test_images_have_no_sequences_to_go_without():
    with pytest.raises(InputError, match='evaluation.modality_subsets is True: is for data of several sequences'):
        config_check.check_config(unet_jax.get_config('phantom', {'evaluation.modality_subsets': True}))


@pytest.mark.parametrize('name', ['brats:missing', 'brats3d:missing', 'brats3d:small_missing'])
def test_the_configs_for_missing_sequences_drop_them_and_score_every_subset(name):
    config, plain = unet_jax.get_config(name), unet_jax.get_config(name.replace('missing', '').strip(':_'))
    changed = {key for key, value in fields.flat(config).items() if value != fields.flat(plain)[key]}
    assert changed - {'data.missing_modalities'} == {'augment.modality_dropout', 'evaluation.modality_subsets'}
    config_check.check_config(config)
