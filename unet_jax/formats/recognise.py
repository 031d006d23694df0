"""config.data.format = 'auto': what a folder is, told by the files in it, before anything else sees the config.

`resolve` gives a config that names the format and the settings that were found, so the config that a run saves is
explicit, and it goes on without looking again. Nothing is guessed where two readings are left: both are given.
"""
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from unet_jax.annotations import brats_h5, coco_files, nifti_search, nnunet, pairs, patterns, schemas, table
from unet_jax.errors import InputError
from unet_jax.formats import named, volumes
from unet_jax.formats.colours import LOOKED_AT, channels, colours

DEPTH = 3  # folders below the root in which a data set is looked for where the root is none
FEW = 6  # folders with images and masks of their own that may be data sets of their own
LOOSE = 0.1  # share of NIfTI files that may belong to no case
KINDS = ('COCO JSON with images; Kaggle HDF5 slices; BraTS and other NIfTI; nnU-Net raw folders; a CSV or JSON of '
         'paths; images with mask images')


class Taken(NamedTuple):
    """What a folder was taken for."""
    format: str
    root: Path
    why: tuple[str, ...]  # lines
    settings: dict[str, Any] = {}  # fields of config.data that were found beside


def resolve(config: ConfigDict, say: Callable[[str], None] = print) -> ConfigDict:
    """`config` with the format that its folder has, if it leaves that open, and `say` told what and why.

    The sides of `data.size` and the axes of `augment.flip` are made as many as the samples have.
    Raises InputError where the folder cannot be told, with the choices as flags.
    """
    data = config.data
    if data.format != 'auto':
        return config
    if not data.root:
        raise InputError(f'config.data.root is empty: name the data set, --config.data.root=DIR. It may hold: {KINDS}')
    taken = recognise(Path(data.root).expanduser(), files=tuple(data.files))
    found = config.copy_and_resolve_references()
    with found.unlocked(), found.ignore_type():
        found.data.update({'format': taken.format, 'root': str(taken.root), **taken.settings})
        sides = 3 if named(taken.format).volumetric else 2
        for section, name in ((found.data, 'size'), (found.augment, 'flip')):
            given = tuple(section[name])
            section[name] = given if len(given) == sides else (given[0],) * sides
    say(f'{data.root}: taken for {taken.format}\n' + '\n'.join(f'  {line}' for line in taken.why)
        + f'\n  the same by hand: {flags(taken)}')
    return found.lock()


def flags(taken: Taken) -> str:
    """What to type for the same without looking."""
    fields = {'format': taken.format, 'root': taken.root, **taken.settings}
    return ' '.join(patterns.flag(value) if name == 'files' else f'--config.data.{name}='
                    + (','.join(value) if isinstance(value, tuple) else str(value)) for name, value in fields.items())


def recognise(root: Path, files: tuple[tuple[str, str], ...] = ()) -> Taken:
    """What `root` is: a folder, or a JSON or CSV file. `files`: config.data.files, which says that it is NIfTI.

    Raises InputError for what is nothing that can be read, and where several readings are left.
    """
    if root.is_file():
        found = [one for one in (look_for_table(root), look_for_coco(root)) if one]
        if not found:
            raise InputError(f'config.data.root is {str(root)!r}: neither a COCO JSON nor a table of paths. '
                             f'{table.LAYOUT}')
        return found[0]
    if not root.is_dir():
        raise InputError(f'config.data.root is {str(root)!r}: there is no such folder')
    if files:
        return Taken('volumes', root, ('config.data.files says how its NIfTI files are called',))
    found = look(root, 0)
    if not found:
        raise InputError(f'config.data.root is {str(root)!r}: holds no data set that is known. It may hold: {KINDS}. '
                         f'Found: {summary(root)}')
    if len(found) > 1:
        flags = '\n'.join(f'  --config.data.format={one.format} --config.data.root={one.root}  ({one.why[0]})'
                          for one in found)
        raise InputError(f'config.data.root is {str(root)!r}: holds {len(found)} data sets. Say which:\n{flags}')
    return found[0]


