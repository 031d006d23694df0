"""Slices of patients: who they are, one scale for all of a patient's, neighbours as channels, scored as volumes."""
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_together import tiny

from unet_jax import config_check, phantom
from unet_jax.annotations import coco, pairs, patients
from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.evaluation.components import components
from unet_jax.experiment import create, init_params, read_frame, settle
from unet_jax.formats import inputs
from unet_jax.inference import predictor as inference
from unet_jax.modes import image_kind
from unet_jax.modes.evaluate import evaluate
from unet_jax.modes.predict import write
from unet_jax.modes.train import train
from unet_jax.pipeline import cache, slices, stream
from unet_jax.planning import memory
from unet_jax.report import overlays, viewer
from unet_jax.training import checkpoint, dispatch, sharding
from unet_jax.training import step as steps


def names(*patterns, count=12):
    """A dozen slices of each, in the order of a folder's listing: 1, 10, 11, 12, 2, …"""
    return sorted(pattern.format(k=k) for pattern in patterns for k in range(1, count + 1))


@pytest.mark.parametrize('paths', [
    names('P1/{k}.png', 'P2/{k}.png'), names('P1/IM-0001-{k:04}.png', 'P2/IM-0001-{k:04}.png'),
    names('images/P1/I{k}.png', 'images/P2/I{k}.png'), names('P1-{k}.png', 'P2-{k}.png'),
    names('P1_slice_{k:03}.tif', 'P2_slice_{k:03}.tif')])
def test_folders_ends_of_names_and_dicom_like_stems_tell_patients(paths):
    found = dict(zip(paths, pairs.patients(paths), strict=True))
    assert {patient for patient, _ in found.values()} == {'P1', 'P2'}
    assert all(sorted(n for p, n in found.values() if p == who) == list(range(1, 13)) for who in ('P1', 'P2'))


def test_series_of_one_folder_are_volumes_of_their_own():
    paths = names('P1/IM-0001-{k:04}.png', 'P1/IM-0002-{k:04}.png', 'P2/IM-0001-{k:04}.png')
    found = pairs.patients(paths)
    assert {patient for patient, _ in found} == {'P1/IM-0001', 'P1/IM-0002', 'P2/IM-0001'}


def test_a_pattern_that_makes_two_images_one_slice_is_refused():
    with pytest.raises(InputError, match=r"a/x1.png and b/x1.png would both be slice 1 of 'x'"):
        patients.by_pattern(['a/x1.png', 'b/x1.png'], r'(x)(\d)')


def coco_set(root, people=6, slices=5, blank=(1,)):
    """A COCO set of slices: uint8 16×16, slice number `blank` of everyone the same black picture."""
    content = {'images': [], 'annotations': [], 'categories': [{'id': 1, 'name': 'tumour'}]}
    random = np.random.default_rng(0)
    for who in range(people):
        for k in range(1, slices + 1):
            i = len(content['images'])
            name = f'pat{who:02}_{k}.png'
            picture = np.uint8(random.integers(1, 255, (16, 16)) * (k not in blank))
            Image.fromarray(picture).save(root / name)
            content['images'].append({'id': i, 'file_name': name, 'width': 16, 'height': 16})
            if k == 2:
                content['annotations'].append({'id': i, 'image_id': i, 'category_id': 1,
                                               'segmentation': [[2, 2, 9, 2, 9, 9, 2, 9]], 'iscrowd': 0})
    (root / 'x.json').write_text(json.dumps(content))


def test_a_coco_set_with_a_pattern_is_split_by_patient_though_black_slices_are_equal(tmp_path):
    coco_set(tmp_path)
    frame = coco.read(tmp_path, group_pattern=r'(pat\d+)_(\d+)')
    images = frame.drop_duplicates('path')
    assert images.case.nunique() == 6 and set(images.subset) == {'train', 'valid', 'test'}
    assert (images.groupby('case').subset.nunique() == 1).all()
    assert all(sorted(part) == [1, 2, 3, 4, 5] for _, part in images.groupby('case').slice)
    alone = coco.read(tmp_path, group_pattern=r'(pat\d+)')
    assert alone.group.nunique() == 6 and alone.case.nunique() == 30 and alone.slice.isna().all()


