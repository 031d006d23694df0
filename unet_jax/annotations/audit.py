"""What a data set holds and what is wrong with it, before a network sees it.

`audit` counts, `table` writes the counts as text. It takes frames of any format: what it cannot look at itself
(slices in HDF5, volumes) it asks the functions `thumbnail` and `area` for, or leaves out with a note.
"""
import os
import pathlib
from collections.abc import Callable, Iterable
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd

from unet_jax.annotations import frame as frames
from unet_jax.annotations import labels
from unet_jax.annotations import segmentation as segmentations
from unet_jax.annotations.image_file import ENDINGS
from unet_jax.annotations.twins import SIDE, TWIN, correlated, file_thumbnail, standardised
from unet_jax.errors import InputError

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def audit(frame: pd.DataFrame, root: str | os.PathLike, *, categories: Iterable[int] = (),
          thumbnail: Callable | None = None, area: Callable | None = None, on_error: str = 'raise') -> dict:
    """Counts and findings of a data set as JSON-able values; `table` makes them readable. The frame may be empty.

    thumbnail(row) -> (h, w) grey values and area(row) -> share of the image that is tumour, 0 … 1, look at one row
    of `frame.images`; without them image files and COCO segmentations are read here. `categories` are the
    foreground ids, () for all. Raises InputError for an image that cannot be decoded; on_error = 'skip' counts it.
    """
    root, images = pathlib.Path(root), frames.images(frame)
    volumes = _volumes(frame, images)
    chosen = tuple(c for c in frames.classes(frame) if volumes or not categories or c in categories)
    kinds = _kinds(frame)
    drawn = sum(kinds.values()) - kinds.get('reference', 0)
    found = {
        'subsets': {s: _counts(frame[frame['subset'] == s], images[images['subset'] == s]) for s in _subsets(images)},
        'all': _counts(frame, images),
        'categories': {str(i): name for i, name in frames.categories(frame).items()},
        'foreground': list(chosen),
        'sizes': [{'width': int(w), 'height': int(h), 'images': int(n)}
                  for (w, h), n in images[['width', 'height']].value_counts().items()],
        'volumes': volumes,
        'kinds': kinds,
        'rectangles': kinds.get('rectangle', 0) / drawn if drawn else None,
        'reader': frame.attrs.get('reader'),
        'unlisted': _examples(_unlisted(images, root, frame.attrs.get('annotation_files', ()))),
        'leaking_groups': _examples(_leaking_groups(images)),
        'notes': []}
    found['areas'] = None if volumes else _areas(images, area, chosen)
    found['twins'], damaged = (None, []) if volumes else _twins(images, root, thumbnail, found['notes'], on_error)
    found['undecodable'] = _examples(damaged)
    if labels.values(chosen) != chosen:
        found['notes'].append('not all category ids are numbers 1 … 65535, so masks will hold ' + ', '.join(
            f'{value} for id {c}' for value, c in zip(labels.values(chosen), chosen, strict=True)))
    found['notes'] += frames.shared_names(frame)
    if drawn and found['rectangles'] > 0.9:
        found['notes'].append('box supervision: Dice measures box overlap')
    if found['reader'] is None and not volumes and 'reference' not in kinds:
        found['notes'].append('what the reader left out is not known: this frame has lost its attrs, or had none')
    return found


def table(found: dict) -> str:
    """What `audit` found, as aligned text."""
    names = [*found['subsets'], 'all']
    parts = [*found['subsets'].values(), found['all']]
    rows = [('', *names)]
    for key in ('images', 'annotations', 'without annotation', 'several annotations', 'groups', 'cases'):
        rows.append((key, *(str(part[key]) for part in parts)))
    for i, name in found['categories'].items():
        used = '' if int(i) in found['foreground'] else ', not used'
        rows.append((f'category {i} ({name}{used})', *(str(part['categories'].get(i, 0)) for part in parts)))
    if found['areas']:
        for k, q in enumerate(QUANTILES):
            shares = [found['areas'][name] for name in names]
            rows.append((f'tumour area, {100 * q:.0f} % quantile',
                         *(f'{100 * s["quantiles"][k]:.2f} %' if s['images'] else '-' for s in shares)))
    for category, parts in (found['volumes'] or {'ml': {}})['ml'].items():
        for k, q in enumerate(QUANTILES):
            if category == 'tumour' or q == 0.5:
                what = f'{category} volume, {100 * q:.0f} % quantile'
                rows.append((what, *(f'{parts[name][k]:.1f} ml' if parts[name] else '-' for name in names)))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [row[0].ljust(widths[0]) + ''.join('  ' + c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))
             for row in rows]
    return '\n'.join(line.rstrip() for line in [*lines, '', *_findings(found)]) + '\n'


