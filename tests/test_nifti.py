"""BraTS releases in NIfTI: made-up cases of every year, damaged ones, and real ones."""
import gzip
import json
import logging
import shutil

import nibabel
import numpy as np
import pytest

from unet_jax import phantom
from unet_jax.annotations import contrasts, labels, nifti, nifti_file, schemas, split
from unet_jax.annotations import frame as annotation_frame
from unet_jax.annotations.brats_h5_file import standardise
from unet_jax.errors import InputError
from unet_jax.pipeline import prepared

SHAPE = (12, 44, 40)  # (D, H, W)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    base = tmp_path_factory.mktemp('nifti')
    return {year: phantom.write_nifti(base / year, cases=4, shape=SHAPE, year=year) for year in schemas.SCHEMAS}


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made['2021'], tmp_path / 'set')


CASE = 'BraTS2021_00001'
FLAIR, SEG = f'{CASE}/{CASE}_flair.nii.gz', f'{CASE}/{CASE}_seg.nii.gz'


def rewrite(path, change=lambda x: x, affine=None, dtype=None):
    image = nibabel.load(path)
    voxels = change(np.asarray(image.dataobj))
    nibabel.save(nibabel.Nifti1Image(voxels.astype(dtype or voxels.dtype), image.affine if affine is None else affine),
                 path)


def first(frame):
    return frame.iloc[0]


# What the releases' descriptions say, written down a second time.
LABELS = {
    '2018': {1: 'NCR/NET', 2: 'ED', 4: 'ET'}, '2019': {1: 'NCR/NET', 2: 'ED', 4: 'ET'},
    '2020': {1: 'NCR/NET', 2: 'ED', 4: 'ET'}, '2021': {1: 'NCR/NET', 2: 'ED', 4: 'ET'},
    '2023': {1: 'NCR', 2: 'ED', 3: 'ET'}, '2024-GLI': {1: 'NETC', 2: 'SNFH', 3: 'ET', 4: 'RC'},
    '2024-PED': {1: 'ET', 2: 'NET', 3: 'CC', 4: 'ED'}, 'MSD': {1: 'ED', 2: 'NCR', 3: 'ET'},
    'MEN': {1: 'NCR', 2: 'ED', 3: 'ET'}, 'SSA': {1: 'NCR', 2: 'ED', 3: 'ET'}, 'GoAT': {1: 'NCR', 2: 'ED', 3: 'ET'},
    'MET': {1: 'NETC', 2: 'SNFH', 3: 'ET', 4: 'RC'},
}
REGIONS = {
    '2018': ({1, 2, 4}, {1, 4}, {4}), '2019': ({1, 2, 4}, {1, 4}, {4}), '2020': ({1, 2, 4}, {1, 4}, {4}),
    '2021': ({1, 2, 4}, {1, 4}, {4}), '2023': ({1, 2, 3}, {1, 3}, {3}), '2024-GLI': ({1, 2, 3}, {1, 3}, {3}, {4}),
    '2024-PED': ({1, 2, 3, 4}, {1, 2, 3}, {1}), 'MSD': ({1, 2, 3}, {2, 3}, {3}),
    'MEN': ({1, 2, 3}, {1, 3}, {3}), 'SSA': ({1, 2, 3}, {1, 3}, {3}), 'GoAT': ({1, 2, 3}, {1, 3}, {3}),
    'MET': ({1, 2, 3}, {1, 3}, {3}, {4}),
}


@pytest.mark.parametrize('year', LABELS)
def test_labels_and_regions_are_those_of_the_release(year):
    assert schemas.schema(year).names == LABELS[year]
    assert tuple(set(region.classes) for region in schemas.regions(year)) == REGIONS[year]
    assert [region.name for region in schemas.regions(year)] == ['WT', 'TC', 'ET', 'RC'][:len(REGIONS[year])]
    painted = [LABELS[year][region.paint] for region in schemas.regions(year)]
    assert painted[0] in ('ED', 'SNFH') and painted[1] in ('NCR/NET', 'NCR', 'NETC', 'NET') and painted[2] == 'ET'
    assert schemas.value(year, 'ET') == schemas.regions(year)[2].paint and schemas.classes(year) == tuple(LABELS[year])


@pytest.mark.parametrize('year', [y for y in LABELS if y not in ('2024-GLI', 'MET')])
def test_regions_written_as_labels_give_the_regions_back(year):
    ids = np.array([0, *schemas.classes(year)])
    regions, classes = schemas.regions(year), schemas.classes(year)
    region_bits = labels.region_bits(regions, classes)
    masks = labels.region_masks(labels.from_ids(ids, classes), region_bits)
    assert np.array_equal(labels.region_masks(labels.paint(masks, regions, classes), region_bits), masks)


