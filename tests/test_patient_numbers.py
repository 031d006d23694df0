"""Numbers of a patient's masks, and the tables, maps and pages that prediction writes of them."""
import json
import math

import nibabel
import numpy as np
import optax
import pandas as pd
import pytest
from PIL import Image
from test_ensembles import begin, rows

from configs import brats3d
from unet_jax import phantom, workdir
from unet_jax.annotations import frame as frames
from unet_jax.annotations import labels, nifti_file, schemas
from unet_jax.evaluation import patients
from unet_jax.experiment import create, init_params, read_frame, settle
from unet_jax.modes.export import export
from unet_jax.modes.predict import predict
from unet_jax.training import checkpoint, state


def ellipse(shape, centre, radii, angle=0.0):
    """(H, W) bool."""
    y, x = np.indices(shape) - np.reshape(centre, (2, 1, 1))
    u, v = y * math.cos(angle) + x * math.sin(angle), x * math.cos(angle) - y * math.sin(angle)
    return (u / radii[0]) ** 2 + (v / radii[1]) ** 2 <= 1


def one(mask, **options):
    return patients.measure(mask[..., None], ['WT'], **{'spacing': None} | options)[0]


@pytest.mark.parametrize('angle', [0, 0.3, 0.8, math.pi / 2])
def test_the_diameters_of_an_ellipse_are_its_axes_however_it_lies(angle):
    found = one(ellipse((120, 120), (60, 60), (40, 15), angle))
    assert found['diameter_px'] == pytest.approx(80, abs=1.5) and found['perpendicular_px'] == pytest.approx(30, abs=2)
    assert found['area_px'] == pytest.approx(math.pi * 40 * 15, rel=0.01) and found['lesions'] == 1


def test_diameters_are_taken_of_one_part_of_one_axial_plane_in_mm():
    """Two parts in a plane are not measured across the gap, and a long part along the body axis counts for nothing."""
    mask = np.zeros((40, 9, 40), bool)  # the second axis goes up
    mask[2:6, :, 2:6] = True  # 9 planes high
    mask[10:16, 4, 10:12] = mask[30:34, 4, 30:34] = True
    found = one(mask, spacing=(2, 3, 1), axial=1)
    assert found['diameter_mm'] == pytest.approx(math.hypot(12, 1), abs=0.1)  # of the 6 × 2, between edge middles
    assert found['perpendicular_mm'] == pytest.approx(2, abs=0.3)
    assert found['volume_ml'] == pytest.approx(mask.sum() * 6e-3) and found['lesions'] == 3
    assert found['lesion_volumes_ml'] == '0.864 0.096 0.072'


def test_one_pixel_and_nothing():
    mask = np.zeros((5, 5), bool)
    assert one(mask) == {'region': 'WT', 'area_px': 0.0, 'lesions': 0, 'lesion_areas_px': '', 'diameter_px': 0.0,
                         'perpendicular_px': 0.0}
    mask[2, 3] = True
    found = one(mask)
    assert found['diameter_px'] == found['area_px'] == 1 and found['perpendicular_px'] == 1


def test_certainty_by_hand():
    probability = np.array([[0.9, 0.6, 0.3, 0.1], [0.8, 0.75, 0.25, 0.0]])[..., None]
    found = one(probability[..., 0] > 0.5, probability=probability)
    assert found['mean_probability'] == pytest.approx((0.9 + 0.6 + 0.8 + 0.75) / 4)
    assert found['unsure_share'] == pytest.approx(2 / 5)  # 0.6 and 0.3, of those and the other three of the mask
    empty = one(probability[..., 0] > 1, probability=probability * 0)
    assert math.isnan(empty['mean_probability']) and empty['unsure_share'] == 0