def _findings(found: dict) -> list[str]:
    sizes = [f'{s["width"]} × {s["height"]} ({s["images"]})' for s in found['sizes']]
    more = f' and {len(sizes) - 5} more' if len(sizes) > 5 else ''
    lines = [f'sizes, width × height (images): {", ".join(sizes[:5])}{more}'] if not found['volumes'] else [
        f'release {", ".join(found["volumes"]["schemas"])}',
        'grids, voxels at mm (cases): ' + ', '.join(f'{"×".join(map(str, g["voxels"]))} at '
                                                    f'{"×".join(f"{mm:g}" for mm in g["mm"])} ({g["cases"]})'
                                                    for g in found['volumes']['grids'][:5]),
        'missing modalities (cases): ' + (', '.join(f'{m} ({n})' for m, n in found['volumes']['missing'].items())
                                          or 'none')]
    lines += [f'annotations: {", ".join(f"{n} {kind}" for kind, n in found["kinds"].items()) or "none"}']
    if found['rectangles'] is not None:
        lines.append(f'rectangles: {100 * found["rectangles"]:.1f} % of the drawn annotations')
    for name, seen in (found['reader'] or {}).items():
        stops = ' (training will stop at them)' if seen['count'] and seen['policy'] in ('error', 'raise') else ''
        lines.append(f'reader, {name} = {seen["policy"]}: {seen["count"]}{stops}' + _such_as(seen['first']))
    for key, what in (('undecodable', 'images that cannot be decoded'),
                      ('unlisted', 'files beside the images that no annotation file names'),
                      ('leaking_groups', 'groups (patients, source images) in several subsets')):
        lines.append(f'{what}: {found[key]["count"]}' + _such_as(found[key]['first']))
    if found['twins']:
        for pair in found['twins']['subsets']:
            lines.append(f'near-duplicates (correlation > {TWIN}): {pair["images"]} of {pair["of"]} images of '
                         f'{pair["subset"]} have one in {pair["in"]}')
        lines += [f'  {p["correlation"]:.4f}  {p["a"]}  {p["b"]}' for p in found['twins']['pairs'][:5]]
    return lines + [f'note: {note}' for note in found['notes']]


def _such_as(items: list[str]) -> str:
    return f', first {"; ".join(items[:3])}' if items else ''


def _examples(items: list[str]) -> dict:
    return {'count': len(items), 'first': items[:frames.LISTED]}


def _subsets(images: pd.DataFrame) -> list[str]:
    return [s for s in frames.SUBSETS if (images['subset'] == s).any()]


def _counts(rows: pd.DataFrame, images: pd.DataFrame) -> dict:
    number = images['annotations'].map(len)
    return {'images': len(images), 'annotations': int(number.sum()), 'without annotation': int((number == 0).sum()),
            'several annotations': int((number > 1).sum()), 'groups': images['group'].nunique(),
            'cases': images['case'].nunique(),
            'categories': {str(i): int(n) for i, n in rows['category_id'].value_counts().sort_index().items()}}


def _kinds(frame: pd.DataFrame) -> dict[str, int]:
    drawn = frame[frame['segmentation'].notna()]
    kinds = [segmentations.kind(s, height=h, width=w)[0]
             for s, h, w in zip(drawn['segmentation'], drawn['height'], drawn['width'], strict=True)]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _unlisted(images: pd.DataFrame, root: pathlib.Path, read: Iterable[str]) -> list[str]:
    """Files in the folders of the images, with the suffix of one of them, that the frame does not name and that were
    not `read` as annotations."""
    known = {*images['path'], *read}
    suffixes = {pathlib.PurePosixPath(path).suffix.lower() for path in images['path']} - {''}
    files = [file for folder in sorted({(root / path).parent for path in images['path']}) if folder.is_dir()
             for file in sorted(folder.iterdir()) if file.suffix.lower() in suffixes and file.is_file()]
    return [name for file in files if (name := file.relative_to(root).as_posix()) not in known]


def _leaking_groups(images: pd.DataFrame) -> list[str]:
    """Groups that lie in more than one subset, such as augmented copies of one source image."""
    count = images.groupby('group', sort=True)['subset'].nunique()
    return count.index[count > 1].tolist()