def test_an_unknown_release_is_refused_with_the_choices(made):
    with pytest.raises(InputError, match='2024-PED'):
        nifti.read_frame(made['2020'], schema='2017')


@pytest.mark.parametrize('year', LABELS)
def test_the_release_is_told_by_names_and_labels(made, year):
    frame = nifti.read_frame(made[year])
    assert set(frame.schema) == {year} and frame.case.nunique() == 4
    assert annotation_frame.categories(frame) == LABELS[year]
    for _, rows in frame.groupby('case'):
        label = np.asarray(nibabel.load(made[year] / first(rows).label).dataobj)
        assert rows.category_id.dropna().tolist() == sorted(set(np.unique(label)) - {0})
        assert (first(rows).height, first(rows).width, first(rows).depth) == label.shape == (40, 44, 12)
        rows = rows.dropna(subset='category_id')
        assert all(s == {'file': r, 'label': c, 'voxels': (label == c).sum()}
                   for s, r, c in zip(rows.segmentation, rows.label, rows.category_id))


@pytest.mark.parametrize('year', LABELS)
def test_a_case_is_read_with_channels_flair_t1_t1ce_t2(made, year):
    frame = nifti.read_frame(made[year])
    row = first(frame)
    image, label, affine, *_ = nifti.read_case(made[year], row)
    assert image.shape == (40, 44, 12, 4) and image.dtype == np.float32 and label.dtype == np.uint8
    if year == 'MSD':
        stored = np.asarray(nibabel.load(made[year] / row.path).dataobj)
    else:
        new = schemas.schema(year).suffixes['flair'] == 't2f'
        names = ('t2f', 't1n', 't1c', 't2w') if new else ('flair', 't1', 't1ce', 't2')
        folder = made[year] / row.path
        stored = np.stack([np.asarray(nibabel.load(next(folder.glob(f'*[_-]{n}.nii.gz'))).dataobj) for n in names], -1)
    assert np.array_equal(image, stored)
    assert np.allclose(affine, [[-1, 0, 0, 0], [0, -1, 0, 43], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert row.spacing == [1, 1, 1]
    assert min(nifti.check_intensities(frame, made[year]).values()) > 0


@pytest.mark.parametrize('year', ['2023', '2024-GLI', '2024-PED'])
def test_time_points_of_a_patient_stay_together(made, year):
    frame = nifti.read_frame(made[year])
    assert frame.group.nunique() == 3 and frame.groupby('group').subset.nunique().eq(1).all()
    assert {'-000', '-001'} <= set(frame.case.str[-4:])
    assert not frame.group.str.endswith('-000').any()


def test_time_points_of_other_challenges_stay_together(made, tmp_path):
    for path in made['2023'].rglob('*.nii.gz'):
        target = tmp_path / str(path.relative_to(made['2023'])).replace('GLI', 'MET')
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    found = nifti.read_frame(tmp_path, schema='2023')
    assert found.case.str.startswith('BraTS-MET-').all() and found.group.nunique() == 3


def test_the_decathlons_test_images_without_labels_are_no_training_cases(made, tmp_path):
    root = shutil.copytree(made['MSD'], tmp_path / 'set')
    (root / 'imagesTs').mkdir()
    shutil.copy(next((root / 'imagesTr').glob('BRATS*')), root / 'imagesTs' / 'BRATS_900.nii.gz')
    assert set(nifti.read_frame(root).case) == set(nifti.read_frame(made['MSD']).case)


def test_patients_of_2018_are_named_without_their_last_number(made):
    assert set(nifti.read_frame(made['2018']).group) == {f'Brats18_MADE_{k}' for k in range(1, 5)}


def test_splits_and_folds_are_stratified_by_tumour_volume(made, monkeypatch):
    seen = []

    def spied(original):
        def spy(*args, strata, **options):
            seen.append(strata.to_dict())
            return original(*args, strata=strata, **options)
        return spy
    monkeypatch.setattr(split, 'by_group', spied(split.by_group))
    monkeypatch.setattr(split, 'k_folds', spied(split.k_folds))
    frame = nifti.read_frame(made['2020'])
    volumes = {row.case: int((nifti.read_case(made['2020'], row).label > 0).sum())
               for row in frame.drop_duplicates('case').itertuples()}
    nifti.read_frame(made['2020'], folds=4, split=(1, 0, 0))
    assert seen == [volumes, volumes]


def test_folds_put_every_patient_into_valid_once(made):
    seen = []
    for fold in range(3):
        frame = nifti.read_frame(made['2020'], folds=3, fold=fold, split=(1, 0, 0)).drop_duplicates('case')
        assert set(frame.subset) == {'train', 'valid'}
        seen += frame.case[frame.subset == 'valid'].tolist()
    assert sorted(seen) == sorted(frame.case)
    held = nifti.read_frame(made['2020'], folds=2, fold=0, split=(0.5, 0.25, 0.25)).drop_duplicates('case')
    assert held.subset.value_counts().to_dict() == {'train': 1, 'valid': 2, 'test': 1} or \
        held.subset.value_counts().to_dict() == {'train': 2, 'valid': 1, 'test': 1}
    with pytest.raises(InputError, match='config.data.fold is 3 of config.data.folds = 3'):
        nifti.read_frame(made['2020'], folds=3, fold=3)


def test_one_case_folder_is_a_set_of_one_case(made):
    frame = nifti.read_frame(made['2021'] / CASE, split=(0, 0, 1))
    assert set(frame.case) == {CASE} and set(frame.path) == {'.'} and set(frame.subset) == {'test'}
    assert nifti.read_case(made['2021'] / CASE, first(frame)).label.any()


def test_a_case_without_tumour_keeps_an_empty_row(copy):
    rewrite(copy / SEG, np.zeros_like)
    rows = nifti.read_frame(copy).query('case == @CASE')
    assert len(rows) == 1 and rows.category_id.isna().all() and rows.segmentation.isna().all()
    assert not nifti.read_case(copy, first(rows)).label.any()


def test_uncompressed_files_read_the_same(made, copy):
    for path in copy.rglob('*.nii.gz'):
        path.with_suffix('').write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    a, b = nifti.read_frame(copy), nifti.read_frame(made['2021'])
    assert a.drop(columns=['modalities', 'label', 'segmentation']).equals(
        b.drop(columns=['modalities', 'label', 'segmentation']))
    assert np.array_equal(nifti.read_case(copy, first(a)).image, nifti.read_case(made['2021'], first(b)).image)


def test_case_355s_oddly_named_label_is_found(made, tmp_path):
    root = shutil.copytree(made['2020'], tmp_path / 'set')
    case = root / 'BraTS20_Training_001'
    (case / 'BraTS20_Training_001_seg.nii.gz').rename(case / 'W39_1998.09.19_Segm.nii.gz')
    assert nifti.read_frame(root).label.str.contains('W39_1998').any()


def test_a_macs_notes_are_skipped_without_a_word(copy, caplog):
    (copy / CASE / f'._{CASE}_flair.nii.gz').write_bytes(b'Mac OS X')
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        assert nifti.read_frame(copy).case.nunique() == 4
    assert 'left out' not in caplog.text


def test_files_of_no_case_are_reported(copy, caplog):
    shutil.copy(copy / FLAIR, copy / 'atlas.nii.gz')
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        assert nifti.read_frame(copy).case.nunique() == 4
    assert '1 NIfTI files belong to no case' in caplog.text and 'atlas' in caplog.text


def test_two_releases_in_one_folder_are_refused(made, copy):
    shutil.copytree(made['2023'], copy / 'more')
    with pytest.raises(InputError, match='several releases'):
        nifti.read_frame(copy)
    assert nifti.read_frame(copy, schema='2021').case.nunique() == 4


def test_names_of_no_release_are_told_by_labels_1_2_4_only(made, copy):
    def rename(root):
        for path in root.rglob('*.nii.gz'):
            path.rename(path.with_name(path.name.replace('BraTS2021_', 'P').replace('BraTS-GLI-', 'P')))
    rename(copy)
    assert set(nifti.read_frame(copy).schema) == {'2021'}
    other = shutil.copytree(made['2024-GLI'], copy.parent / 'other')
    rename(other)
    with pytest.raises(InputError, match=r'\[1, 2, 3, 4\] do not tell the release.*2024-GLI .*2024-PED') as error:
        nifti.read_frame(other)
    assert '2023' not in str(error.value) and '2021' not in str(error.value)  # which have no such labels
    assert set(nifti.read_frame(other, schema='2024-GLI').schema) == {'2024-GLI'}


OLD, NEW = ('flair', 't1', 't1ce', 't2', 'seg'), ('t2f', 't1n', 't1c', 't2w', 'seg')


@pytest.mark.parametrize('folder, pattern, words, year', [
    ('case{}', '{word}', NEW, '2023'), ('case{}', '{word}', OLD, '2021'),
    ('BraTS-GLI-0000{}-000', '{word}', NEW, '2023'),
    ('UPENN-GBM-0000{}_11', '{folder}_{word}', ('FLAIR', 'T1', 'T1GD', 'T2', 'segm'), '2021'),
    ('UCSF-PDGM-000{}', '{folder}_{word}', ('FLAIR', 'T1', 'T1c', 'T2', 'tumor_segmentation'), '2021'),
    ('TCGA-02-000{}', '{folder}_2001.01.01_{word}', ('flair', 't1', 't1Gd', 't2', 'GlistrBoost'), '2021'),
    ('x{}', '{folder}.{word}', NEW, '2023')])
def test_cases_of_any_name_are_found_by_their_endings(made, tmp_path, folder, pattern, words, year):
    for k, case in enumerate(sorted(path for path in made[year].iterdir() if path.is_dir())):
        own = NEW if year == '2023' else OLD
        for word, there in zip(words, own):
            target = tmp_path / folder.format(k) / f'{pattern.format(folder=folder.format(k), word=word)}.nii.gz'
            target.parent.mkdir(exist_ok=True)
            shutil.copy(next(case.glob(f'*[_-]{there}.nii.gz')), target)
    frame = nifti.read_frame(tmp_path, schema=year if year == '2023' else 'auto')
    assert frame.case.nunique() == 4 and set(frame.schema) == {year}
    assert annotation_frame.categories(frame) == LABELS[year]
    assert min(nifti.check_intensities(frame, tmp_path).values()) > 0
    assert nifti.find_cases(tmp_path, year).case.nunique() == 4


def test_a_schema_that_is_named_gives_labels_their_meaning_whatever_files_are_called(copy):
    for path in copy.rglob('*seg.nii.gz'):  # 3 for 4, as many notebooks save it
        rewrite(path, lambda x: np.where(x == 4, 3, x))
    with pytest.raises(InputError, match=r'label values \[3\]; .*2023 \(1 NCR, .*3 was written for 4.* 2023') as error:
        nifti.read_frame(copy)
    choices = [name for name in schemas.SCHEMAS if f'schema={name} (' in str(error.value)]
    assert choices == ['2023', '2024-GLI', '2024-PED', 'MSD']
    for name in choices:  # every one of them can be chosen
        assert set(nifti.read_frame(copy, schema=name).schema) == {name}
    frame = nifti.read_frame(copy, schema='2023')
    assert annotation_frame.categories(frame) == LABELS['2023']
    assert min(nifti.check_intensities(frame, copy).values()) > 0
    with pytest.raises(InputError, match=r'label values \[3, 9\].*No release has the labels'):
        rewrite(copy / SEG, lambda x: np.where(x == 2, 9, x))
        nifti.read_frame(copy)


def test_names_that_are_not_known_are_told_which_are_and_what_was_found(made, tmp_path):
    for k, case in enumerate(sorted(path for path in made['2021'].iterdir() if path.is_dir())):
        for c, word in enumerate(OLD):
            target = tmp_path / (f'labelsTr/CASE_{k}.nii.gz' if word == 'seg' else f'imagesTr/CASE_{k}_000{c}.nii.gz')
            target.parent.mkdir(exist_ok=True)
            shutil.copy(next(case.glob(f'*_{word}.nii.gz')), target)
    with pytest.raises(InputError) as error:
        nifti.read_frame(tmp_path)
    first, *listed = str(error.value).splitlines()
    for part in ('no case with a label among 20 NIfTI files', '0000 (4), 0001 (4), 0002 (4), 0003 (4)', 't1gd', '-t2f',
                 "nnU-Net's", 'dataset.json'):
        assert part in first
    assert 'CASE_0_0000.nii.gz: shape (40, 44, 12)' in listed[0]


def test_a_trailing_axis_of_one_is_none(copy, made):
    for path in copy.rglob('*.nii.gz'):
        rewrite(path, lambda x: x[..., None])
    frame = nifti.read_frame(copy)
    assert frame.equals(nifti.read_frame(made['2021']))
    for case, other in zip(nifti.read_case(copy, first(frame)), nifti.read_case(made['2021'], first(frame))):
        assert isinstance(case, nibabel.Nifti1Header) or np.array_equal(case, other)


def test_paediatric_names_without_label_4_are_refused(made, tmp_path):
    root = shutil.copytree(made['2024-PED'], tmp_path / 'set')
    for path in root.rglob('*seg.nii.gz'):
        rewrite(path, lambda x: np.where(x == 4, 2, x))
    with pytest.raises(InputError, match=r'they mean: \S+=2023 \(1 NCR, .*; \S+=2024-PED \(1 ET, [^;]*$'):
        nifti.read_frame(root)
    frame = nifti.read_frame(root, schema='2023')
    assert set(frame.schema) == {'2023'} and frame.group.nunique() == 3


def test_the_wrong_release_is_noticed_by_its_labels(made):
    with pytest.raises(InputError, match=r'label values \[4\]; release 2023'):
        nifti.read_frame(made['2024-GLI'], schema='2023')


@pytest.mark.parametrize('lost', ['flair', 'seg'])
def test_an_incomplete_case_is_refused_by_name(copy, lost):
    (copy / CASE / f'{CASE}_{lost}.nii.gz').unlink()
    with pytest.raises(InputError, match=f'case {CASE} lacks .*{lost}'):
        nifti.read_frame(copy)


def test_a_missing_modality_is_a_channel_of_zeros_where_allowed(copy):
    (copy / CASE / f'{CASE}_t1ce.nii.gz').unlink()
    row = first(nifti.read_frame(copy, missing_modalities=True).query('case == @CASE'))
    assert list(row.modalities) == ['flair', 't1', 't1ce', 't2'] and row.modalities['t1ce'] is None
    image = nifti.read_case(copy, row).image
    assert not image[..., 2].any() and image[..., 3].any()


def test_fewer_modalities_can_be_chosen_in_any_order(made):
    row = first(nifti.read_frame(made['2021'], modalities=('t2', 'flair')))
    whole = nifti.read_case(made['2021'], first(nifti.read_frame(made['2021']))).image
    assert np.array_equal(nifti.read_case(made['2021'], row).image, whole[..., [3, 0]])


@pytest.mark.parametrize('change', ['shape', 'affine'])
def test_unlike_grids_are_refused_naming_every_file(copy, change):
    if change == 'shape':
        rewrite(copy / FLAIR, lambda x: x[:-2])
    else:
        rewrite(copy / FLAIR, affine=np.diag([-1, -1, 2, 1.0]))
    with pytest.raises(InputError, match='do not lie on one grid') as error:
        nifti.read_frame(copy)
    for name in ('flair', 't1', 't1ce', 't2', 'seg'):
        assert f'{CASE}_{name}.nii.gz: shape' in str(error.value)
    assert ('(38, 44, 12)' if change == 'shape' else '[0.0, 0.0, 2.0, 0.0]') in str(error.value)


def test_a_web_page_in_place_of_an_image_is_named(copy):
    (copy / FLAIR).write_text('<!DOCTYPE html><html>please log in</html>')
    with pytest.raises(InputError, match='flair.nii.gz: is a web page'):
        nifti.read_frame(copy)


@pytest.mark.parametrize('packed', [True, False])
@pytest.mark.parametrize('side, why', [(30000, 'at most 67108864 are read'), (400, 'cannot hold')])
def test_a_tiny_file_that_claims_terabytes_is_refused_unread(copy, packed, side, why):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float64)
    header['dim'][:4] = 3, side, side, side
    header['vox_offset'], header['magic'] = 352, b'n+1'
    (copy / FLAIR).unlink()
    path = copy / FLAIR if packed else (copy / FLAIR).with_suffix('')
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4)) if packed else header.binaryblock + bytes(4))
    with pytest.raises(InputError, match=f'flair.nii.*{why}'):
        nifti.read_frame(copy)