def look(root: Path, depth: int) -> list[Taken]:
    """The data sets in `root`; where it is none itself, those in the folders below."""
    found = [one for one in (kind(root) for kind in (look_for_coco, look_for_slices, look_for_nnunet, look_for_table))
             if one]
    if all(one.format in ('coco', 'brats_h5') for one in found):  # else a file says what the others are
        found += [one for one in (look_for_volumes(root), look_for_pairs(root)) if one]
    if {'coco', 'pairs'} <= {one.format for one in found}:
        found = without_drawn_masks(root, found)
    if found or depth == DEPTH:
        return found
    return [one for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith(('.', '__'))
            for one in look(folder, depth + 1)]


def look_for_coco(root: Path) -> Taken | None:
    """COCO JSON, by the keys of the JSON files where such sets have them."""
    places = [root, root / 'annotations', *(root / name for name in ('train', 'valid', 'val', 'test'))]
    files = [root] if root.is_file() else [file for place in places for file in coco_files.json_files(place)]
    sets = [file for file in files if is_coco(file)]
    if not sets:
        return None
    try:
        sources, _ = coco_files.find(root)
    except InputError as error:
        choices = '\n'.join(f'  --config.data.format=coco --config.data.root={file}' for file in sets)
        raise InputError(f'{error}. Say which:\n{choices}') from error
    first = next((path for source in sources for path in images_of(source)), None)
    names = ', '.join(source.name for source in sources)
    return Taken('coco', root, (f'COCO JSON: {names}', *colours(first)), channels(first))


def images_of(source: coco_files.Source) -> Iterable[list[Path]]:
    found = [source.images / name for name in pairs.walk(source.images)[:LOOKED_AT]]
    return [found] if found else []


def is_coco(file: Path) -> bool:
    try:
        found = coco_files.parse(file, file.name)
    except InputError:
        return False
    return isinstance(found.get('images'), list) and isinstance(found.get('annotations'), list)


def look_for_slices(root: Path) -> Taken | None:
    if root.is_file():
        return None
    count = sum(bool(brats_h5.NAME.fullmatch(name)) for _, names in nifti_search.walk(root) for name in names)
    return Taken('brats_h5', root, (f'Kaggle BraTS2020 slices: {count} files such as volume_1_slice_0.h5',),
                 {'channels': 4}) if count else None


def look_for_nnunet(root: Path) -> Taken | None:
    """dataset.json with files that end in _0000, which tells it from the Decathlon's, whose one file has all."""
    numbered = (root / 'imagesTr').is_dir() and any(nifti_search.NNUNET.fullmatch(path.name.split('.')[0])
                                                    for path in (root / 'imagesTr').iterdir())
    if not (root / nnunet.FILE).is_file() or not numbered:
        return None
    dataset = nnunet.load(root)
    parts = nnunet.files(root, 'imagesTr', dataset.ending)
    count = ', '.join(f'{cases} cases of {n} file{"s" * (n > 1)}' for n, cases in sorted(Counter(
        map(len, parts.values())).items()))
    regions = f'; regions {", ".join(region.name for region in dataset.regions)}' if dataset.regions else ''
    split = f'; subsets by {nnunet.SPLITS}' if (root / nnunet.SPLITS).is_file() else ''
    why = f'nnU-Net raw: {nnunet.FILE}, imagesTr with {count} ({dataset.ending}), {", ".join(dataset.channels)}; ' \
          f'labels {dataset.names}{regions}{split}'
    if dataset.ending in nnunet.VOLUMES:
        return Taken('nnunet_raw', root, (why,))
    first = [path for files in list(parts.values())[:LOOKED_AT] for path in files.values()]
    return Taken('nnunet_images', root, (why, *colours(first)), channels(first))


