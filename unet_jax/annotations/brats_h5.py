"""The Kaggle set awsaf49/brats2020-training-data: BraTS 2020 as one HDF5 file a slice, and a CSV of label counts.

A file holds `image` (H, W, 4), channels FLAIR, T1, T1ce, T2, each z-scored over the whole slice with its background,
and `mask` (H, W, 3), channels NCR/NET, ED, ET, which exclude each other.
"""
import os
import re
from pathlib import Path

import pandas as pd

from unet_jax.annotations import contrasts, labels, schemas, twins
from unet_jax.annotations import frame as annotation_frame
from unet_jax.annotations.brats_h5_file import CLASSES, find_dataset, mask_bits, open_file, read_mask, read_slice
from unet_jax.annotations.left_out import LeftOut, of_files
from unet_jax.annotations.split import subsets
from unet_jax.errors import InputError
from unet_jax.progress import bar

REGIONS = schemas.SCHEMAS['2020'].regions
COUNTS = ('label0_pxl_cnt', 'label1_pxl_cnt', 'label2_pxl_cnt')  # of mask channels 0, 1, 2; none is the background
NAME = re.compile(r'volume_(\d+)_slice_(\d+)\.h5')
LAYOUT = ('Looked for volume_N_slice_K.h5 there and up to 4 folders below. Download awsaf49/brats2020-training-data '
          'from Kaggle, unpack it and set config.data.root to its folder; configs/phantom.py needs no data')
DEPTH = 4  # folders below the root that are searched
SLICES = 10_000  # the most of a volume, of 155
SAMPLE = 24  # files whose masks are compared with the CSV


def slice_of(path: str) -> tuple[str, int] | None:
    """(volume, number) of a slice, its folder before the volume; None where the name is another."""
    folder, _, name = path.rpartition('/')
    found = NAME.fullmatch(name)
    return (f'{folder}/volume_{found[1]}'.lstrip('/'), int(found[2])) if found else None


def read_frame(root: str | Path, *, split: tuple[float, float, float] = (0.7, 0.15, 0.15), seed: int = 0,
               folds: int = 0, fold: int = 0, on_error: str = 'raise', audit: bool = False) -> pd.DataFrame:
    """The annotation frame of the set found at or below `root`: a row per slice and class present.

    Which classes a slice has is the CSV's to say, checked against the masks of 24 files; without a CSV every mask is
    read. Whole volumes, copies of one together, are split as by `split.subsets`, stratified by tumour volume. Raises
    InputError where no slices are found, slices are missing in the folder or the CSV, a file that is looked into is
    damaged, or CSV and files contradict. With on_error = 'skip', and for an `audit`, a volume with a slice that is
    missing or damaged is left out whole; its slices are counted in `frame.attrs['reader']`.
    """
    root = Path(root)
    reader = of_files(on_error, audit=audit)
    files, tables, mappings = _search(root)
    counts = _counts_of_table(tables[0]) if tables else None
    lost = _check_complete(files, counts, tables, reader)  # {(volume, slice): 'missing' or 'unreadable'}
    if counts is None:
        counts = _counts_of_masks(files, reader, lost)
    else:
        _check_sample(files, counts, tables[0], reader, lost)
    sizes = {}
    for volume in sorted({volume for volume, _ in files} - {volume for volume, _ in lost}):
        if (size := reader.attempt('unreadable', _size, files[volume, 0])) is None:
            lost[volume, 0] = 'unreadable'
        else:
            sizes[volume] = size
    if not sizes:
        raise InputError(f'{root}: no volume is whole; the first fault: '
                         f'{(reader.items["missing"] + reader.items["unreadable"])[0]}')
    why = {volume: kind for (volume, _), kind in lost.items()}
    for volume, index in sorted(key for key in files if key[0] in why and key not in lost):
        reader.items[why[volume]].append(f'{files[volume, index].name}: left out with the rest of volume_{volume}')
    patients = _patients(mappings)
    tumour = dict.fromkeys(sizes, 0)
    for (volume, _), count in counts.items():
        if volume in sizes:
            tumour[volume] += sum(count)
    groups = pd.Series({volume: patients.get(volume, f'volume_{volume}') for volume in sizes})
    fullest = {}  # the slice of each volume with the most tumour: not one outside the brain, which are all alike
    for (volume, index), count in counts.items():
        if volume in sizes and sum(count) > fullest.get(volume, (0,))[0]:
            fullest[volume] = sum(count), files[volume, index]
    united = twins.unite_equal(groups, [fullest.get(volume, (0, None))[1] for volume in sizes])
    subset = subsets(united, split, seed, pd.Series(tumour), folds=folds, fold=fold).to_dict()
    rows = []
    for volume, index in sorted(key for key in files if key[0] in sizes):
        path = files[volume, index].relative_to(root).as_posix()
        row = {'file_name': files[volume, index].name, 'width': sizes[volume][1], 'height': sizes[volume][0],
               'subset': subset[volume], 'image_id': files[volume, index].stem, 'path': path, 'group': groups[volume],
               'case': f'volume_{volume}', 'slice': index, 'category_id': None, 'category': None, 'segmentation': None}
        present = [k for k, count in enumerate(counts[volume, index]) if count]
        rows += [row | {'category_id': CLASSES[k], 'category': schemas.SCHEMAS['2020'].names[CLASSES[k]],
                        'segmentation': {'file': path, 'channel': k, 'pixels': counts[volume, index][k]}}
                 for k in present] or [row]
    frame = annotation_frame.build(rows)
    reader.note(frame, str(root))
    frame.attrs['annotation_files'] = [path.relative_to(root).as_posix() for path in (*tables, *mappings)]
    return frame