def test_a_flipped_bit_of_the_gzip_stream_is_noticed_wherever_it_changes_the_data(copy):
    row, path = first(nifti.read_frame(copy)), copy / FLAIR
    whole, clean = path.read_bytes(), nifti.read_case(copy, row).image
    rng, noticed = np.random.default_rng(0), 0
    for position in rng.integers(10, len(whole), 25):  # the stream's own header holds a file name, which may change
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert np.array_equal(nifti.read_case(copy, row).image, clean)
        except InputError as error:
            assert 'flair.nii.gz' in str(error)
            noticed += 1
    assert noticed > 20


def test_a_cut_or_overlong_file_is_refused(copy):
    row, path = first(nifti.read_frame(copy)), copy / FLAIR
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) * 2 // 3])
    with pytest.raises(InputError, match='damaged'):
        nifti.read_case(copy, row)
    path.write_bytes(gzip.compress(gzip.decompress(whole) + bytes(3 << 20)))
    with pytest.raises(InputError, match='more data'):
        nifti.read_case(copy, row)


def test_scaled_labels_are_rounded_and_interpolated_ones_refused(copy):
    expected = np.asarray(nibabel.load(copy / SEG).dataobj)
    rewrite(copy / SEG, lambda x: x + np.where(x == 2, -0.016, 0.004), dtype=np.float32)
    assert np.array_equal(nifti.read_case(copy, first(nifti.read_frame(copy))).label, expected)
    rewrite(copy / SEG, lambda x: np.where(np.rint(x) == 2, 2.4, x), dtype=np.float32)
    with pytest.raises(InputError, match='seg.nii.gz.*no whole numbers, such as 2.4'):
        nifti.read_frame(copy)