def test_change_is_told_since_baseline_and_since_the_smallest_before():
    lines = [{'case': f'P-{t}', 'patient': 'P', 'time_point': t, 'region': 'ET', 'volume_ml': ml}
             for t, ml in (('t10', 3.0), ('t1', 4.0), ('t2', 1.0), ('t3', 0.0))]
    lines += [{'case': 'Q', 'patient': 'Q', 'time_point': '', 'region': 'ET', 'volume_ml': 1.0}]
    table = patients.table(lines)
    assert list(table.time_point) == ['t1', 't2', 't3', 't10', '']
    found = patients.changes(table)
    assert list(found.patient) == ['P'] * 4 and list(found.since_baseline) == [0, -3, -4, -1]
    assert list(found.since_nadir) == [0, -3, -1, 3] and list(found.since_baseline_percent) == [0, -75, -100, -25]
    assert list(found.since_nadir_percent[:3]) == [0, -75, -100] and math.isnan(found.since_nadir_percent[3])
    assert patients.time_point('BraTS-GLI-00005-001', 'BraTS-GLI-00005') == '001'
    assert patients.time_point('BraTS20_Training_001', 'BraTS20_Training_001') == ''


@pytest.mark.parametrize('name', ['brats2021-00006', 'brats2018/Brats18_2013_2_1'])
def test_reference_masks_of_real_cases_given_as_prediction_have_their_own_volumes(shared_data, name):
    path = next((shared_data / name).rglob('*seg.nii*'))
    schema = schemas.schema('2020')
    classes = schemas.classes(schema.name)
    ids, _ = nifti_file.read_label(path, classes)
    regions = tuple(labels.Region(*region) for region in schema.regions)
    masks = labels.region_masks(labels.from_ids(ids, classes), labels.region_bits(regions, classes))
    spacing = nifti_file.read_header(path).spacing
    for row in patients.measure(masks, [region.name for region in regions], spacing=spacing):
        ids_of = {region.name: region.classes for region in regions}
        inside = np.isin(np.asarray(nibabel.load(path).dataobj), ids_of[row['region']])
        assert row['volume_ml'] == pytest.approx(inside.sum() / 1000) and row['lesions'] >= 1
        assert sum(map(float, row['lesion_volumes_ml'].split())) == pytest.approx(row['volume_ml'], rel=1e-4)
        assert 10 < row['perpendicular_mm'] <= row['diameter_mm'] < 150


@pytest.fixture(scope='module')
def volumes(tmp_path_factory):
    """(folder with set/, run/ that was never trained, model.zip) of six phantoms, the last a second visit."""
    place = tmp_path_factory.mktemp('volumes')
    phantom.write_nifti(place / 'set', cases=6, shape=(14, 24, 26), year='2023')
    config = brats3d.get_config('small')
    with config.unlocked():
        config.data.update({'root': str(place / 'set'), 'size': (16, 16, 16)})
        config.model.update({'features': (8, 8), 'encoder_blocks': (1, 1), 'decoder_blocks': (1,),
                             'deep_supervision': 0})
        config.evaluation.update({'batch_size': 8, 'postprocess': True})
    frame = read_frame(config)
    config = settle(config.lock(), frame)
    frames.save(frame, place / 'run')
    workdir.save_config(place / 'run', config)
    begun = state.create(init_params(create(config)), optax.sgd(0.1))
    checkpoint.save(place / 'run/checkpoints', begun, score=None, notes={}, keep=1)
    told = {'checkpoint': 0, 'version': 2, 'temperatures': [],
            'limits': {'component': {'WT': 30.0, 'TC': 30.0, 'ET': 30.0}}} | {
        name: config.evaluation[name] for name in ('convention', 'threshold', 'flips', 'overlap')}
    (place / 'run/postprocess.json').write_text(json.dumps(told))
    export(config, place / 'run', output=f'{place}/model.zip', which='latest')
    return place


def cases_of(volumes):
    return sorted(path.name for path in (volumes / 'set').rglob('BraTS-GLI-*') if path.is_dir())


