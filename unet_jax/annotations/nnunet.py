"""nnU-Net's raw folders: dataset.json, imagesTr/CASE_0000.nii.gz, _0001, …, labelsTr/CASE.nii.gz, splits_final.json.

After its documentation of the format (documentation/dataset_format.md and region_based_training.md of nnU-Net 2); the
keys of its first version, `modality` and labels by number, are read as well.
"""
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from unet_jax.annotations import frame as annotation_frame
from unet_jax.annotations import schemas
from unet_jax.annotations.image_file import ENDINGS
from unet_jax.annotations.labels import Region
from unet_jax.annotations.left_out import LeftOut
from unet_jax.annotations.nifti_search import Files, patient
from unet_jax.errors import InputError

FILE, SPLITS = 'dataset.json', 'splits_final.json'
LAYOUT = (f'Looked for {FILE} with imagesTr/CASE_0000.nii.gz and labelsTr/CASE.nii.gz. Set config.data.root to the '
          'folder that is called DatasetNNN_NAME')
VOLUMES = ('.nii.gz', '.nii')


class Dataset(NamedTuple):
    """What dataset.json says."""
    channels: tuple[str, ...]  # in the order of _0000, _0001, …
    names: dict[int, str]  # label number -> class
    regions: tuple[Region, ...]  # () where labels are no lists
    ending: str


def load(root: Path) -> Dataset:
    """Reads dataset.json. Raises InputError for one that cannot be followed, naming the key."""
    path = root / FILE
    try:
        found = json.loads(path.read_bytes().decode('utf-8-sig'))
        channels = found.get('channel_names', found.get('modality'))
        named = list(channels.values()) if isinstance(channels, dict) else list(channels)
        if isinstance(channels, dict):
            named = [channels[key] for key in sorted(channels, key=int)]
        labels = {str(key): value for key, value in found['labels'].items()}
        order = found.get('regions_class_order')
    except OSError as error:
        raise InputError(f'config.data.root is {str(root)!r}: no {FILE} there ({error}). {LAYOUT}') from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f'{path}: no dataset.json of nnU-Net, with channel_names {{"0": NAME}} and labels '
                         f'{{NAME: NUMBER}} ({error!r})') from error
    if all(key.isdigit() and isinstance(value, str) for key, value in labels.items()):  # of the first version
        labels = {value: int(key) for key, value in labels.items()}
    names, regions = _labels(path, labels, order)
    return Dataset(_distinct([schemas.sequence(str(name)) for name in named]), names, regions,
                   str(found.get('file_ending', '.nii.gz')).lower())


def _distinct(names: list[str]) -> tuple[str, ...]:
    return tuple(name if names.count(name) == 1 else f'{name}_{k}' for k, name in enumerate(names))


def _labels(path: Path, labels: dict, order) -> tuple[dict[int, str], tuple[Region, ...]]:
    """(number -> class, regions). A region is a list of numbers; regions_class_order has what each is written as."""
    if 'ignore' in labels:
        raise InputError(f'{path}: the label "ignore" ({labels["ignore"]}) marks voxels that are not to be trained '
                         'on, which is not supported: take the key out, and write 0 or a class into those voxels')
    try:
        numbers = {name: tuple(map(int, value)) if isinstance(value, list) else (int(value),)
                   for name, value in labels.items()}
    except (TypeError, ValueError) as error:
        raise InputError(f'{path}: labels {labels}; give a number, or a list of numbers, for each') from error
    numbers = {name: value for name, value in numbers.items() if value != (0,)}
    if not numbers or any(not 0 < v < 256 for value in numbers.values() for v in value):
        raise InputError(f'{path}: labels {labels}; classes have the numbers 1 to 255')
    single = {value[0]: name for name, value in numbers.items() if len(value) == 1}
    every = sorted({v for value in numbers.values() for v in value})
    names = {v: single.get(v, f'label {v}') for v in every}
    if all(len(value) == 1 for value in numbers.values()) and not order:
        return names, ()
    if not isinstance(order, list) or len(order) != len(numbers):
        raise InputError(f'{path}: regions_class_order is {order}; it has the number that each of the {len(numbers)} '
                         f'regions {list(numbers)} is written as')
    pairs = zip(numbers.items(), order, strict=True)
    return names, tuple(Region(name, value, int(paint)) for (name, value), paint in pairs)


