"""Folders as they lie: recognised with no flag but the root, prepared, batched; and what cannot be told is refused."""
import functools
import json
import re
import shutil

import made_sets
import nibabel
import numpy as np
import pandas as pd
import pytest
from faster_coco_eval import mask as coco_mask
from test_main import run

from configs import default
from unet_jax import experiment, phantom
from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.formats import recognise
from unet_jax.modes import annotate, kinds
from unet_jax.pipeline import stream


def config_of(root, **data):
    config = default.get_config()
    with config.unlocked():
        config.data.update({'format': 'auto', 'root': str(root), 'size': (16, 16), **data})
    return config


def opened(root, **data):
    """(experiment, frame) of a folder of which only the root is known."""
    config = recognise.resolve(config_of(root, **data), lambda text: None)
    frame = experiment.read_frame(config)
    return experiment.create(experiment.settle(config, frame)), frame


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """{name: root}, each written when it is first asked for."""
    roots = {}

    def get(name):
        if name not in roots:
            roots[name] = made_sets.SETS[name][0](tmp_path_factory.mktemp('set'))
        return roots[name]

    return get


@pytest.mark.parametrize('name', made_sets.SETS)
def test_a_folder_is_recognised_and_gives_a_batch(made, tmp_path, monkeypatch, name):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    _, form, names, channels = made_sets.SETS[name]
    one, frame = opened(made(name))
    data = one.config.data
    assert (data.format, tuple(data.names), data.channels) == (form, names, channels)
    assert one.settings.size == (16,) * (3 if one.format.volumetric else 2)
    kind = kinds.kind_of(one)
    rows = kind.rows(one, frame)
    train = rows[rows.subset == 'train'].reset_index(drop=True)
    samples = kind.training_samples(one, train=train, valid=train)['train']
    batch = stream.batch(samples, seed=0, step=0, batch_size=2)
    assert batch['image'].shape == (2, *batch['image'].shape[1:-1], channels) and np.isfinite(batch['image']).all()
    seen = {c for found in train.annotations for c, _ in found}
    assert seen <= {*one.classes} and (name == 'MEN-RT' or seen)
    rows, problems = one.format.find([data.root], data)
    assert len(rows) >= (one.format.volumetric and frame.case.nunique()) and not problems
    assert experiment.settle(one.config, frame) == one.config  # settled: reading it again changes nothing


def test_a_config_that_names_its_format_is_left_as_it_is(made):
    config = config_of(made('thick slices'), format='coco')
    assert recognise.resolve(config, pytest.fail) is config
    found = recognise.resolve(config_of(made('thick slices')), lambda text: None)
    assert recognise.resolve(found, pytest.fail) is found