def test_volumes_have_numbers_maps_pages_and_change_and_the_model_file_gives_the_same_masks(volumes, tmp_path, capsys):
    """Half of the cases first, as if interrupted, by the run; then all of them, by the model file."""
    config, out, names = workdir.load_config(volumes / 'run'), tmp_path / 'out', cases_of(volumes)
    config.evaluation.uncertainty = True
    folders = [str(next((volumes / 'set').rglob(name))) for name in names]
    ask = {'output': str(out), 'which': 'latest', 'report': True}
    predict(config, volumes / 'run', sources=folders[4:], **ask)
    first = pd.read_csv(out / 'predictions.csv', dtype={'time_point': str})
    assert len(first) == 3 * len(folders[4:])
    predict(config, volumes / 'run', sources=folders[:4], **ask)
    table = pd.read_csv(out / 'predictions.csv', dtype={'time_point': str})
    assert list(table.case) == [name for name in names for _ in range(3)] and set(table.region) == {'WT', 'TC', 'ET'}
    both = table.merge(first, on=['case', 'region'], suffixes=('', '_before'))
    assert len(both) == len(first) and (both.volume_ml == both.volume_ml_before).all()
    for row in table[table.region == 'WT'].itertuples():
        written = nibabel.load(out / f'{row.case}.nii.gz')
        assert row.volume_ml == pytest.approx((np.asarray(written.dataobj) > 0).sum() / 1000)
        unsure = nibabel.load(out / f'uncertainty/{row.case}.nii.gz')
        assert unsure.get_data_dtype() == np.float32 and np.array_equal(unsure.affine, written.affine)
        assert 0.5 < np.asarray(unsure.dataobj).max() <= 1 and 0 <= row.unsure_share <= 1
        page = (out / f'reports/{row.case}.html').read_text()
        assert f'<h1>{row.case}</h1>' in page and f'<td>{row.volume_ml:.4g}</td>' in page and 'Volume (ml)' in page
    changes = pd.read_csv(out / 'changes.csv', dtype={'time_point': str})
    assert list(changes[changes.region == 'WT'].time_point) == ['000', '001'] and changes.patient.nunique() == 1
    capsys.readouterr()
    predict(config, volumes / 'run', sources=folders, **ask)
    assert '6 of 6 are there already' in capsys.readouterr().out

    other = workdir.load_config(volumes / 'model.zip')
    predict(other, volumes / 'model.zip', sources=folders, output=str(tmp_path / 'other'), which='best')
    masks = [{path.name: path.read_bytes() for path in place.glob('*.nii.gz')} for place in (out, tmp_path / 'other')]
    assert masks[0] == masks[1] and len(masks[0]) == 6
    assert 'component WT 30 mm³, TC 30 mm³' in capsys.readouterr().out
    assert not (tmp_path / 'other/uncertainty').exists()


def test_images_are_measured_in_pixels_and_their_maps_are_16_bits(tmp_path):
    begin(tmp_path / 'run', tmp_path / 'set', rows('train', ['a']) + rows('test', ['t0', 't1']))
    config = workdir.load_config(tmp_path / 'run')
    config.evaluation.uncertainty = True
    predict(config, tmp_path / 'run', sources=[f'{tmp_path}/set'], output=f'{tmp_path}/out', which='best', report=True)
    table = pd.read_csv(tmp_path / 'out/predictions.csv')
    assert list(table.case) == ['a.png', 't0.png', 't1.png'] and not (tmp_path / 'out/changes.csv').exists()
    for row in table.itertuples():
        assert row.area_px == (np.asarray(Image.open(tmp_path / 'out' / row.case)) > 0).sum()
        assert np.asarray(Image.open(tmp_path / 'out/uncertainty' / row.case)).dtype == np.uint16
        assert row.diameter_px <= math.hypot(16, 16)
    before = (tmp_path / 'out/predictions.csv').read_bytes()
    lost = tmp_path / 'out/uncertainty/t0.png'
    lost.unlink()
    predict(config, tmp_path / 'run', sources=[f'{tmp_path}/set'], output=f'{tmp_path}/out', which='best', report=True)
    assert lost.exists() and (tmp_path / 'out/predictions.csv').read_bytes() == before
