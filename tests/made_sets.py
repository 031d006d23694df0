"""Small made-up data sets in the ways people keep them, a function each: (folder) -> the root to name.

Volumes are phantoms (`phantom.volume`) of 16 × 18 × 10 voxels with the labels 1, 2 and 4, in which each case has all
three; images are grey slopes with a bright square where the mask is.
"""
import json
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from unet_jax import phantom

SEQUENCES = ('flair', 't1', 't1ce', 't2')
AFFINE = np.diag([-1.0, -1, 1, 1])


def heads(count, shape=(10, 18, 16)):
    """`count` of (image (16, 18, 10, 4) int16, label (16, 18, 10) uint8 with 1, 2 and 4)."""
    for k, (image, label) in enumerate(phantom._cases(count, shape, 7)):
        label[6 + k % 3:8 + k % 3, 8:10, 4:6] = 1  # so that each case has each class
        label[6, 11, 5], label[9, 9, 5] = 2, 4
        yield image, label


def nifti(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def picture(k, colour=False):
    """(image (20, 24) or (20, 24, 3), mask (20, 24) bool) number k."""
    mask = np.zeros((20, 24), bool)
    mask[4 + k % 8:9 + k % 8, 6:12] = True
    grey = np.uint8(np.arange(24)[None] * 2 + np.arange(20)[:, None] + 90 * mask + k % 5)
    return (np.stack([grey, grey // 2, grey // 3], -1) if colour else grey), mask


def pairs_of_0_and_255(folder: Path, count=40) -> Path:
    for k in range(count):
        image, mask = picture(k)
        png(folder / f'images/im{k}.png', image)
        png(folder / f'masks/im{k}.png', np.uint8(mask) * 255)
    return folder


def pairs_of_colours(folder: Path, count=12) -> Path:
    for k in range(count):
        image, mask = picture(k, colour=True)
        colours = np.zeros((*mask.shape, 3), np.uint8)
        colours[mask], colours[:2] = (255, 0, 0), (0, 0, 255)
        png(folder / f'x{k}.jpg', image)
        png(folder / f'x{k}_mask.png', colours)
    return folder


def patients_of_slices(folder: Path, patients=6) -> Path:
    for p in range(patients):
        for k in range(1, 5):
            image, mask = picture(p + k, colour=True)
            png(folder / f'TCGA_XX_{p:04d}_2001/TCGA_XX_{p:04d}_2001_{k}.tif', image)
            png(folder / f'TCGA_XX_{p:04d}_2001/TCGA_XX_{p:04d}_2001_{k}_mask.tif', np.uint8(mask & (k > 1)) * 255)
    return folder


def nnunet_images(folder: Path, count=10) -> Path:
    for k in range(count):
        image, mask = picture(k)
        png(folder / f'Dataset001_Made/imagesTr/slide_{k:03d}_0000.png', image)
        png(folder / f'Dataset001_Made/labelsTr/slide_{k:03d}.png', np.uint8(mask) * 2 + np.uint8(image < 12))
    (folder / 'Dataset001_Made/dataset.json').write_text(json.dumps({
        'channel_names': {'0': 'grey'}, 'labels': {'background': 0, 'rim': 1, 'tumour': 2}, 'numTraining': count,
        'file_ending': '.png'}))
    return folder  # the data set lies one folder below


def nnunet_regions(folder: Path, count=5) -> Path:
    """With regions, a split of its own and one labelled test case."""
    for k, (image, label) in enumerate(heads(count)):
        part = 'Ts' if k == count - 1 else 'Tr'
        for c in range(4):
            nifti(folder / f'images{part}/glioma_{k:03d}_{c:04d}.nii.gz', image[..., c])
        nifti(folder / f'labels{part}/glioma_{k:03d}.nii.gz', np.choose(label, [0, 2, 1, 0, 3]).astype(np.uint8))
    (folder / 'dataset.json').write_text(json.dumps({
        'channel_names': {'0': 'FLAIR', '1': 'T1', '2': 'T1gd', '3': 'T2'}, 'file_ending': '.nii.gz',
        'labels': {'background': 0, 'whole': [1, 2, 3], 'core': [2, 3], 'enhancing': [3]},
        'regions_class_order': [1, 2, 3], 'numTraining': count - 1}))
    names = [f'glioma_{k:03d}' for k in range(count - 1)]
    (folder / 'splits_final.json').write_text(json.dumps([{'train': names[1:], 'val': names[:1]},
                                                          {'train': names[:-1], 'val': names[-1:]}]))
    return folder


def table_csv(folder: Path, count=4) -> Path:
    """The test case has no label 4; the third case has no T2."""
    rows = ['patient,subset,FLAIR,T1c,T2,age,mask']
    for k, (image, label) in enumerate(heads(count)):
        for c, name in ((0, 'a'), (2, 'b'), (3, 'c')):
            nifti(folder / f'scans/{k}/{name}{k * k}.nii.gz', image[..., c])
        nifti(folder / f'drawn/{k}.nii', np.where(label == 4, 1, label) if k == 3 else label)
        files = [f'scans/{k}/{name}{k * k}.nii.gz' for name in 'abc']
        rows.append(','.join([f'P{k}', ('train', 'train', 'valid', 'test')[k], *files, '60', f'drawn/{k}.nii']))
    (folder / 'cohort.csv').write_text('\n'.join(rows))
    return folder


def table_json(folder: Path, count=9) -> Path:
    rows = []
    for k in range(count):
        image, mask = picture(k)
        png(folder / f'a/{k}.png', image)
        png(folder / f'b/{k * 3}.png', np.uint8(mask))
        rows.append({'case': f'c{k}', 'patient': f'p{k // 2}', 'image': f'a/{k}.png', 'label': f'b/{k * 3}.png'})
    (folder / 'list.json').write_text(json.dumps(rows))
    return folder


def upenn(folder: Path, count=4) -> Path:
    for k, (image, label) in enumerate(heads(count)):
        name = f'UPENN-GBM-{k // 2 + 1:05d}_{("11", "21")[k % 2]}'
        for c, end in enumerate(('FLAIR', 'T1', 'T1GD', 'T2')):
            nifti(folder / f'images_structural/{name}/{name}_{end}.nii.gz', image[..., c])
        nifti(folder / f'images_segm/{name}_segm.nii.gz', label)
    return folder


def ucsf(folder: Path, count=3) -> Path:
    for k, (image, label) in enumerate(heads(count)):
        name = f'UCSF-PDGM-{k + 4:04d}'
        for c, end in enumerate(('FLAIR', 'T1', 'T1c', 'T2', 'ADC')):
            nifti(folder / f'{name}_nifti/{name}_{end}.nii.gz', image[..., c % 4])
        nifti(folder / f'{name}_nifti/{name}_tumor_segmentation.nii.gz', label)
        nifti(folder / f'{name}_nifti/{name}_brain_segmentation.nii.gz', np.uint8(image[..., 0] > 0))
    return folder


def tcga(folder: Path, count=3) -> Path:
    for k, (image, label) in enumerate(heads(count)):
        name = f'TCGA-02-000{k}_1996.08.2{k}'
        for c, end in enumerate(('flair', 't1', 't1Gd', 't2')):
            nifti(folder / f'{name}/{name}_{end}.nii.gz', image[..., c])
        nifti(folder / f'{name}/{name}_GlistrBoost.nii.gz', np.where(label == 4, 1, label).astype(np.uint8))
        nifti(folder / f'{name}/{name}_GlistrBoost_ManuallyCorrected.nii.gz', label)
    return folder


def brats_2025_mni(folder: Path) -> Path:
    """Adult glioma before treatment on the grid of MNI152, which was that of treated ones a year before."""
    for k, (image, label) in enumerate(heads(3, (18, 22, 18))):
        name = f'BraTS-GLI-{k + 3:05d}-000'
        for c, end in enumerate(('t2f', 't1n', 't1c', 't2w')):
            nifti(folder / f'{name}/{name}-{end}.nii.gz', image[..., c])
        nifti(folder / f'{name}/{name}-seg.nii.gz', np.where(label == 4, 3, label).astype(np.uint8))
    return folder


def release(year):
    return lambda folder: phantom.write_nifti(folder / 'set', cases=4, shape=(14, 26, 26), year=year)


def seven_sequences(folder: Path, count=3) -> Path:
    """Bare names in a folder a case, two label numbers that are nobody's."""
    for k, (image, label) in enumerate(heads(count)):
        for c, end in enumerate(('t1', 't2', 'flair', 'adc', 'dwi', 'swi', 'cbv')):
            nifti(folder / f'case{k}/{end}.nii.gz', image[..., c % 4] + np.int16(c * (image[..., 0] > 0)))
        nifti(folder / f'case{k}/lesion.nii.gz', np.where(label == 4, 7, label * 5 % 7).astype(np.uint8))
    return folder


def thick_slices(folder: Path, count=6) -> Path:
    """One sequence, 0.9 × 0.9 × 5 mm, scans and masks in folders of their own, most scans with an axis of 1."""
    for k, (image, label) in enumerate(heads(count)):
        affine = np.diag([0.9, 0.9, 5, 1])
        nifti(folder / f'images/brain_{k}.nii.gz', image[..., :1] if k else image[..., 0], affine)
        nifti(folder / f'labels/brain_{k}.nii.gz', np.uint8(label > 0) * 255, affine)
    return folder


def one_case(folder: Path) -> Path:
    (image, label), = heads(1)
    for c, name in enumerate(SEQUENCES):
        nifti(folder / f'only/{name}.nii.gz', image[..., c])
    nifti(folder / 'only/seg.nii.gz', label)
    return folder


# name: (function, format it is, classes by name, channels)
SETS = {
    'pairs of 0 and 255': (pairs_of_0_and_255, 'pairs', ('foreground',), 1),
    'pairs of colours': (pairs_of_colours, 'pairs', ('#0000ff', '#ff0000'), 3),
    'patients of slices': (patients_of_slices, 'pairs', ('foreground',), 3),
    'nnU-Net images': (nnunet_images, 'nnunet_images', ('rim', 'tumour'), 1),
    'nnU-Net regions': (nnunet_regions, 'nnunet_raw', ('label 1', 'label 2', 'enhancing'), 4),
    'table, CSV': (table_csv, 'table', ('label 1', 'label 2', 'label 4'), 3),
    'table, JSON': (table_json, 'table_images', ('foreground',), 1),
    'UPENN-GBM': (upenn, 'nifti', ('NCR/NET', 'ED', 'ET'), 4),
    'UCSF-PDGM': (ucsf, 'nifti', ('NCR/NET', 'ED', 'ET'), 4),
    'TCGA': (tcga, 'nifti', ('NCR/NET', 'ED', 'ET'), 4),
    'BraTS 2025 MNI': (brats_2025_mni, 'nifti', ('NCR', 'ED', 'ET'), 4),
    'MET': (release('MET'), 'nifti', ('NETC', 'SNFH', 'ET', 'RC'), 4),
    'PED': (release('2024-PED'), 'nifti', ('ET', 'NET', 'CC', 'ED'), 4),
    'MEN-RT': (release('MEN-RT'), 'nifti', ('GTV',), 1),
    'seven sequences': (seven_sequences, 'volumes', ('label 3', 'label 5', 'label 7'), 7),
    'thick slices': (thick_slices, 'volumes', ('foreground',), 1),
    'one case': (one_case, 'nifti', ('NCR/NET', 'ED', 'ET'), 4),
}
