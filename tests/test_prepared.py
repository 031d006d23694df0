"""Preparation: turned, cropped, standardised, resampled, cached; and back into the file's own voxels."""
import functools
import logging
import os
import shutil
import threading
import time
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from unet_jax import formats, phantom
from unet_jax.annotations import nifti
from unet_jax.errors import InputError
from unet_jax.pipeline import cache_limit, prepared

CLASSES = (1, 2, 4)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    return phantom.write_nifti(tmp_path_factory.mktemp('set') / 'made', cases=3, shape=(14, 30, 26), seed=3)


def settings(root, spacing=(), orientation='', channels=4):
    return prepared.Settings(str(root), (8, 8, 8), channels, CLASSES, spacing, orientation)


def in_memory(row, settings):
    content = formats.named(settings.format).read(settings.root, row, settings.channels)
    return prepared.in_memory(content, row, settings)


def rows_of(root, **reading):
    return prepared.rows(nifti.read_frame(root, split=(1, 0, 0), **reading))


def rewritten(made, folder, change):
    """The first case of `made` in `folder`, every file `change(image)`."""
    name = 'BraTS20_Training_001'
    (folder / name).mkdir(parents=True)
    for path in (made / name).glob('*.nii.gz'):
        nibabel.save(change(nibabel.load(path)), folder / name / path.name)
    return folder


def oriented(codes):
    def change(image):
        ends = nibabel.orientations.axcodes2ornt(codes)
        return image.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(image.affine), ends))
    return change


def scaled(mm):
    def change(image):
        return nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine @ np.diag((*mm, 1)), image.header)
    return change


def masks(label):
    return np.stack([label & (1 << k) != 0 for k in range(len(CLASSES))], -1)


def stored_label(root, row):
    return np.asarray(nibabel.load(root / row.label).dataobj)


def test_a_prepared_case_is_the_brain_with_mean_0_and_deviation_1_and_0_outside(made):
    row = rows_of(made).iloc[0]
    image, label, grid = prepared.prepare(row, settings(made))
    case = nifti.read_case(made, row)
    box = tuple(map(slice, grid.low, grid.high))
    brain = (case.image != 0).any(-1)
    assert image.dtype == np.float16 and image.shape == (*label.shape, 4) == case.image[box].shape
    assert brain.sum() == brain[box].sum() and all(brain[box].any(a).all() for a in ((1, 2), (0, 2), (0, 1)))
    inside = image[brain[box]].astype(float)
    assert np.allclose(inside.mean(0), 0, atol=2e-3) and np.allclose(inside.std(0), 1, atol=2e-3)
    assert not image[~brain[box]].any()
    for k, value in enumerate(CLASSES):
        assert np.array_equal(label & (1 << k) != 0, case.label[box] == value)


@pytest.mark.parametrize('codes', ['LPS', 'RAS', 'PSL', 'ILA', 'SAR'])
@pytest.mark.parametrize('orientation', ['', 'LPS', 'RSA'])
def test_labels_come_back_where_they_were_however_the_file_lies(made, tmp_path, codes, orientation):
    root = rewritten(made, tmp_path, oriented(codes))
    row = rows_of(root, schema='2020').iloc[0]
    _, label, grid = prepared.prepare(row, settings(root, orientation=orientation))
    back = prepared.put_back(masks(label), grid)
    assert back.shape[:3] == (row.height, row.width, row.depth) == tuple(grid.shape)
    for k, value in enumerate(CLASSES):
        assert np.array_equal(back[..., k], stored_label(root, row) == value)


def test_one_head_stored_in_two_orientations_is_prepared_to_the_same_arrays(made, tmp_path):
    arrays = []
    for codes in ('LPS', 'SRA'):
        root = rewritten(made, tmp_path / codes, oriented(codes))
        arrays.append(prepared.prepare(rows_of(root, schema='2020').iloc[0], settings(root, orientation='LPS')))
    assert np.allclose(arrays[0][0], arrays[1][0], atol=1e-2) and np.array_equal(arrays[0][1], arrays[1][1])