@pytest.mark.parametrize(('value', 'message'), [(7, r'label values \[7\]'), (-1, 'no label file'),
                                                (300, 'no label file')])
def test_labels_outside_the_release_are_refused(copy, value, message):
    rewrite(copy / SEG, lambda x: np.where(x == 2, value, x.astype(np.int16)))
    with pytest.raises(InputError, match=message):
        nifti.read_frame(copy)


def test_outside_the_brain_is_zero_whatever_the_release_holds_there(copy):
    row = first(nifti.read_frame(copy))
    clean = nifti.read_case(copy, row).image
    assert np.array_equal(clean, nifti.read_case(copy, row).image) and not clean[0].any()
    outside = ~clean.any(-1)
    for name, level in zip(('flair', 't1', 't1ce', 't2'), (-32768, -5, -32768, -1)):
        rewrite(copy / CASE / f'{CASE}_{name}.nii.gz', lambda x, v=level: np.where(outside, v, x))
    assert np.array_equal(nifti.read_case(copy, row).image, clean)


def test_a_background_below_zero_is_outside_and_negative_values_above_it_are_brain(copy):
    row = first(nifti.read_frame(copy))
    clean = nifti.read_case(copy, row).image
    for name in ('flair', 't1', 't1ce', 't2'):
        rewrite(copy / CASE / f'{CASE}_{name}.nii.gz', lambda x: x - 2000)
    image = nifti.read_case(copy, row).image
    assert image.max() == 0 and np.array_equal(image, np.where(clean.any(-1, keepdims=True), clean - 2000, 0))