def _search(root: Path) -> tuple[dict[tuple[int, int], Path], list[Path], list[Path]]:
    """({(volume, slice): file}, metadata CSVs, name mappings) at and below `root`."""
    files, tables, mappings = {}, [], []
    for folder, folders, names in os.walk(root):
        if len(Path(folder).relative_to(root).parts) >= DEPTH:
            folders.clear()
        folders.sort()
        for name in names:
            match = NAME.fullmatch(name)
            if match:
                key = int(match[1]), int(match[2])
                if key in files:
                    raise InputError(f'{files[key]} and {Path(folder) / name} are both slice {key[1]} of volume '
                                     f'{key[0]}: keep one, or set config.data.root to the folder of one copy')
                files[key] = Path(folder) / name
                if files[key].is_symlink():
                    annotation_frame.locate(root, files[key].relative_to(root))
            elif name.lower().endswith('.csv') and 'metadata' in name.lower():
                tables.append(Path(folder) / name)
            elif name == 'name_mapping.csv':
                mappings.append(Path(folder) / name)
    if not files:
        raise InputError(f'config.data.root is {str(root)!r}: no slices there. {LAYOUT}')
    if len(tables) > 1:
        raise InputError(f'several metadata tables: {", ".join(map(str, sorted(tables)))}; keep one under {root}')
    return files, tables, mappings


def _read_csv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """These columns of a CSV as text. Raises InputError for what is no CSV in UTF-8, or lacks one."""
    try:
        table = pd.read_csv(path, dtype=str)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f'{path}: cannot be read as CSV in UTF-8 ({error}); download it again') from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas has made an index of what is too much
        raise InputError(f'{path}: its rows have more fields than its first line names; download it again')
    missing = sorted({*columns} - {*table.columns})
    if missing:
        raise InputError(f'{path}: has no column {missing}; it has {list(table.columns)[:12]}. Download it again')
    return table[list(columns)]


def _counts_of_table(path: Path) -> dict[tuple[int, int], tuple[int, int, int]]:
    table = _read_csv(path, ('volume', 'slice', *COUNTS)).apply(pd.to_numeric, errors='coerce').astype(float)
    bad = table.index[(~table.lt(2 ** 31) | (table < 0) | (table % 1 != 0)).any(axis=1)]
    if len(bad):
        raise InputError(f'{path}: {len(bad)} rows hold what is not a count, the first in line {bad[0] + 2}')
    table = table.astype(int)
    twice = table[table.duplicated(['volume', 'slice'])]
    if len(twice):
        raise InputError(f'{path}: {len(twice)} slices have more than one row, the first is volume '
                         f'{twice.volume.iloc[0]} slice {twice.slice.iloc[0]}')
    return {(v, s): tuple(c) for v, s, *c in table.itertuples(index=False, name=None)}