@pytest.mark.parametrize('codes', ['LPS', 'SLA'])
def test_resampled_volumes_have_the_spacing_asked_for_and_come_back_in_place(made, tmp_path, codes):
    def change(image):
        return oriented(codes)(scaled((1, 1, 2.5))(image))

    root = rewritten(made, tmp_path, change)
    row = rows_of(root, schema='2020').iloc[0]
    volume = in_memory(row, settings(root, spacing=(1.0, 1.0, 1.25), orientation='LPS'))
    label, grid, sides = volume.label, volume.grid, np.subtract(volume.grid.high, volume.grid.low)
    assert prepared.voxel_size(volume, row.spacing) == pytest.approx((1, 1, 1.25))
    as_stored = in_memory(row, settings(root))
    assert prepared.voxel_size(as_stored, row.spacing) == tuple(row.spacing) != (1, 1, 1)
    assert label.shape == (sides[0], sides[1], 2 * sides[2])
    back = prepared.put_back(masks(label).astype(np.float32), grid) > 0.5
    for k, value in enumerate(CLASSES):
        there = stored_label(root, row) == value
        assert back[..., k].shape == there.shape
        assert 2 * (back[..., k] & there).sum() > 0.95 * (back[..., k].sum() + there.sum())


def test_a_coarser_grid_keeps_places_to_a_voxel(made):
    row = rows_of(made).iloc[0]
    _, label, grid = prepared.prepare(row, settings(made, spacing=(2.0, 2.0, 2.0)))
    back = prepared.put_back((label > 0)[..., None].astype(np.float32), grid)[..., 0] > 0.5
    centre = [np.argwhere(mask).mean(0) for mask in (back, stored_label(made, row) > 0)]
    assert np.abs(centre[0] - centre[1]).max() < 0.4


def test_of_a_coarser_grid_every_voxel_has_the_class_that_fills_most_of_it(made):
    """Where no class fills half of one, too."""
    row = rows_of(made).iloc[0]
    fine, coarse = (prepared.prepare(row, settings(made, spacing=s))[1] for s in ((), (1.3, 1.3, 1.3)))
    shares = prepared.resample(masks(fine).astype(np.float32), coarse.shape)
    rest = 1 - shares.sum(-1)
    nobodys = (shares < 0.49).all(-1) & (shares.max(-1) > rest + 0.01)
    assert nobodys.any() and coarse[nobodys].all() and set(np.unique(coarse)) <= {0, 1, 2, 4}
    best = np.argmax(np.concatenate([shares, rest[..., None]], -1), -1)
    assert np.array_equal(coarse, np.array([1, 2, 4, 0])[best])


def test_the_places_of_each_class_are_kept_up_to_a_limit(made, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, 'FOREGROUND', 20)
    for volume in map(prepared.open_volumes(rows_of(made), settings(made), tmp_path).__getitem__, range(3)):
        ends = np.cumsum((0, *volume.counts))
        assert len(volume.foreground) == ends[-1]
        for k, (start, end) in enumerate(zip(ends, ends[1:])):
            total = int((volume.label & (1 << k) != 0).sum())
            assert end - start == total if total <= 20 else 10 <= end - start <= 20
            assert all(volume.label[tuple(place)] & (1 << k) for place in volume.foreground[start:end])


def test_a_case_is_prepared_once_and_again_when_a_file_or_a_setting_changes(made, tmp_path):
    root = tmp_path / 'set'
    shutil.copytree(made, root)
    rows, cache = rows_of(root), tmp_path / 'cache'
    first = prepared.open_volumes(rows, settings(root), cache)
    times = [os.stat(folder / 'image.npy').st_mtime_ns for folder in first.folders]
    again = prepared.open_volumes(rows, settings(root)._replace(size=(4, 4, 4)), cache)
    assert again.folders == first.folders
    assert [os.stat(folder / 'image.npy').st_mtime_ns for folder in again.folders] == times
    os.utime(root / rows.label[0])
    changed = prepared.open_volumes(rows, settings(root), cache)
    assert changed.folders[0] != first.folders[0] and changed.folders[1:] == first.folders[1:]
    turned = prepared.open_volumes(rows, settings(root, orientation='RAS'), cache)
    assert not set(turned.folders) & set(changed.folders)


def age(folders, days):
    for folder in folders:
        for place in (*folder.iterdir(), folder):
            os.utime(place, times=(time.time() - days * cache_limit.DAY,) * 2)


