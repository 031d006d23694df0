"""The Kaggle BraTS2020 slices: made-up ones, and real cases written in their layout by an independent script."""
import logging
import shutil
import subprocess
import sys

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest

from configs import brats
from unet_jax import experiment, phantom
from unet_jax.annotations import audit, brats_h5, labels, split
from unet_jax.annotations import frame as annotation_frame
from unet_jax.errors import InputError

DATA = 'BraTS2020_training_data/content/data'
CSV = 'BraTS20 Training Metadata.csv'


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    return phantom.write_brats_h5(tmp_path_factory.mktemp('h5') / 'set', volumes=5, shape=(10, 40, 36))


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / 'set')


@pytest.fixture(scope='module')
def real(shared_data, tmp_path_factory):
    out = tmp_path_factory.mktemp('real')
    subprocess.run([sys.executable, shared_data.parent / 'tools/make_brats_h5.py', out,
                    shared_data / 'brats2021-00006', '--volumes', '6'], check=True, capture_output=True)
    return out


def write(path, image=None, mask=None):
    with h5py.File(path, 'w') as f:
        if image is not None:
            f['image'] = image
        if mask is not None:
            f['mask'] = mask
    return path


def test_every_slice_and_class_present_has_a_row(made):
    frame = brats_h5.read_frame(made)
    table = pd.read_csv(made / CSV).set_index(['volume', 'slice'])
    assert len(frame.drop_duplicates('path')) == 50
    for (volume, index), counts in table[['label0_pxl_cnt', 'label1_pxl_cnt', 'label2_pxl_cnt']].iterrows():
        rows = frame[(frame.case == f'volume_{volume}') & (frame.slice == index)]
        assert rows.category_id.dropna().tolist() == [c for c, n in zip((1, 2, 4), counts) if n]
        assert len(rows) == max(1, (counts > 0).sum())
        for row in rows[rows.category_id.notna()].itertuples():
            k = {1: 0, 2: 1, 4: 2}[row.category_id]
            assert row.segmentation == {'file': row.path, 'channel': k, 'pixels': counts.iloc[k]}


def test_rows_name_file_size_patient_and_case(made):
    row = brats_h5.read_frame(made).query('case == "volume_2" and slice == 7').iloc[0]
    assert row.file_name == 'volume_2_slice_7.h5' and row.path == f'{DATA}/volume_2_slice_7.h5'
    assert (made / row.path).is_file()
    assert (row.height, row.width) == (36, 40) and row.group == 'BraTS20_Training_002'
    assert annotation_frame.categories(brats_h5.read_frame(made)) == {1: 'NCR/NET', 2: 'ED', 4: 'ET'}


def test_a_volume_is_never_in_two_subsets_and_the_seed_decides(made):
    frame = brats_h5.read_frame(made, split=(0.6, 0.2, 0.2), seed=3)
    assert frame.groupby('case').subset.nunique().eq(1).all()
    assert frame.groupby('subset').case.nunique().to_dict() == {'train': 3, 'valid': 1, 'test': 1}
    assert frame.equals(brats_h5.read_frame(made, split=(0.6, 0.2, 0.2), seed=3))


def test_the_split_is_stratified_by_tumour_volume(made, monkeypatch):
    seen, by_group = {}, split.by_group

    def spy(groups, shares, seed, strata):
        seen.update(strata)
        return by_group(groups, shares, seed, strata)
    monkeypatch.setattr(split, 'by_group', spy)
    brats_h5.read_frame(made)
    table = pd.read_csv(made / CSV)
    assert seen == table.groupby('volume')[['label0_pxl_cnt', 'label1_pxl_cnt', 'label2_pxl_cnt']].sum().sum(
        axis=1).to_dict()


@pytest.mark.parametrize('depth', [0, 1, 2, 3])
def test_the_set_is_found_below_the_root(made, copy, tmp_path, depth):
    root = tmp_path / 'outer'
    inner = root.joinpath(*'abc'[:depth])
    inner.mkdir(parents=True)
    (copy / CSV).rename(inner / CSV)
    (copy / DATA).rename(inner / 'data')
    assert len(brats_h5.read_frame(root)) == len(brats_h5.read_frame(made))