def test_a_volume_that_was_standardised_inside_the_brain_keeps_all_of_it(copy, caplog):
    row = first(nifti.read_frame(copy))
    raw = nifti.read_case(copy, row)
    settings = prepared.Settings(str(copy), (8, 8, 8), 4, (1, 2, 4), (), '')
    before = prepared.prepare(prepared.rows(nifti.read_frame(copy)).iloc[0], settings)
    for name in ('flair', 't1', 't1ce', 't2'):  # as many notebooks save them
        rewrite(copy / CASE / f'{CASE}_{name}.nii.gz',
                lambda x: np.where(raw.brain, (x - x[raw.brain].mean()) / x[raw.brain].std(), 0), dtype=np.float32)
    case = nifti.read_case(copy, row)
    assert (case.image < 0).any(-1).sum() > raw.brain.sum() / 2 and np.array_equal(case.brain, raw.brain)
    after = prepared.prepare(prepared.rows(nifti.read_frame(copy)).iloc[0], settings)
    assert after[2] == before[2] and np.allclose(after[0], before[0], atol=2e-3)
    rewrite(copy / FLAIR, lambda x: np.where(raw.brain, 0, -7), dtype=np.float32)  # 0 is brain here
    flair = first(nifti.read_frame(copy, modalities=('flair',)))
    assert np.array_equal(nifti.read_case(copy, flair).brain, raw.brain) and 'border' not in caplog.text