def _check_complete(files, counts, tables, reader: LeftOut) -> dict[tuple[int, int], str]:
    """{(volume, slice): 'missing'} of the slices 0, 1, ... to a volume's last one that the folder or the CSV lacks.

    Raises InputError for them where the policy is to.
    """
    last, lost = {}, {}
    for volume, index in [*files, *(counts or ())]:
        last[volume] = max(index, last.get(volume, 0))
        if index >= SLICES:
            raise InputError(f'{tables[0] if (volume, index) not in files else files[volume, index]}: slice {index}; '
                             f'volumes of up to {SLICES} slices are read')
    whole = {(volume, index) for volume, n in last.items() for index in range(n + 1)}
    folder = next(iter(files.values())).parent
    for where, found in ((folder, files), *(((tables[0], counts),) if tables else ())):
        missing = sorted(whole - set(found))
        lost |= dict.fromkeys(missing, 'missing')
        reader.items['missing'] += [f'volume_{v}_slice_{s}: not in {where}' for v, s in missing]
        if missing and reader.refuses('missing'):
            first = ', '.join(f'volume_{v}_slice_{s}' for v, s in missing[:5])
            raise InputError(f'{where}: {len(missing)} of {len(whole)} slices are missing, the first: {first}. A '
                             'volume is scored as a whole: unpack the set again, or remove every slice of those '
                             'volumes from both the folder and the CSV')
    return lost


def _counts_of_masks(files, reader: LeftOut, lost) -> dict[tuple[int, int], tuple[int, int, int]]:
    counts = {}
    for key, path in bar(files.items(), desc='reading masks', unit='slice'):
        if (pixels := reader.attempt('unreadable', _pixels, path)) is None:
            lost[key] = 'unreadable'
        else:
            counts[key] = pixels
    return counts


def _pixels(path: Path) -> tuple[int, int, int]:
    with open_file(path) as f:
        mask = read_mask(f, path)
    if mask is None:
        raise InputError(f'{path}: no dataset \'mask\', so what the slice shows is unknown')
    return tuple(mask.reshape(-1, len(CLASSES)).sum(0, dtype=int).tolist())


def _check_sample(files, counts, table: Path, reader: LeftOut, lost) -> None:
    """The CSV's counts equal the masks' in files with and without tumour, spread over the set."""
    there = sorted(files.keys() & counts.keys())
    for keys in ([k for k in there if any(counts[k])], [k for k in there if not any(counts[k])]):
        for key in keys[::max(1, len(keys) // (SAMPLE // 2))][:SAMPLE // 2]:
            pixels = reader.attempt('unreadable', _pixels, files[key])
            if pixels is None:
                lost[key] = 'unreadable'
            elif pixels != counts[key]:
                raise InputError(f'{table}: says {counts[key]} pixels of mask channels 0, 1, 2 for {files[key].name}, '
                                 f'the file has {pixels}: the table and the files are not of one set')


def _size(path: Path) -> tuple[int, int]:
    with open_file(path) as f:
        return find_dataset(f, path, 'image', 4).shape[:2]


def _patients(mappings: list[Path]) -> dict[int, str]:
    """{volume: the patient's name in the NIfTI release}: BraTS20_Training_041 is volume 41."""
    names = {}
    for path in mappings[:1]:
        for name in _read_csv(path, ('BraTS_2020_subject_ID',)).squeeze(axis=1).dropna():
            number = re.search(r'(\d{1,9})$', name.strip())
            if number:
                names[int(number[1])] = name.strip()
    return names


def check_channels(frame: pd.DataFrame, root: str | Path, *, most: int = 20, on_error: str = 'raise',
                   audit: bool = False) -> dict[str, float]:
    """Whether tumours look as they should in channels FLAIR, T1, T1ce, T2, on slices with enhancing tumour.

    Returns what `contrasts.measure` does of up to `most` slices spread over the set, and logs a warning where one is
    not above 0. Slices that cannot be read raise InputError; with on_error = 'skip' and for an `audit` they are
    counted in `frame.attrs['reader']`, as 'damaged'.
    """
    def measure(path: str) -> contrasts.Means:
        image, mask = read_slice(annotation_frame.locate(root, path))
        if mask is None:
            raise InputError(f'{Path(root) / path}: no dataset \'mask\', but the CSV says that it shows tumour')
        return contrasts.means(image, labels.to_ids(mask_bits(mask), CLASSES))

    reader = of_files(on_error, audit=audit, kinds=['damaged'])
    paths = frame.path[frame.category_id == 4].tolist()
    sample = paths[len(paths) // (2 * most)::max(1, len(paths) // most)][:most]
    measured = [found for path in sample if (found := reader.attempt('damaged', measure, path)) is not None]
    reader.note(frame, str(root))
    return contrasts.check_contrasts(measured, '2020', schemas.MODALITIES, str(root), fixed=True)