def test_neighbours_are_those_of_the_patient_in_order_and_ends_repeat():
    rows = pd.DataFrame({'case': list('abaab'), 'slice': pd.array([9, 1, 2, 10, 2], 'Int64')})
    assert slices.near(rows, 1).tolist() == [[2, 0, 3], [1, 1, 4], [2, 2, 0], [0, 3, 3], [1, 4, 4]]
    assert slices.near(rows.assign(slice=pd.NA), 1).tolist() == [[k] * 3 for k in range(5)]
    image, label = np.arange(5).reshape(5, 1, 1, 1) + np.array([0, 10]), np.arange(5).reshape(5, 1, 1)
    seen, drawn = slices.take(image, label, slices.near(rows, 1)[np.array([0, 4])])
    assert seen[:, 0, 0].tolist() == [[2, 12, 0, 10, 3, 13], [1, 11, 4, 14, 4, 14]]
    assert drawn.ravel().tolist() == [0, 4]


def test_the_scale_of_a_patient_is_that_of_all_its_pixels_without_common_margins():
    image = np.zeros((4, 8, 8, 2), np.uint8)
    image[[0, 2], 2:6, 1:7] = np.random.default_rng(0).integers(1, 256, (2, 4, 6, 2))
    image[2, 5] = 0  # dark in one of the slices alone
    found = slices.scale(image, pd.Series(list('abac')))
    pixels = image[[0, 2], 2:6, 1:7].reshape(-1, 2) / 255
    np.testing.assert_allclose(found[0], [pixels.mean(0), pixels.std(0)], rtol=1e-6)
    assert np.array_equal(found[0], found[2]) and (found[[1, 3]] == 0).all()


def patients_set(root, people=6, count=5):
    """Pairs of 24×24 slices in a folder for each patient, each with a brightness of their own, and a bright square."""
    random = np.random.default_rng(1)
    for who in range(people):
        (root / f'P{who}').mkdir(parents=True)
        for k in range(1, count + 1):
            mask = np.zeros((24, 24), bool)
            mask[5:14, 6:6 + 2 * k] = k in (2, 3)
            picture = random.integers(20, 60, (24, 24, 3)) * (1 + who / 3) + 60 * mask[..., None]
            Image.fromarray(np.uint8(picture)).save(root / f'P{who}/P{who}_{k}.png')
            Image.fromarray(np.uint8(mask) * 255).save(root / f'P{who}/P{who}_{k}_mask.png')
    return root


def config_of(root, cache, **data):
    config = tiny(0, batch_size=8, steps=4, evaluate_every=4, checkpoint_every=2)
    with config.unlocked():
        config.data.update({'format': 'pairs', 'root': str(root), 'cache': str(cache), 'channels': 3, 'categories': (),
                            'names': (), 'regions': (), 'split': (0.5, 0.25, 0.25), **data})
        config.evaluation.update({'batch_size': 8, 'pictures': 1})
        config.optimizer.learning_rate = 1e-4  # probabilities stay about 1/2, so that masks differ by what is seen
    return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """(config, work directory) of a few steps with neighbours, standardised by patient, few of the empty slices."""
    home = tmp_path_factory.mktemp('patients')
    config = config_of(patients_set(home / 'set'), home / 'cache', neighbours=1, standardise='patient',
                       empty_slices=0.3)
    train(config, home / 'run')
    return config, home / 'run'