def look_for_table(root: Path) -> Taken | None:
    """CSV or JSON whose columns hold paths, one of them the label's."""
    files = [root] if root.is_file() else [path for path in sorted(root.glob('*'))
                                           if path.suffix.lower() in ('.csv', '.json') and path.name != nnunet.FILE]
    found = [path for path in files if path.is_file() and table.is_table(path)
             and table.column(table.load(path), 'label')]
    if not found:
        return None
    path = table.find(root) if len(found) > 1 else found[0]  # which tells that there are several
    rows = table.load(path)
    sequences = table.sequences_of(rows)
    label = table.column(rows, 'label')
    first = [coco_files.folder(path) / row[column] for _, row in rows[:LOOKED_AT].iterrows()
             for column in sequences.values() if row[column]]
    volumetric = bool(first) and bool(nifti_search.NIFTI.fullmatch(first[0].name))
    why = f'a table: {path.name}, {len(rows)} rows; sequences {", ".join(sequences)}, label {label}'
    return Taken('table', path, (why,)) if volumetric else \
        Taken('table_images', path, (why, *colours(first)), channels(first))


def look_for_volumes(root: Path) -> Taken | None:
    """NIfTI: called as a release of BraTS calls its files, or with its four sequences; else by their own pattern."""
    if root.is_file():
        return None
    paths = volumes.listed(root)
    if not paths:
        return None
    files = [root / path for path in paths]
    matches = nifti_search.matches_of(files, 'auto', True)
    first = next(iter(matches.values()), {})
    if any(set(found) != set(first) for found in matches.values()):
        flags = '\n'.join(f'  --config.data.format=nifti --config.data.schema={name} --config.data.root={root}  '
                          f'({len(found)} cases such as {min(found)})' for name, found in matches.items())
        raise InputError(f'config.data.root is {str(root)!r}: holds cases of several releases, which overlap. Say '
                         f'which:\n{flags}')
    if first:
        schema = schemas.SCHEMAS[next(iter(matches))]
        count = Counter(part for parts in first.values() for part in parts)
        there = [part for part in schema.suffixes if 2 * count[part] > len(first)]
        # sequences may lack where the case's name says which release it is
        if 2 * count['seg'] > len(first) and there and (re.fullmatch(schema.case, min(first), re.IGNORECASE)
                                                        or len(there) == len(schema.suffixes)):
            check_rest(root, files, first)
            some = {'modalities': tuple(there)} if len(there) < len(schema.suffixes) else {}
            return Taken('nifti', root, (f'{len(first)} cases called as in BraTS {" or ".join(matches)}, such as '
                                         f'{min(first)}', f'sequences {", ".join(there)}, by those names'), some)
    return by_pattern(root, paths)


def check_rest(root: Path, files: list[Path], cases: dict[str, dict[str, Path]]) -> None:
    """Raises InputError where the files beside the cases are a data set of their own."""
    taken = {path for parts in cases.values() for path in parts.values()}
    homes = {path.parent for path in taken}
    rest = [path for path in files if path not in taken and path.parent not in homes | {root / 'imagesTs'}]
    if len(rest) > LOOSE * len(files):
        one, other = Path(*common(taken)), Path(*common(rest))
        raise InputError(f'config.data.root is {str(root)!r}: beside {len(cases)} cases such as {min(cases)} there '
                         f'are {len(rest)} other NIfTI files, such as {rest[0].relative_to(root)}. Say which:\n'
                         f'  --config.data.root={one}\n  --config.data.root={other}\n'
                         f'  --config.data.format=nifti --config.data.root={root}  (without the others)')


def common(paths: Iterable[Path]) -> list[str]:
    """The parts of the folder that all paths share."""
    parts = [path.parent.parts for path in paths]
    return [column[0] for column in zip(*parts, strict=False) if len(set(column)) == 1]