def test_the_command_line_tells_it_first_and_saves_a_config_that_names_all(made, tmp_path):
    root = made('pairs of colours')
    done = run('--config=configs/default.py', '--config.data.format=auto', f'--config.data.root={root}',
               '--mode=annotate', f'--workdir={tmp_path / "w"}', cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f'{root}: taken for pairs\n  12 images with masks, such as x0.jpg with x0_mask.png\n' in done.stdout
    assert f'--config.data.format=pairs --config.data.root={root} --config.data.channels=3' in done.stdout
    assert len(pd.read_csv(tmp_path / 'w/annotations.csv')) == 24


def test_what_a_folder_was_taken_for_is_told_with_the_reason_and_the_flags(made):
    told = []
    recognise.resolve(config_of(made('seven sequences')), told.append)
    for part in ('taken for volumes', 'NIfTI of 3 cases', 'cbv', '{case}/lesion.nii.gz', '3 files, such as case0/',
                 "--config.data.files=\"(('flair','{case}/flair.nii.gz')"):
        assert part in told[0]


def test_subsets_and_patients_are_those_that_the_folder_names(made):
    frame = opened(made('nnU-Net regions'))[1]
    subset = frame.drop_duplicates('case').set_index('case').subset.to_dict()
    assert subset == {'glioma_000': 'valid', 'glioma_004': 'test'} | {f'glioma_00{k}': 'train' for k in (1, 2, 3)}
    subset = opened(made('nnU-Net regions'), folds=2, fold=1)[1].drop_duplicates('case').set_index('case').subset
    assert subset['glioma_003'] == 'valid' and subset['glioma_000'] == 'train'
    frame = opened(made('table, CSV'))[1]
    assert dict(zip(frame.group, frame.subset)) == {'P0': 'train', 'P1': 'train', 'P2': 'valid', 'P3': 'test'}
    assert 4 not in set(frame[frame.subset == 'test'].category_id)
    assert set(opened(made('UPENN-GBM'))[1].group) == {'UPENN-GBM-00001', 'UPENN-GBM-00002'}
    assert opened(made('TCGA'))[1].label.str.endswith('ManuallyCorrected.nii.gz').all()


def test_regions_of_nnunet_are_those_of_its_dataset_json(made):
    one, _ = opened(made('nnU-Net regions'))
    assert [(r.name, r.classes, r.paint) for r in one.regions] == [
        ('whole', (1, 2, 3), 1), ('core', (2, 3), 2), ('enhancing', (3,), 3)]


@pytest.mark.parametrize('name', ['nnU-Net images', 'table, CSV', 'thick slices', 'BraTS 2025 MNI', 'HDF5'])
def test_annotate_writes_masks_into_the_six_columns(made, tmp_path, name):
    root = made(name) if name != 'HDF5' else phantom.write_brats_h5(tmp_path / 'h5', volumes=3, shape=(6, 16, 16))
    config = recognise.resolve(config_of(root), lambda text: None)
    frame = annotate.annotate(config, tmp_path / 'w')
    saved = frames.load(tmp_path / 'w/annotations.parquet')
    assert list(saved.columns[:6]) == ['file_name', 'width', 'height', 'category_id', 'segmentation', 'subset']
    one = experiment.create(experiment.settle(config, frame))
    rows = kinds.kind_of(one).rows(one, frame).set_index('image_id', drop=False)
    for line in saved[saved.segmentation.notna()].itertuples():
        shape = (line.height, line.width, *([line.depth] if one.format.volumetric else []))
        rle = {'size': line.segmentation['size'], 'counts': line.segmentation['counts'].encode()}
        mask = coco_mask.decode(rle).reshape(shape, order='F') > 0
        if one.format.volumetric:
            true = one.format.read_label(one.settings.root, rows.loc[line.image_id], None) == line.category_id
        else:
            from unet_jax.pipeline import decode
            true = (decode.decode_label(rows.loc[line.image_id], one.settings)
                    >> one.classes.index(line.category_id)) & 1 > 0
        assert mask.any() and np.array_equal(mask, true)


NAMES = {'flair': 'flair', 't1': 't1', 't1ce': 't1ce', 't2': 't2', 'label': 'seg'}


@functools.cache
def part_of(case):
    """{name: (what a real case's file holds about the tumour, its affine)}."""
    files = {name: nibabel.load(next(case.glob(f'*_{end}.nii.gz'))) for name, end in NAMES.items()}
    middle = np.median(np.argwhere(np.asarray(files['label'].dataobj)), 0).astype(int)
    box = tuple(slice(max(m - 24, 0), m + 24) for m in middle)
    return {name: (np.asarray(file.dataobj)[box], file.affine) for name, file in files.items()}


def spell(case, target, spelling):
    """Writes it under the names that others use."""
    for k, (name, (voxels, affine)) in enumerate(part_of(case).items()):
        made_sets.nifti(target / spelling(name, k), voxels, affine)


@pytest.mark.parametrize('case', ['brats2021-00006', 'brats2018/Brats18_2013_2_1'])
def test_real_cases_under_other_names_give_the_same_arrays(shared_data, tmp_path, case):
    from unet_jax.pipeline import prepared

    def arrays(root, **data):
        one, frame = opened(root, orientation='LPS', **data)
        return prepared.prepare(next(prepared.rows(frame).itertuples()), one.settings), one

    case = shared_data / case
    spell(case, tmp_path / 'own', lambda n, k: f'{case.name}/{case.name.replace("brats2021-", "BraTS2021_")}_'
          f'{NAMES[n]}.nii.gz')
    (image, label, grid), _ = arrays(tmp_path / 'own')
    assert label.any() and image.any()
    upenn = {'flair': 'FLAIR', 't1': 'T1', 't1ce': 'T1GD', 't2': 'T2'}
    name = 'UPENN-GBM-00001_11'
    spell(case, tmp_path / 'upenn', lambda n, k: f'segm/{name}_segm.nii.gz' if n == 'label' else
          f'structural/{name}/{name}_{upenn[n]}.nii.gz')
    spell(case, tmp_path / 'nnunet', lambda n, k: 'labelsTr/c.nii.gz' if n == 'label' else
          f'imagesTr/c_{k:04d}.nii.gz')
    (tmp_path / 'nnunet/dataset.json').write_text(json.dumps({
        'channel_names': {'0': 'FLAIR', '1': 'T1', '2': 'T1ce', '3': 'T2'}, 'file_ending': '.nii.gz',
        'labels': {'background': 0, 'NCR': 1, 'ED': 2, 'ET': 4}}))
    spell(case, tmp_path / 'table', lambda n, k: f'x/{k}/scan.nii.gz')
    (tmp_path / 'table/cases.csv').write_text('case,T2,flair,T1Gd,t1w,label\nc,x/3/scan.nii.gz,x/0/scan.nii.gz,'
                                              'x/2/scan.nii.gz,x/1/scan.nii.gz,x/4/scan.nii.gz\n')
    spell(case, tmp_path / 'any', lambda n, k: f'{n}/P7.nii.gz')
    for spelt, form in (('upenn', 'nifti'), ('nnunet', 'nnunet_raw'), ('table', 'table'), ('any', 'volumes')):
        found, one = arrays(tmp_path / spelt)
        assert one.config.data.format == form and one.classes == (1, 2, 4)
        assert np.array_equal(found[0], image) and np.array_equal(found[1], label) and found[2] == grid
        shutil.rmtree(tmp_path / spelt)


def unlike_shapes(root):
    image, _ = next(made_sets.heads(1))
    made_sets.nifti(root / 'case1/adc.nii.gz', image[..., 0][:, :9])


def odd_value(root):
    label = np.zeros((20, 24), np.uint8)
    label[3:5] = 9
    made_sets.png(root / 'Dataset001_Made/labelsTr/slide_004.png', label)


def odd_label(root):
    label = np.zeros((16, 18, 10), np.uint8)
    label[:2] = 6
    made_sets.nifti(root / 'labelsTr/glioma_001.nii.gz', label)


def two_labels(root):
    for k in range(3):
        shutil.copy(root / f'case{k}/lesion.nii.gz', root / f'case{k}/roi.nii.gz')


def no_words(root):
    for path in root.glob('*/lesion.nii.gz'):
        path.rename(path.with_name('q.nii.gz'))


def another_release(root):
    phantom.write_nifti(root / 'more', cases=3, shape=(14, 26, 26), year='2021')


def another_kind(root):
    for k in range(4):
        made_sets.png(root / f'photos/images/{k}.png', made_sets.picture(k)[0])
        made_sets.png(root / f'photos/masks/{k}.png', np.uint8(made_sets.picture(k)[1]))


def two_pair_sets(root):
    for name in ('first', 'second'):
        (root / name).mkdir()
        for part in ('images', 'masks'):
            shutil.copytree(root / part, root / name / part)
    for part in ('images', 'masks'):
        shutil.rmtree(root / part)


def edit(name, change):
    def run(root):
        path = next(root.rglob(name))
        path.write_text(change(path.read_text()))
    return run


BAD = [
    ('seven sequences', unlike_shapes, r'case1: the files of case1 do not lie on one grid.*adc.nii.gz: shape \(16, 9'),
    ('pairs of 0 and 255', lambda r: (r / 'masks/im3.png').unlink(),
     r'1 images have no mask \(images/im3.png\).*on_error=skip'),
    ('nnU-Net images', lambda r: (r / 'Dataset001_Made/labelsTr/slide_003.png').unlink(),
     'slide_003 has no label labelsTr/slide_003.png.*on_error=skip'),
    ('nnU-Net images', odd_value, r'slide_004.png: holds the values value 9; .* are known. Name them'),
    ('nnU-Net regions', odd_label, r'glioma_001.nii.gz: holds the label numbers 6 \(360 voxels\).*Name them'),
    ('nnU-Net regions', lambda r: (r / 'imagesTr/glioma_002_0001.nii.gz').unlink(),
     r'case glioma_002 has the channels \[0, 2, 3\]; dataset.json names 4'),
    ('nnU-Net regions', edit('dataset.json', lambda t: t.replace('"regions_class_order": [1, 2, 3]', '"a": 0')),
     'regions_class_order is None; .*3 regions'),
    ('nnU-Net regions', edit('dataset.json', lambda t: t.replace('"background": 0', '"ignore": 4')), 'label "ignore"'),
    ('nnU-Net regions', edit('splits_final.json', lambda t: t.replace('glioma_001', 'glioma_201')),
     'splits_final.json: fold 0 does not name 1 cases of imagesTr, such as glioma_001'),
    ('table, CSV', edit('cohort.csv', lambda t: t.replace('scans/1/b1', 'scans/1/z1')),
     "cohort.csv, line 3: T1c is 'scans/1/z1.nii.gz'; there is no such file"),
    ('table, CSV', edit('cohort.csv', lambda t: t.replace('scans/1/b1.nii.gz', '')),
     'case scans_1_a1: the table names no file for t1ce.*missing_modalities=True'),
    ('table, CSV', edit('cohort.csv', lambda t: t.replace('valid', 'later')), "line 4: subset is 'later'; choose"),
    ('table, CSV', edit('cohort.csv', lambda t: t[:t.rindex(',')]),
     'cohort.csv, line 5: mask is empty. Name the label'),
    ('table, CSV', edit('cohort.csv', lambda t: t.replace('drawn/0.nii', '../0.nii')), 'leads out of the data root'),
    ('seven sequences', two_labels, r'2 of them may be the label:.*\n  --config.data.files=.*roi.*\)"'),
    ('seven sequences', no_words, r'none of them is called like a label:.*--config.data.files='),
    ('seven sequences', lambda r: (r / 'case1/dwi.nii.gz').unlink(),
     r'case case1 lacks dwi \({case}/dwi.nii.gz\); it has .*on_error=skip'),
    ('BraTS 2025 MNI', another_release, r'cases of several releases.*schema=2021 .*\(3 cases'),
    ('BraTS 2025 MNI', another_kind, r'holds 2 data sets. Say which:\n.*format=nifti .*\n.*format=pairs'),
    ('pairs of 0 and 255', two_pair_sets, r'first and second have images and masks each.*=\S+/first  \(40 images\)'),
]


@pytest.mark.parametrize('name, damage, message', BAD)
def test_what_cannot_be_used_names_file_value_and_way_out(made, tmp_path, name, damage, message):
    root = tmp_path / 'copy'
    shutil.copytree(made(name), root)
    damage(root)
    with pytest.raises(InputError) as error:
        opened(root)
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)