def test_neighbours_that_are_not_trained_on_are_seen_and_no_slice_is_held_twice(trained, tmp_path):
    config, folder = trained
    known = settle(config, frames.load(folder / 'annotations.parquet'))
    one = create(known)
    rows = image_kind.rows(one, frames.load(folder / 'annotations.parquet'))
    part = rows[rows.subset == 'train'].reset_index(drop=True)
    kept = stream.thin(part, share=0.3, seed=0)
    assert len(kept) < len(part)
    samples = image_kind.training_samples(one, train=part, valid=part, kept=kept.index.to_numpy())['train']
    assert len(samples.rows) == len(kept) and samples.image.shape == (len(part), 16, 16, 3)
    assert one.settings.inputs == 9
    batch = stream.batch(samples, seed=0, step=0, batch_size=8)
    for k, index in enumerate(batch['index']):
        row = samples.rows.iloc[index]
        mine = [part.path[(part.case == row.case) & (part.slice == n)].index[0]
                for n in (max(row.slice - 1, 1), row.slice, min(row.slice + 1, 5))]
        assert np.array_equal(batch['image'][k], np.concatenate([samples.image[i] for i in mine], -1))
    shapes = {name: (value.shape, value.dtype) for name, value in memory.abstract_batch(one, 8).items()}
    assert shapes == {name: (value.shape, value.dtype) for name, value in batch.items()}
    keys = {cache.key(part, one.settings._replace(neighbours=n, patient=p)) for n in (0, 1) for p in (False, True)}
    moved = cache.key(part.assign(group='all'), one.settings)
    assert len(keys) == 2 and moved not in keys


def test_a_slice_looks_alike_wherever_it_is_seen_and_by_patient_all_by_one_scale():
    image = np.uint8(np.random.default_rng(0).integers(0, 255, (12, 12, 6)))
    image[:, :5, :2] = 0  # a margin in the first slice alone
    config = tiny(0)
    with config.unlocked():
        config.data.update({'neighbours': 1, 'channels': 2})
    found, black = jax.jit(lambda x: steps.see(x, config))(image)
    for k in range(3):
        alone, dark = jax.jit(lambda x: steps.normalise(x, True))(image[..., 2 * k:2 * k + 2])
        np.testing.assert_allclose(found[..., 2 * k:2 * k + 2], alone, atol=1e-6)
        np.testing.assert_allclose(black[2 * k:2 * k + 2], dark, atol=1e-6)
    scale = np.array([[0.2, 0.4], [0.5, 0.25]], np.float32)
    found, black = jax.jit(lambda x, scale: steps.see(x, config, scale))(image, scale)
    np.testing.assert_allclose(found, (image / 255 - np.tile(scale[0], 3)) / np.tile(scale[1], 3), atol=1e-5)
    np.testing.assert_allclose(black, np.tile(-scale[0] / scale[1], 3), atol=1e-6)


def test_a_resumed_run_with_neighbours_ends_as_the_straight_one(trained, tmp_path):
    config, folder = trained
    shutil.copytree(folder, tmp_path / 'run')
    shutil.rmtree(tmp_path / 'run/checkpoints/4')
    train(config, tmp_path / 'run')
    like = init_params(inference.restore(config, [folder], '4')[0].experiment)
    a, b = (checkpoint.restore_params(home / 'checkpoints', 4, like, sharding.replicated(sharding.create_mesh()))
            for home in (folder, tmp_path / 'run'))
    assert all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_patients_slices_are_scored_as_one_volume_and_image_by_image(trained, capsys):
    config, folder = trained
    frame = frames.load(folder / 'annotations.parquet')
    who = sorted(frame[frame.subset == 'test'].case.unique())
    home = folder / 'evaluation/test'
    volumes, images = pd.read_csv(home / 'cases.csv'), pd.read_csv(home / 'images.csv')
    assert sorted(volumes.case) == who and len(images) == 5 * len(who) and set(images.group) == set(who)
    for name in ('tp', 'fp', 'fn', 'tn'):
        assert images.groupby('group')[name].sum().tolist() == volumes.set_index('case')[name][who].tolist()
    assert (volumes.fn + volumes.tp == 9 * (4 + 6)).all()
    summary = json.loads((home / 'summary.json').read_text())
    assert (summary['units'], summary['cases'], summary['images']['cases']) == ('px', len(who), 5 * len(who))
    assert 'hd95' not in images and {'hd95', 'component_f1'} <= set(summary['regions']['foreground'])
    report = (folder / 'report.html').read_text()
    assert 'How far apart slices lie is not known' in report and 'Image by image' in report

    told = config.copy_and_resolve_references()
    with told.unlocked():
        told.evaluation.update({'spacing': (0.5, 0.5, 5.0), 'lesions': 'MET'})
    evaluate(told, folder, subset='test', which='best')
    said, again = capsys.readouterr().out, pd.read_csv(home / 'cases.csv')
    assert 'distances in mm' in said and 'not known' not in said and 'Image by image' in said
    assert np.allclose(again.volume_reference, volumes.volume_reference * 0.5 * 0.5 * 5) and 'lesion_dice' in again
    with told.unlocked():
        told.evaluation.spacing = ()
    with pytest.raises(InputError, match='config.evaluation.lesions .* mm³'):
        config_check.check_config(told)