def test_without_a_csv_the_masks_say_which_classes_are_there(made, copy):
    expected = brats_h5.read_frame(made)
    (copy / CSV).unlink()
    assert brats_h5.read_frame(copy).equals(expected)
    folder = brats_h5.read_frame(copy / DATA)
    assert folder[['file_name', 'category_id', 'subset']].equals(expected[['file_name', 'category_id', 'subset']])


def test_order_of_csv_rows_does_not_matter(made, copy):
    pd.read_csv(copy / CSV).sample(frac=1, random_state=0).to_csv(copy / CSV, index=False)
    assert brats_h5.read_frame(copy).equals(brats_h5.read_frame(made))


def test_slices_missing_on_either_side_are_refused_with_their_number(copy):
    table = pd.read_csv(copy / CSV)
    table[table.slice != 4].to_csv(copy / CSV, index=False)
    with pytest.raises(InputError, match=r'Metadata.csv: 5 of 50 slices are missing.*volume_1_slice_4'):
        brats_h5.read_frame(copy)
    table.to_csv(copy / CSV, index=False)
    (copy / DATA / 'volume_3_slice_9.h5').unlink()
    with pytest.raises(InputError, match='1 of 50 slices are missing.*volume_3_slice_9'):
        brats_h5.read_frame(copy)
    (copy / CSV).unlink()
    (copy / DATA / 'volume_3_slice_2.h5').unlink()
    with pytest.raises(InputError, match='volume_3_slice_2'):
        brats_h5.read_frame(copy)


def test_a_csv_that_contradicts_the_masks_is_refused(copy):
    table = pd.read_csv(copy / CSV)
    table.rename(columns={'label0_pxl_cnt': 'label1_pxl_cnt', 'label1_pxl_cnt': 'label0_pxl_cnt'}).to_csv(
        copy / CSV, index=False)
    with pytest.raises(InputError, match='not of one set'):
        brats_h5.read_frame(copy)


@pytest.mark.parametrize(('edit', 'message'), [
    (lambda t: t.drop(columns='slice'), 'no column'),
    (lambda t: t.assign(label0_pxl_cnt='many'), '50 rows hold what is not a count'),
    (lambda t: t.assign(label0_pxl_cnt=-1), '50 rows hold what is not a count'),
    (lambda t: pd.concat([t, t[:2]]), '2 slices have more than one row'),
])
def test_a_broken_csv_is_refused(copy, edit, message):
    edit(pd.read_csv(copy / CSV)).to_csv(copy / CSV, index=False)
    with pytest.raises(InputError, match=message):
        brats_h5.read_frame(copy)


@pytest.mark.parametrize('name', [CSV, 'name_mapping.csv'])
@pytest.mark.parametrize(('data', 'message'), [
    (b'', 'cannot be read as CSV'), ('volume,M\xfcller\n1,2'.encode('latin-1'), 'cannot be read as CSV in UTF-8'),
    (b'a,b\n1,2\n', 'has no column'), (b'a,b\n1,2,3\n', 'more fields than'),
    (b'a\n1,2\n1,2,3,4\n"', 'cannot be read as CSV'), (b'\0\xff' * 99, None)])
def test_a_damaged_csv_is_refused_by_name(made, copy, name, data, message):
    (path,) = copy.rglob(name)
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        brats_h5.read_frame(copy)
    assert str(path) in str(error.value)


def test_numbers_of_slices_and_patients_that_cannot_be_are_no_burden(copy):
    table = pd.read_csv(copy / CSV)
    table.loc[3, 'slice'] = 10 ** 9
    table.to_csv(copy / CSV, index=False)
    with pytest.raises(InputError, match=f'{CSV}: slice 1000000000; volumes of up to 10000'):
        brats_h5.read_frame(copy)
    table.astype({'slice': str}).replace({'slice': {'1000000000': '1e300'}}).to_csv(copy / CSV, index=False)
    with pytest.raises(InputError, match='1 rows hold what is not a count'):
        brats_h5.read_frame(copy)