def test_files_that_the_config_names_are_taken_and_a_sequence_may_be_left_out(made, tmp_path):
    root = shutil.copytree(made('seven sequences'), tmp_path / 'copy')
    two_labels(root)
    files = (('adc', '{case}/adc.nii.gz'), ('t1', '{case}/t1.nii.gz'), ('label', '{case}/roi.nii.gz'))
    one, frame = opened(root, files=files)
    assert frame.label.str.endswith('roi.nii.gz').all() and tuple(one.config.data.modalities) == ('adc', 't1')
    assert one.settings.channels == 2 and tuple(map(tuple, one.config.data.files)) == files


def test_a_class_that_no_case_shows_is_told_with_the_flag_that_leaves_it_out(made, tmp_path, caplog):
    root = shutil.copytree(made('nnU-Net images'), tmp_path / 'copy')
    edit('dataset.json', lambda t: t.replace('"tumour": 2', '"tumour": 2, "cyst": 3'))(root)
    one, _ = opened(root)
    assert re.search(r"no case shows 'cyst'.*--config.data.regions=\"\(\('rim'", caplog.text)
    assert one.names == ('rim', 'tumour', 'cyst')


def test_a_folder_of_nothing_and_one_that_is_not_there_are_told(tmp_path):
    (tmp_path / 'notes.docx').write_bytes(b'')
    for root, message in ((tmp_path, r'no data set that is known. It may hold: COCO JSON.*1 × .docx'),
                          (tmp_path / 'no', 'no such folder'), ('', 'name the data set, --config.data.root=DIR')):
        with pytest.raises(InputError, match=message):
            recognise.resolve(config_of(root))


def test_frames_of_one_folder_are_the_same_each_time(made):
    for name in ('table, CSV', 'nnU-Net regions'):
        a, b = (opened(made(name))[1] for _ in range(2))
        pd.testing.assert_frame_equal(a, b)