def _areas(images: pd.DataFrame, area: Callable | None, chosen: tuple[int, ...]) -> dict:
    """Quantiles of the share of the image that is tumour, over the images that show one."""
    area = area or partial(_drawn_area, chosen=chosen)
    shares = np.array([area(row) for row in images.itertuples()], float)
    result = {}
    for name in (*_subsets(images), 'all'):
        here = shares[(shares > 0) & ((images['subset'] == name) | (name == 'all')).to_numpy()]
        quantiles = np.quantile(here, QUANTILES).tolist() if len(here) else []
        result[name] = {'images': len(here), 'quantiles': quantiles}
    return result


def _volumes(frame: pd.DataFrame, images: pd.DataFrame) -> dict | None:
    """Grids, missing modalities and tumour volumes of a frame of NIfTI cases; None of other frames.

    'ml' has {class or 'tumour': {subset or 'all': quantiles over the cases that show it}}, from the reader's counts.
    """
    if 'depth' not in frame:
        return None
    cases = frame.drop_duplicates(['subset', 'image_id'])
    grids = pd.Series([((r.height, r.width, r.depth), tuple(round(mm, 4) for mm in r.spacing))
                       for r in cases.itertuples()]).value_counts()
    missing = [modality for files in cases['modalities'] for modality, file in files.items() if file is None]
    drawn = frame[frame['segmentation'].notna()]
    ml = pd.DataFrame({'case': drawn['case'], 'subset': drawn['subset'], 'class': drawn['category'],
                       'ml': [s['voxels'] * np.prod(mm) / 1000
                              for s, mm in zip(drawn['segmentation'], drawn['spacing'], strict=True)]})
    whole = ml.groupby(['case', 'subset'], as_index=False)['ml'].sum().assign(**{'class': 'tumour'})
    ml = pd.concat([whole, ml])
    return {'schemas': sorted(set(cases['schema'])),
            'grids': [{'voxels': list(map(int, shape)), 'mm': list(mm), 'cases': int(n)}
                      for (shape, mm), n in grids.items()],
            'missing': {modality: missing.count(modality) for modality in dict.fromkeys(missing)},
            'ml': {name: {s: np.quantile(v, QUANTILES).tolist() if len(v) else []
                          for s in (*_subsets(images), 'all')
                          for v in [part['ml'][(part['subset'] == s) | (s == 'all')].to_numpy(float)]}
                   for name, part in ml.groupby('class', sort=False)}}


def _drawn_area(row, chosen: tuple[int, ...]) -> float:
    drawn = [segmentation for category, segmentation in row.annotations if category in chosen]
    if any(isinstance(s, dict) and 'pixels' in s for s in drawn):  # masks in files, whose classes exclude each other
        return sum(s['pixels'] for s in drawn) / (row.height * row.width)
    return segmentations.area(drawn, height=row.height, width=row.width, where=row.path) / (row.height * row.width)


def _twins(images: pd.DataFrame, root: pathlib.Path, thumbnail: Callable | None, notes: list[str], on_error: str
           ) -> tuple[dict | None, list[str]]:
    """(pairs of images in different subsets whose thumbnails correlate by more than `TWIN`, why others have none)."""
    if thumbnail is None and not all(path.lower().endswith(ENDINGS) for path in images['path']):
        notes.append('near-duplicates are looked for among image files only')
        return None, []
    thumbnail = thumbnail or (lambda row: file_thumbnail(root, row.path))
    vectors, damaged = np.zeros((len(images), SIDE ** 2), np.float32), []
    for k, row in enumerate(images.itertuples()):
        try:
            vectors[k] = standardised(thumbnail(row))
        except InputError as error:
            if on_error != 'skip':
                raise
            damaged.append(str(error))
    where = {s: np.flatnonzero(images['subset'] == s) for s in _subsets(images)}
    subsets, pairs = [], []
    for first, second in combinations(where, 2):
        found = correlated(vectors[where[second]], vectors[where[first]])
        subsets.append({'subset': second, 'in': first, 'images': len({i for i, _, _ in found}),
                        'of': len(where[second]), 'pairs': len(found)})
        pairs += [(c, where[second][i], where[first][j]) for i, j, c in found]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    paths = images['path'].tolist()
    return {'subsets': subsets, 'count': len(pairs),
            'pairs': [{'a': paths[i], 'b': paths[j], 'correlation': c} for c, i, j in pairs[:frames.LISTED]]}, damaged