def test_a_volume_without_a_background_is_all_brain_and_said_to_be(copy, caplog):
    noise = np.random.default_rng(0)
    rewrite(copy / FLAIR, lambda x: x + noise.uniform(0, 9, x.shape), dtype=np.float32)
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        assert nifti.read_case(copy, first(nifti.read_frame(copy))).brain.all()
    assert 'flair.nii.gz: no one number makes up a quarter of its border' in caplog.text


def test_a_real_volume_standardised_inside_the_brain_has_the_raw_ones_brain(shared_data, tmp_path):
    source = shared_data / 'brats2021-00006'
    raw = nifti.read_case(source, first(nifti.read_frame(source, split=(0, 0, 1))))
    for path in source.glob('*.nii.gz'):
        image = nibabel.load(path)
        voxels = np.asarray(image.dataobj)[::2, ::2, ::2].astype(np.float32)
        inside = voxels != 0
        if 'seg' not in path.name:
            voxels[inside] = (voxels[inside] - voxels[inside].mean()) / voxels[inside].std()
        nibabel.save(nibabel.Nifti1Image(voxels, image.affine), tmp_path / path.name.removesuffix('.gz'))
    case = nifti.read_case(tmp_path, first(nifti.read_frame(tmp_path, split=(0, 0, 1))))
    assert np.array_equal(case.brain, raw.brain[::2, ::2, ::2]) and 180_000 < case.brain.sum() < 200_000


def test_negative_values_inside_the_brain_are_kept_but_not_the_mark_for_outside(copy):
    row = first(nifti.read_frame(copy))
    brain = nifti.read_case(copy, row).image.any(-1)
    spot = tuple(np.argwhere(brain)[100])

    for stored, expected in ((-3, -3), (-32768, 0)):
        def dip(x, value=stored):
            x[spot] = value
            return x
        rewrite(copy / FLAIR, dip)
        assert nifti.read_case(copy, row).image[(*spot, 0)] == expected


def test_intensities_that_are_not_finite_are_refused(copy):
    row = first(nifti.read_frame(copy))
    rewrite(copy / FLAIR, lambda x: np.where(x > 100, np.nan, x), dtype=np.float32)
    with pytest.raises(InputError, match='flair.nii.gz: .* not finite'):
        nifti.read_case(copy, row)