@pytest.mark.parametrize('csv', [True, False])
def test_a_volume_with_a_damaged_or_missing_slice_is_left_out_where_asked(copy, csv):
    (copy / DATA / 'volume_2_slice_0.h5').write_bytes(b'x')
    (copy / DATA / 'volume_4_slice_5.h5').unlink()
    if not csv:
        (copy / CSV).unlink()
    with pytest.raises(InputError, match='1 of 50 slices are missing'):
        brats_h5.read_frame(copy)
    for lenient in ({'on_error': 'skip'}, {'audit': True}):
        frame = brats_h5.read_frame(copy, **lenient)
        assert set(frame.case) == {'volume_1', 'volume_3', 'volume_5'}
        seen = frame.attrs['reader']
        assert seen['unreadable']['count'] == seen['missing']['count'] == 10
        assert 'volume_2_slice_0.h5: is damaged' in seen['unreadable']['first'][0]
        assert 'volume_4_slice_5: not in' in seen['missing']['first'][0]
        assert seen['missing']['policy'] == lenient.get('on_error', 'raise')
    for path in (copy / DATA).glob('*.h5'):
        path.write_bytes(b'x')
    with pytest.raises(InputError, match='no volume is whole; the first fault: .*volume_'):
        brats_h5.read_frame(copy, on_error='skip')


def test_a_sampled_slice_without_mask_or_of_odd_shape_is_refused_by_name_or_counted(made, copy):
    frame = brats_h5.read_frame(made)
    paths = frame.path[frame.category_id == 4].tolist()
    for path, damage in zip(paths, (lambda f: f.pop('mask'), lambda f: f.pop('image'))):
        with h5py.File(copy / path, 'r+') as f:
            damage(f)
        with pytest.raises(InputError, match='slice_.*no dataset'):
            brats_h5.check_channels(frame, copy, most=len(paths))
        assert min(brats_h5.check_channels(frame, copy, most=len(paths), audit=True).values()) > 0
    assert frame.attrs['reader']['damaged']['count'] == 2


def test_a_set_without_enhancing_tumour_has_its_classes_and_regions(copy):
    for path in (copy / DATA).glob('*.h5'):
        with h5py.File(path, 'r+') as f:
            f['mask'][..., 2] = 0
    table = pd.read_csv(copy / CSV)
    table.assign(label2_pxl_cnt=0).to_csv(copy / CSV, index=False)
    config = brats.get_config()
    config.data.root = str(copy)
    frame = experiment.read_frame(config)
    settled = experiment.settle(config, frame)
    assert settled.data.categories == (1, 2, 4) and settled.data.names == ('NCR/NET', 'ED', 'ET')
    assert experiment.create(settled).region_bits == (7, 5, 4)
    assert audit.audit(frame, copy, categories=(1, 2, 4))['foreground'] == [1, 2]
    config.data.categories = (1, 3)
    with pytest.raises(InputError, match=r'config.data.categories names \[3\]; slices have the labels'):
        experiment.settle(config, frame)


def test_an_empty_root_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(InputError, match='config.data.root'):
        brats_h5.read_frame(tmp_path / 'nothing')


def test_two_copies_of_a_slice_are_refused(copy):
    for twin in (copy / 'volume_1_slice_0.h5', copy / DATA / 'volume_01_slice_0.h5'):
        shutil.copy(copy / DATA / 'volume_1_slice_0.h5', twin)
        with pytest.raises(InputError, match='are both slice 0 of volume 1: keep one') as error:
            brats_h5.read_frame(copy)
        assert str(twin) in str(error.value)
        twin.unlink()


def test_a_slice_is_zero_outside_and_standardised_inside_the_brain(made):
    for path in sorted((made / DATA).glob('*.h5'))[::3]:
        image, mask = brats_h5.read_slice(path)
        assert image.shape == (36, 40, 4) and image.dtype == np.float32 and np.isfinite(image).all()
        assert mask.shape == (36, 40, 3) and mask.dtype == np.uint8
        brain = (image != 0).any(-1)
        if brain.any():
            assert not brain[0].any() and np.allclose(image[brain].mean(0), 0, atol=1e-5)
            assert np.allclose(image[brain].std(0), 1, atol=1e-5)