def cases(root: Path, dataset: Dataset, reader: LeftOut) -> tuple[list[Files], set[str]]:
    """(the cases of imagesTr, and those of imagesTs that have labels; the names of the latter, which are the test
    subset). Raises InputError where there is none, and for a case that lacks a channel or its label."""
    if dataset.ending not in (*VOLUMES, *ENDINGS):
        raise InputError(f'{root / FILE}: file_ending is {dataset.ending!r}; read are {", ".join(VOLUMES)}, and '
                         'images such as .png. Convert the files, for instance with SimpleITK: '
                         "sitk.WriteImage(sitk.ReadImage('x.nrrd'), 'x.nii.gz')")
    found, test = [], set()
    for part in ('Tr', 'Ts'):
        channels, labels = files(root, f'images{part}', dataset.ending), root / f'labels{part}'
        lost = sorted(path.name for path in labels.glob(f'*{dataset.ending}') if not path.name.startswith('.')
                      and path.name[:-len(dataset.ending)] not in channels)
        if lost:
            reader.attempt('missing', _refuse, f'{labels}: {len(lost)} labels have no image in images{part}, such as '
                           f'{lost[0]}. Add it, or leave such labels out: --config.data.on_error=skip')
        if part == 'Ts' and not labels.is_dir():
            continue  # nnU-Net's images to predict
        whole = [reader.attempt('missing', _case, root, name, parts, labels / f'{name}{dataset.ending}', dataset)
                 for name, parts in sorted(channels.items())]
        found += [case for case in whole if case]
        test |= {case.name for case in whole if case and part == 'Ts'}
    if not found:
        raise InputError(f'{root}: no case CASE_0000{dataset.ending} in imagesTr. {LAYOUT}')
    return found, test


def files(root: Path, folder: str, ending: str) -> dict[str, dict[int, Path]]:
    """{case: {number of a channel: file}} of a folder."""
    pattern, found = re.compile(rf'(?!\.)(.+)_(\d{{4}}){re.escape(ending)}', re.IGNORECASE), defaultdict(dict)
    for path in sorted((root / folder).glob('*')):
        if fits := pattern.fullmatch(path.name):
            annotation_frame.locate(root, path.relative_to(root))
            found[fits[1]][int(fits[2])] = path
    return found


def _refuse(why: str) -> None:
    raise InputError(why)


def _case(root: Path, name: str, parts: dict[int, Path], label: Path, dataset: Dataset) -> Files:
    wanted = range(len(dataset.channels))
    single = dataset.ending in ENDINGS and set(parts) == {0}  # an RGB image has its channels in one file
    if not single and set(parts) != set(wanted):
        raise InputError(f'{root}: case {name} has the channels {sorted(parts)}; {FILE} names {len(wanted)}: '
                         f'{dict(enumerate(dataset.channels))}. Add or take away files, or mend channel_names')
    if not label.is_file():
        raise InputError(f'{root}: case {name} has no label {label.relative_to(root)}. Add it, or leave such cases '
                         'out: --config.data.on_error=skip')
    annotation_frame.locate(root, label.relative_to(root))
    return Files(name, patient(name), parts[0].parent, {dataset.channels[k]: parts[k] for k in sorted(parts)}, label)


def splits(root: Path, *, folds: int, fold: int) -> dict[str, str]:
    """{case: 'train' or 'valid'} of one fold of splits_final.json; {} where it is not there, or `folds` asks for
    another number of folds than it has."""
    path = root / SPLITS
    if not path.is_file():
        return {}
    try:
        found = [{name: subset for subset, key in (('train', 'train'), ('valid', 'val')) for name in one[key]}
                 for one in json.loads(path.read_bytes())]
        if not found or folds not in (0, len(found)):
            return {}
        return found[fold]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f'{path}: no list of folds with train and val ({error!r}); mend it, or take it away to split '
                         'by config.data.split') from error