def test_t1_and_t1ce_exchanged_give_a_warning(copy, caplog):
    for case in copy.glob('BraTS*'):
        a, b, t = case / f'{case.name}_t1.nii.gz', case / f'{case.name}_t1ce.nii.gz', case / 'x'
        a.rename(t), b.rename(a), t.rename(b)
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        nifti.check_intensities(nifti.read_frame(copy), copy)
    assert 'T1ce above itself in T1' in caplog.text
    assert 'for flair, t1, t1ce, t2' in caplog.text and 'in the order flair, t1ce, t1, t2' in caplog.text


@pytest.mark.parametrize('year, wrong', [('MSD', '2023'), ('2023', 'MSD'), ('2023', '2024-PED')])
def test_labels_taken_for_those_of_another_release_give_a_warning_that_names_it(made, caplog, year, wrong):
    frame = nifti.read_frame(made[year])
    modalities = tuple(frame.modalities.iloc[0])
    cases = [nifti.read_case(made[year], row) for row in frame.drop_duplicates('case').itertuples()]
    measured = [contrasts.means(standardise(c.image, (c.image != 0).any(-1)), c.label) for c in cases]
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        assert min(contrasts.check_contrasts(measured, year, modalities, 'right').values()) > 0 and not caplog.text
        contrasts.check_contrasts(measured, wrong, modalities, 'folder')
    assert 'folder: expected ' in caplog.text and f'those of release {wrong}' in caplog.text
    assert f'config.data.schema = {year}' in caplog.text


def test_contrasts_are_medians_of_differences_of_means():
    """By hand: healthy brain 0, oedema 1, enhancing tumour 2 in T1ce; FLAIR is not there."""
    image, label = np.zeros((4, 2)), np.array([0, 0, 2, 4])
    image[1:] = [[-0.5, 0.25], [1, 0.5], [2, 1]]
    found = contrasts.measure([contrasts.means(image, label)] * 3, '2021', ('t1ce', 't1'))
    assert found == {'enhancing tumour above healthy brain in T1ce': 2.5, 'enhancing tumour above oedema in T1ce': 1,
                     'enhancing tumour in T1ce above itself in T1': 1}


def test_cases_that_are_damaged_or_incomplete_are_left_out_where_asked(copy):
    files = sorted(copy.rglob('*_seg.nii.gz'))
    files[0].write_bytes(files[0].read_bytes()[:-9])
    files[1].unlink()
    with pytest.raises(InputError, match='lacks the label'):
        nifti.read_frame(copy)
    for lenient in ({'on_error': 'skip'}, {'audit': True}):
        frame = nifti.read_frame(copy, **lenient)
        assert frame.case.nunique() == 2
        seen = frame.attrs['reader']
        assert seen['unreadable']['count'] == seen['missing']['count'] == 1
        assert str(files[0]) in seen['unreadable']['first'][0] and 'lacks the label' in seen['missing']['first'][0]
    image = next(path for path in files[2].parent.iterdir() if 't1ce' in path.name)
    image.write_bytes(image.read_bytes()[:-9])
    with pytest.raises(InputError, match=image.name):
        nifti.check_intensities(frame, copy)
    nifti.check_intensities(frame, copy, audit=True)
    assert frame.attrs['reader']['damaged']['count'] == 1
    files[2].unlink(), files[3].write_bytes(b'x')
    with pytest.raises(InputError, match='no case can be read'):
        nifti.read_frame(copy, on_error='skip')


def test_one_modality_in_two_files_is_refused(copy):
    path = next(copy.rglob('*_t1ce.nii.gz'))
    path.with_suffix('').write_bytes(gzip.decompress(path.read_bytes()))
    with pytest.raises(InputError, match=f'{path.with_suffix("").name} and .*{path.name} are both t1ce of'):
        nifti.read_frame(copy)


def test_a_split_is_written_and_read_back(made, tmp_path):
    frame = nifti.read_frame(made['2023'], seed=1)
    split.write_splits(frame, tmp_path / 'split.json')
    other = nifti.read_frame(made['2023'], seed=2, split=(1, 0, 0))
    assert split.read_splits(other, tmp_path / 'split.json').equals(frame)
    assert [path.name for path in tmp_path.iterdir()] == ['split.json']


def test_a_split_that_tears_patients_or_loses_cases_is_refused(made, tmp_path):
    frame, path = nifti.read_frame(made['2023']), tmp_path / 'split.json'
    cases = sorted(set(frame.case))
    for subsets, message in (({'train': cases[:3], 'valid': cases[3:], 'test': []}, 'more than one subset'),
                             ({'train': cases[1:], 'valid': [], 'test': []}, '1 of the data are not named'),
                             ({'train': cases, 'valid': cases[:1], 'test': []}, '1 cases are named twice'),
                             ({'train': cases}, 'is no split'), ('x', 'is no split')):
        path.write_text(json.dumps(subsets))
        with pytest.raises(InputError, match=message):
            split.read_splits(frame, path)