def test_the_files_z_score_is_undone_whatever_its_offset_and_scale(tmp_path):
    """By hand: brain values 1 and 3 around their mean 2 become -1 and 1, in every linear version of the slice."""
    raw = np.zeros((6, 6, 4))
    raw[2:4, 2:4] = np.array([[1, 3], [3, 1]])[..., None]
    for scale, offset in ((1, 0), (0.37, -0.81), (40, 1000)):
        image, mask = brats_h5.read_slice(write(tmp_path / 'a.h5', raw * scale + offset))
        assert mask is None and not image[0].any()
        assert np.allclose(image[2:4, 2:4, 0], [[-1, 1], [1, -1]], atol=1e-6)


def test_constant_channels_and_slices_are_zero_and_never_nan(tmp_path):
    assert not brats_h5.read_slice(write(tmp_path / 'a.h5', np.full((8, 8, 4), 0.3)))[0].any()
    image = np.zeros((8, 8, 4))
    image[1:6, 1:6, 0] = np.arange(25).reshape(5, 5) + 1
    image[1:6, 1:6, 1] = 0.1
    assert image[1:6, 1:6, :2].reshape(25, 2).mean(0)[1] != 0.1  # by rounding
    found, _ = brats_h5.read_slice(write(tmp_path / 'b.h5', image))
    assert np.isfinite(found).all() and found[..., 0].any() and not found[..., 1:].any()


def test_mask_bits_have_bit_k_where_channel_k_is_set():
    mask = np.zeros((2, 2, 3), np.uint8)
    mask[0, 1, 0] = mask[1, 0, 1] = mask[1, 1, 2] = 1
    bits = brats_h5.mask_bits(mask)
    assert bits.tolist() == [[0, 1], [2, 4]] and bits.dtype == np.uint8
    assert labels.to_ids(bits, brats_h5.CLASSES).tolist() == [[0, 1], [2, 4]]


GOOD = np.random.default_rng(0).normal(size=(6, 6, 4))
MASK = np.zeros((6, 6, 3), np.uint8)


@pytest.mark.parametrize(('image', 'mask', 'message'), [
    (None, MASK, "no dataset 'image'"),
    (GOOD[..., :3], MASK, r'shape \(6, 6, 3\); expected \(height, width, 4\)'),
    (GOOD[0], MASK, 'shape'),
    (GOOD, MASK[..., :2], 'shape'),
    (GOOD, MASK[:5], r'image is \(6, 6\), mask \(5, 6\)'),
    (GOOD, MASK + 1, 'overlap in 36 pixels'),
    (GOOD, MASK + 2, 'other than 0 and 1'),
    (np.where(GOOD > 2, np.nan, GOOD), MASK, 'not finite'),
    (np.full((6, 6, 4), b'x'), MASK, 'expected numbers'),
])
def test_what_is_no_slice_is_refused_by_name(tmp_path, image, mask, message):
    with pytest.raises(InputError, match=message) as error:
        brats_h5.read_slice(write(tmp_path / 'bad.h5', image, mask))
    assert 'bad.h5' in str(error.value)