def by_pattern(root: Path, paths: list[str]) -> Taken:
    """Volumes by the files' common pattern. Raises InputError where it leaves files over, or tells no label."""
    roles = patterns.guess(paths)
    if not roles:
        listed = ', '.join(paths[:5])
        raise InputError(f'config.data.root is {str(root)!r}: {len(paths)} NIfTI files whose names do not tell what '
                         f'belongs to one case, such as {listed}. Say how they are called:\n  '
                         + patterns.flag([('t1', '{case}_T1.nii.gz'), ('label', '{case}_mask.nii.gz')]))
    files = patterns.name_roles(roles, f'config.data.root is {str(root)!r}')
    cases, others = patterns.match(paths, dict(files))
    if len(others) > LOOSE * len(paths):
        raise InputError(f'config.data.root is {str(root)!r}: {len(cases)} cases by {dict(files)}, but {len(others)} '
                         f'of {len(paths)} NIfTI files belong to none of them, such as {", ".join(others[:3])}. If '
                         f'they are another data set, name a narrower config.data.root; if they are not wanted:\n  '
                         f'--config.data.format=volumes {patterns.flag(files)}')
    count = Counter(name for parts in cases.values() for name in parts)
    rows = [f'{name:12s} {pattern:40s} {count[name]} files, such as '
            f'{next(parts[name] for parts in cases.values() if name in parts)}' for name, pattern in files]
    return Taken('volumes', root, (f'NIfTI of {len(cases)} cases, by the files\' common pattern:', *rows,
                                   'where that is wrong, mend it in the flag below'), {'files': files})


def look_for_pairs(root: Path) -> Taken | None:
    """Images with masks, by the words in their paths."""
    if root.is_file():
        return None
    paths = pairs.walk(root)
    try:
        found, lone, widows = pairs.match(paths)
    except InputError:
        return None
    if not found:
        return None
    check_one_set(root, [pair.image.path for pair in found])
    without = f'; {len(lone)} images without mask, {len(widows)} masks without image' if lone or widows else ''
    first = [root / pair.image.path for pair in found[:LOOKED_AT]]
    return Taken('pairs', root, (f'{len(found)} images with masks, such as {found[0].image.path} with '
                                 f'{found[0].masks[0]}{without}', *colours(first)), channels(first))


def check_one_set(root: Path, paths: list[str]) -> None:
    """Raises InputError where a few folders, called neither like subsets nor like patients, each have images and masks
    in folders of their own."""
    tops = Counter(PurePosixPath(path).parts[0] for path in paths)
    deep = all(len(PurePosixPath(path).parts) > 2 for path in paths)
    words = any(pairs.WORD.search(top) for top in tops)
    patients = all(any(map(str.isdigit, top)) for top in tops)
    if deep and 1 < len(tops) <= FEW and min(tops.values()) > 1 and not words and not patients:
        flags = '\n'.join(f'  --config.data.root={root / top}  ({count} images)' for top, count in tops.items())
        raise InputError(f'config.data.root is {str(root)!r}: {" and ".join(tops)} have images and masks each. Say '
                         f'which is meant:\n{flags}\n  --config.data.format=pairs --config.data.root={root}  (all, as '
                         'one data set)')


def without_drawn_masks(root: Path, found: list[Taken]) -> list[Taken]:
    """COCO JSON alone, where the masks beside it are of the same images, as some tools write both."""
    sources, _ = coco_files.find(next(one.root for one in found if one.format == 'coco'))
    images = [pair.image.path for pair in pairs.match(pairs.walk(root))[0]]
    same = all(any((root / path).is_relative_to(source.images) for source in sources) for path in images)
    if not same:
        return found
    return [one._replace(why=(*one.why, f'masks beside it, of {len(images)} images, are left alone; to take them: '
                                        '--config.data.format=pairs')) for one in found if one.format != 'pairs']


def summary(root: Path) -> str:
    """How many files of each ending there are."""
    count = Counter(''.join(PurePosixPath(name).suffixes[-2:] if name.endswith('.gz') else PurePosixPath(name).suffix)
                    or 'no ending' for _, names in nifti_search.walk(root) for name in names)
    return ', '.join(f'{n} × {ending}' for ending, n in count.most_common(6)) or 'nothing'