def test_an_empty_root_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(InputError, match='config.data.root'):
        nifti.read_frame(tmp_path)


def test_the_frame_survives_being_saved(made, tmp_path):
    frame = nifti.read_frame(made['MSD'])
    annotation_frame.save(frame, tmp_path)
    again = annotation_frame.load(tmp_path / 'annotations.parquet')
    assert again.equals(frame) and list(first(again).modalities) == ['flair', 't1', 't1ce', 't2']


def test_real_cases_of_2018_and_2021(shared_data):
    for folder, year, voxels in (('brats2021-00006', '2021', {1: 25506, 2: 85957, 4: 26448}),
                                 ('brats2018', '2018', {1: 4514, 2: 34894, 4: 21677})):
        frame = nifti.read_frame(shared_data / folder, split=(0, 0, 1))
        assert set(frame.schema) == {year} and frame.category_id.tolist() == [1, 2, 4]
        label, header = nifti_file.read_label(shared_data / folder / first(frame).label)
        assert header.shape == (240, 240, 155) and {v: (label == v).sum() for v in (1, 2, 4)} == voxels
        assert min(nifti.check_intensities(frame, shared_data / folder).values()) > 0


def test_a_real_label_stored_scaled_is_rounded(shared_data):
    root = shared_data / 'nifti-oddities/scaled-label'
    frame = nifti.read_frame(root, modalities=('flair',), split=(1, 0, 0))
    image, label, *_ = nifti.read_case(root, first(frame))
    stored = nibabel.load(root / 'BraTS20_Training_010_seg.nii.gz').get_fdata()
    assert image.shape == (224, 224, 1, 1) and np.array_equal(label[..., 0], np.rint(stored))
    assert set(np.unique(label)) == {0, 1, 2, 4}


def test_real_sequences_before_registration_are_refused_by_name(shared_data, tmp_path):
    files = sorted((shared_data / 'nifti-oddities/native-shapes').glob('*.nii.gz'))
    with pytest.raises(InputError) as error:
        nifti.read_frame(files[0].parent)
    assert all(path.name in str(error.value) for path in files) and '(256, 224, 26)' in str(error.value)
    for path, name in zip(files, ('flair', 't1ce', 't2', 't1')):
        shutil.copy(path, tmp_path / f'BraTS2021_00001_{name}.nii.gz')
    shutil.copy(files[0], tmp_path / 'BraTS2021_00001_seg.nii.gz')
    with pytest.raises(InputError, match='do not lie on one grid') as error:
        nifti.read_frame(tmp_path)
    assert str(error.value).count('affine') == 5 and '(208, 256, 26)' in str(error.value)


def test_a_real_web_page_named_nii_gz_is_refused(shared_data):
    with pytest.raises(InputError, match='BRATS_001_is_html.nii.gz: is a web page'):
        nifti_file.read_header(shared_data / 'coco-formats/BRATS_001_is_html.nii.gz')
    with pytest.raises(InputError, match='is a web page'):
        nifti.read_frame(shared_data / 'coco-formats')


@pytest.mark.parametrize('year', ['2018', '2023', 'MSD'])
def test_cases_without_labels_are_found_and_read_for_prediction(made, tmp_path, year):
    root = shutil.copytree(made[year], tmp_path / 'set')
    frame = nifti.read_frame(root).drop_duplicates('case').set_index('case')
    for path in [*root.rglob('*seg.nii.gz'), *root.glob('labelsTr/*')]:
        path.unlink()
    rows = nifti.find_cases(root, year)
    assert sorted(rows.case) == sorted(frame.index) and rows.label.isna().all()
    row = rows.iloc[0]
    known = frame.loc[row.case]
    assert (row.height, row.width, row.depth, row.spacing) == (known.height, known.width, known.depth, known.spacing)
    image, label, *_ = nifti.read_case(root, row)
    assert label is None and np.array_equal(image, nifti.read_case(made[year], known)[0])


def test_cases_of_another_release_are_predicted_in_the_numbers_of_the_trained_one(made):
    rows = nifti.find_cases(made['2023'], '2021')
    assert set(rows.schema) == {'2021'} and set(rows.iloc[0].modalities) == {'flair', 't1', 't1ce', 't2'}


def test_a_case_to_predict_that_lacks_a_modality_is_refused_unless_that_is_allowed(copy):
    (copy / FLAIR).unlink()
    rows = nifti.find_cases(copy, '2021')
    assert CASE not in set(rows.case) and len(rows) == 3 and 'lacks flair; download' in rows.attrs['problems'][0]
    assert nifti.find_cases(copy, '2021', missing_modalities=True).set_index('case').modalities[CASE]['flair'] is None