def test_prepared_cases_stay_within_the_limit_and_those_in_use_stay(made, tmp_path, caplog):
    rows, folder, gb = rows_of(made), tmp_path / 'cache', 1e9
    first, second = (prepared.open_volumes(rows, settings(made, orientation=turned), folder) for turned in ('', 'RAS'))
    sizes = [sum(path.stat().st_size for path in case.iterdir()) for case in first.folders]
    likely = [prepared.likely_size(row, settings(made)) for row in rows.itertuples()]
    assert all(0.3 < a / b < 3 for a, b in zip(likely, sizes, strict=True))
    age([*first.folders, *second.folders], 3)
    used = prepared.open_volumes(rows, settings(made), folder)  # which marks them
    caplog.clear()
    caplog.set_level(logging.INFO, 'unet_jax')
    prepared.open_volumes(rows, settings(made, orientation='LIP'), folder, limit=(2 * sum(sizes) + 100) / gb)
    assert all(case.exists() for case in used.folders) and not any(case.exists() for case in second.folders)
    assert caplog.text.count('samples go to') == 1 and '3 of earlier runs' in caplog.text


def test_a_disk_that_is_full_is_no_damaged_case(made, tmp_path, monkeypatch):
    """Skipping what cannot be read must not leave out cases that there was no room for."""
    free = iter([10**9, 10**9, 10**9, 10**9])
    monkeypatch.setattr(prepared.cache.shutil, 'disk_usage', lambda _: SimpleNamespace(free=next(free, 10)))
    with pytest.raises(InputError, match='needs .* bytes .* 10 are free'):
        prepared.open_volumes(rows_of(made), settings(made), tmp_path, on_error='skip')


def test_what_is_opened_is_what_was_prepared(made, tmp_path):
    rows = rows_of(made)
    image, label, grid = prepared.prepare(rows.iloc[1], settings(made))
    volume = prepared.open_volumes(rows, settings(made), tmp_path)[1]
    assert np.array_equal(volume.image, image) and np.array_equal(volume.label, label) and volume.grid == grid
    assert isinstance(volume.image, np.memmap)


def test_a_case_that_hangs_is_named(made, tmp_path, monkeypatch):
    released, in_order, row = threading.Event(), prepared.threads.in_order, rows_of(made).iloc[0]
    prepare = prepared.prepare
    monkeypatch.setattr(prepared, 'prepare', lambda case, settings: (
        released.wait() if case.path == row.path else prepare(case, settings)))
    monkeypatch.setattr(prepared.threads, 'in_order', functools.partial(in_order, timeout=0.2))
    with pytest.raises(InputError, match=f'{row.path}: the prepared case is not there after 0.2 s.*hangs'):
        prepared.open_volumes(rows_of(made), settings(made), tmp_path)
    released.set()


def test_a_missing_modality_is_zeros_and_a_case_without_label_is_prepared_too(made, tmp_path):
    root = tmp_path / 'set'
    shutil.copytree(made, root)
    for path in [*root.glob('*/*_t1.nii.gz'), *root.glob('*/*_seg.nii.gz')]:
        path.unlink()
    rows = nifti.find_cases(root, '2020', missing_modalities=True)
    volume = in_memory(rows.iloc[0], settings(root))
    assert not volume.image[..., 1].any() and volume.image[..., 0].any() and not volume.label.any()


def test_an_empty_volume_is_refused_by_name(made, tmp_path):
    root = rewritten(made, tmp_path, lambda i: nibabel.Nifti1Image(np.zeros(i.shape, np.int16), i.affine))
    row = rows_of(root, schema='2020').iloc[0]
    with pytest.raises(InputError, match='BraTS20_Training_001.*other than the background'):
        prepared.prepare(row, settings(root))


def test_a_real_case_is_prepared_and_put_back(shared_data):
    root = shared_data / 'brats2018/Brats18_2013_2_1'
    image, label, grid = prepared.prepare(rows_of(root).iloc[0], settings(root, orientation='LPS'))
    assert np.prod(label.shape) < 0.45 * 240 * 240 * 155
    back = prepared.put_back(masks(label), grid)
    assert back.shape == (240, 240, 155, 3) and tuple(back.sum((0, 1, 2))) == (4514, 34894, 21677)
    assert abs(float(image[image[..., 0] != 0].astype(np.float32).mean())) < 0.01