def test_a_patients_folder_is_predicted_as_it_was_evaluated_and_one_image_falls_back(trained, tmp_path, caplog):
    config, folder = trained
    case = pd.read_csv(folder / 'evaluation/test/images.csv').group.iloc[0]
    source = folder.parent / 'set' / case
    predictor, used = inference.restore(config, [folder], 'best')
    write(predictor, [str(source)], tmp_path / 'all', str(used))
    masks = sorted((tmp_path / 'all').glob('*.png'))
    assert [mask.name for mask in masks] == [f'{case}_{k}.png' for k in range(1, 6)]
    assert any(np.asarray(Image.open(mask)).any() for mask in masks) and 'no slices' not in caplog.text
    for mask in masks:
        seen = np.asarray(Image.open(folder / 'predictions/test' / case / mask.name))
        assert np.array_equal(np.asarray(Image.open(mask)), seen)
    masks[2].unlink()  # what is missing of a patient is made again by all of its slices
    write(predictor, [str(source)], tmp_path / 'all', str(used))
    assert np.array_equal(np.asarray(Image.open(masks[2])),
                          np.asarray(Image.open(folder / 'predictions/test' / case / masks[2].name)))
    write(predictor, [str(source / f'{case}_3.png')], tmp_path / 'one', str(used))
    assert len(list((tmp_path / 'one').glob('*.png'))) == 1 and 'no slices of patients' in caplog.text


def test_hdf5_slices_have_their_neighbours_in_predicting_as_in_evaluating(tmp_path):
    root = phantom.write_brats_h5(tmp_path / 'h5', volumes=2, shape=(5, 24, 20))
    config = tiny(3)
    config.data.update({'format': 'brats_h5', 'root': str(root), 'channels': 4, 'size': (16, 16), 'neighbours': 1,
                        'standardise': False, 'cache': str(tmp_path / 'cache')})
    config.evaluation.update({'threshold': 0.502, 'batch_size': 8})
    one = create(config)
    predictor = inference.create(one, init_params(one))
    rows, _ = one.format.find([str(root)], config.data)
    rows = inputs.with_patients(rows, '', one.format.slice_of)
    assert sorted(rows.slice) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] and rows.case.nunique() == 2
    write(predictor, [str(root)], tmp_path / 'out', 'none')
    read = image_kind.rows(one, read_frame(config))  # as for evaluation
    found = dict(inference.enlarged(predictor, image_kind.open_samples(one, read)))
    lit = 0
    for index, row in enumerate(read.itertuples()):
        path = next((tmp_path / 'out/BraTS2020_training_data').rglob(f'{Path(row.path).stem}.png'))
        mask = np.asarray(Image.open(path))
        assert np.array_equal(mask > 0, found[index][..., 0] > 0.502)
        lit += (mask > 0).mean()
    assert 0 < lit < len(rows)