def test_files_that_are_no_hdf5_or_damaged_are_refused(tmp_path, made):
    (tmp_path / 'a.h5').write_text('<html>')
    whole = (made / DATA / 'volume_1_slice_5.h5').read_bytes()
    (tmp_path / 'b.h5').write_bytes(whole[:len(whole) // 2])
    for name in ('a.h5', 'b.h5', 'absent.h5'):
        with pytest.raises(InputError, match=name):
            brats_h5.read_slice(tmp_path / name)


def test_data_outside_the_file_is_never_read(tmp_path):
    (tmp_path / 'secret').write_bytes(bytes(6 * 6 * 4 * 8))
    write(tmp_path / 'other.h5', GOOD)
    for kind in ('external', 'link', 'soft', 'virtual'):
        with h5py.File(tmp_path / f'{kind}.h5', 'w') as f:
            if kind == 'external':
                external = [(str(tmp_path / 'secret'), 0, h5py.h5f.UNLIMITED)]
                f.create_dataset('image', (6, 6, 4), 'f8', external=external)
            elif kind == 'link':
                f['image'] = h5py.ExternalLink(str(tmp_path / 'other.h5'), '/image')
            elif kind == 'soft':
                f['real'] = GOOD
                f['image'] = h5py.SoftLink('/real')
            else:
                layout = h5py.VirtualLayout((6, 6, 4), 'f8')
                layout[:] = h5py.VirtualSource(str(tmp_path / 'other.h5'), 'image', (6, 6, 4))
                f.create_virtual_dataset('image', layout)
        with pytest.raises(InputError, match='only data in the file itself'):
            brats_h5.read_slice(tmp_path / f'{kind}.h5')


def test_an_absurd_size_is_refused_before_it_is_read(tmp_path):
    with h5py.File(tmp_path / 'a.h5', 'w') as f:
        f.create_dataset('image', (10 ** 6, 10 ** 6, 4), 'f8', chunks=(64, 64, 4))
    with pytest.raises(InputError, match='shape'):
        brats_h5.read_slice(tmp_path / 'a.h5')


def test_channels_in_order_give_no_warning_and_t1ce_in_place_of_t1_does(made, copy, caplog):
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        assert min(brats_h5.check_channels(brats_h5.read_frame(made), made).values()) > 0
        assert not [r for r in caplog.records if 'expected' in r.message]
        for path in (copy / DATA).glob('*.h5'):
            with h5py.File(path, 'r+') as f:
                f['image'][...] = f['image'][()][..., [0, 2, 1, 3]]
        brats_h5.check_channels(brats_h5.read_frame(copy), copy)
    assert 'T1ce above itself in T1' in caplog.text


def test_a_real_slice_is_the_standardised_nifti_slice(real, shared_data):
    case = shared_data / 'brats2021-00006/BraTS2021_00006'
    raw = np.stack([np.asarray(nibabel.load(f'{case}_{m}.nii.gz').dataobj[..., 80], float)
                    for m in ('flair', 't1', 't1ce', 't2')], -1)
    seg = np.asarray(nibabel.load(f'{case}_seg.nii.gz').dataobj[..., 80])
    image, mask = brats_h5.read_slice(real / DATA / 'volume_6_slice_80.h5')
    brain = raw.any(-1)
    assert np.array_equal((image != 0).any(-1), brain)
    expected = (raw[brain] - raw[brain].mean(0)) / raw[brain].std(0)
    assert np.allclose(image[brain], expected, atol=1e-4)
    assert np.array_equal(labels.to_ids(brats_h5.mask_bits(mask), brats_h5.CLASSES), seg)


def test_a_slice_that_was_standardised_inside_the_brain_keeps_all_of_it(real, tmp_path):
    image, mask = brats_h5.read_slice(real / DATA / 'volume_6_slice_80.h5')
    with h5py.File(tmp_path / 'volume_6_slice_80.h5', 'w') as f:
        f['image'], f['mask'] = image.astype(np.float64), mask
    again, _ = brats_h5.read_slice(tmp_path / 'volume_6_slice_80.h5')
    assert np.array_equal((again != 0).any(-1), (image != 0).any(-1)) and np.allclose(again, image, atol=1e-5)


def test_real_slices_look_right_and_permuted_ones_do_not(real, caplog):
    frame = brats_h5.read_frame(real)
    assert len(frame.drop_duplicates('path')) == 155 and frame.group.unique().tolist() == ['BraTS20_Training_006']
    assert len(frame[frame.category_id == 4]) == (pd.read_csv(real / CSV).label2_pxl_cnt > 0).sum()
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        assert min(brats_h5.check_channels(frame, real).values()) > 0
        assert 'expected' not in caplog.text
        for path in frame.path[frame.category_id == 4].unique():
            with h5py.File(real / path, 'r+') as f:
                f['image'][...] = f['image'][()][..., [3, 0, 1, 2]]  # T2, FLAIR, T1, T1ce
        brats_h5.check_channels(frame, real)
    assert 'channels in the order t2, flair, t1, t1ce' in caplog.text