def test_slices_of_unlike_sizes_are_refused_by_name(tmp_path):
    patients_set(tmp_path, people=3)
    for name in ('P1/P1_4.png', 'P1/P1_4_mask.png'):
        Image.new('L', (20, 24)).save(tmp_path / name)
    with pytest.raises(InputError, match=r'P1/P1_1.png has 24×24 pixels, P1/P1_4.png 20×24; slices of one patient'):
        pairs.read_frame(tmp_path)
    assert pairs.read_frame(tmp_path, group_pattern=r'^(P\d)').slice.isna().all()


def test_images_in_the_devices_memory_have_the_neighbours_and_scale_of_those_on_the_host(trained):
    config, folder = trained
    frame = frames.load(folder / 'annotations.parquet')
    one = create(settle(config, frame))
    samples = image_kind.open_samples(one, image_kind.rows(one, frame)).some(np.arange(3, 19))
    resident = config.copy_and_resolve_references().train.copy_and_resolve_references()
    with resident.unlocked():
        resident.resident = True
    mesh = sharding.create_mesh()
    data = dispatch.resident(samples, resident, mesh)
    batch = stream.batch(samples, seed=0, step=0, batch_size=8)
    bare = {name: batch[name] for name in ('index', 'visit', 'valid')}
    found = jax.jit(lambda data, batch: dispatch.gather(data, batch, mesh))(data, bare)
    assert all(np.array_equal(found[name], batch[name]) for name in batch) and found.keys() == batch.keys()


def test_data_without_slices_cannot_have_neighbours(tmp_path):
    coco_set(tmp_path)
    config = config_of(tmp_path, tmp_path / 'cache', format='coco', neighbours=1)
    with pytest.raises(InputError, match='config.data.neighbours is 1, but .* has no slices of patients'):
        train(config, tmp_path / 'run')
    with config.unlocked():
        config.augment.modality_dropout = 0.5
    with pytest.raises(InputError, match='augment.modality_dropout .* would drop single slices'):
        config_check.check_config(config)


def test_parts_are_counted_without_millimetres():
    reference, prediction = np.zeros((2, 9, 9), bool)[None].repeat(2, 0)
    reference[0, 0, 0] = reference[0, 4, 4] = reference[1, 5, 5] = True  # the last two are one part, by a corner
    prediction[1, 5, 5] = prediction[0, 8, 8] = True
    assert components(reference, prediction) == {'component_f1': 0.5, 'components_found': 1, 'components_missed': 1,
                                                 'components_invented': 1}
    assert np.isnan(components(reference & False, reference & False)['component_f1'])


@pytest.mark.parametrize('channel', [None, 2])
def test_pictures_show_the_colour_image_or_the_channel_that_is_chosen(channel):
    image = np.zeros((20, 24, 3), np.uint8)
    image[4:12, 4:12], image[4:12, 14:20] = (200, 20, 20), (20, 20, 200)
    for picture, masks in ((image, np.zeros((20, 24, 1), bool)),
                           (image[:, :, None].repeat(4, 2), np.zeros((20, 24, 4, 1), bool))):
        figure = overlays.overlay(picture, masks, None, ('a',), channel=channel)
        shown = np.asarray(figure.axes[0].images[0].get_array(), float)
        assert (shown.ndim == 3) == (channel is None)
        if channel is None:
            assert (shown[..., 0] > shown[..., 2] + 0.5).any() and (shown[..., 2] > shown[..., 0] + 0.5).any()
        else:
            assert shown.max() == 1 and np.ptp(shown[shown > 0.5]) == 0
    case = viewer.Case('a', 'b', image, (), masks[:, :, 0], None, ('a',), {}, channel=channel)
    packed = viewer.packed(case, 10**6)
    assert packed['colour'] and packed['shown'] == channel
