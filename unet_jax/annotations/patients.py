"""Which images are slices of one patient, as their folders and names tell, or a pattern that the user gives."""
import logging
import re
from collections import Counter

from unet_jax.errors import InputError

NUMBERED = re.compile(r'^(?P<patient>.*\d.*?)[_\-. ]+(?:slice|img|image|s|z)?[_\-]?(?P<number>\d+)$', re.IGNORECASE)
NUMBER = re.compile(r'^(?P<series>.*?)(?P<number>\d+)$')  # IM-0001-0012, I12, slice_7, 0012
LEAST = 3  # slices of the patient in the middle, by their number; fewer are copies or views of single images
Found = list[tuple[str, int | None]]  # (patient, slice number) of each image; None where images stand alone
log = logging.getLogger('unet_jax')


def by_pattern(paths: list[str], pattern: str) -> Found:
    """By a regular expression with a group for the patient, and maybe one for the number of the slice.

    Raises InputError for a pattern that is none or does not fit every path, and where two images would be one slice.
    """
    try:
        found = [re.search(pattern, path) for path in paths]
        people = [(m[1], int(m[2]) if m.re.groups > 1 else None) for m in found]
    except (re.error, TypeError, ValueError, IndexError) as error:
        bad = [path for path in paths if not re.search(pattern, path)] if _compiles(pattern) else []
        raise InputError(f'config.data.group_pattern is {pattern!r}; it takes a regular expression with a group for '
                         'the patient, and one for the number, that fits every path'
                         f'{" such as " + bad[0] if bad else ""} ({error})') from error
    twice = [who for who, count in Counter(people).items() if count > 1 and who[1] is not None]
    if twice:
        same = [path for path, who in zip(paths, people, strict=True) if who == twice[0]]
        raise InputError(f'config.data.group_pattern is {pattern!r}; {same[0]} and {same[1]} would both be slice '
                         f'{twice[0][1]} of {twice[0][0]!r}. Let its first group take in what tells them apart, or '
                         'leave out the second, for images that are no slices')
    return people


def by_name(places: list[tuple[str, str]], *, least: int = LEAST, folders: int = 2) -> Found | None:
    """By folder and stem of each image; None where they show no patients.

    Slices of a patient are those of a folder with a digit in its name (as identifiers have, and words such as 'yes'
    have not) whose names end with numbers, TCGA_CS_4941/…_12.tif or P07/IM-0001-0012.png; of a folder with several
    series, those of one beginning; or, where there are no such `folders`, of names with a beginning that has a digit
    in it: P07-003.png. The patient in the middle, by the number of slices, has `least` or more.
    """
    within = [NUMBER.match(stem) for _, stem in places]
    names = [NUMBERED.match(stem) for _, stem in places]
    choices = []
    if all(within) and len({folder for folder, _ in places}) >= folders and all(
            re.search(r'\d', folder.rpartition('/')[2]) for folder, _ in places):
        numbers = [int(m['number']) for m in within]
        choices.append([(folder, n) for (folder, _), n in zip(places, numbers, strict=True)])
        choices.append([(f'{folder}/{m["series"].rstrip("_-. ")}', n)
                        for (folder, _), m, n in zip(places, within, numbers, strict=True)])
    if all(names):
        choices.append([(f'{folder}/{m["patient"]}'.strip('/'), int(m['number']))
                        for (folder, _), m in zip(places, names, strict=True)])
    for found in choices:
        sizes = Counter(patient for patient, _ in found)
        if len(set(found)) == len(found) and sorted(sizes.values())[len(sizes) // 2] >= least:
            return found
    return None


def tell(found: Found, where: str) -> None:
    """Says what the images were taken for, where they are slices."""
    sizes = Counter(patient for patient, number in found if number is not None)
    if sizes:
        log.info('%s: slices of %d patients, %d to %d each, such as %s; split together and scored as volumes. Where '
                 'that is wrong, config.data.group_pattern says who is who', where, len(sizes), min(sizes.values()),
                 max(sizes.values()), next(iter(sizes)))


def check_sizes(rows: list[dict]) -> None:
    """Raises InputError where slices of one case, which are stacked, have unlike sizes. rows: those of a frame."""
    first: dict[tuple[str, str], dict] = {}
    for row in rows:
        other = first.setdefault((row['subset'], row['case']), row)
        sizes = [(one['width'], one['height']) for one in (other, row)]
        if row.get('slice') is not None and sizes[0] != sizes[1]:
            raise InputError(f'{other["path"]} has {sizes[0][0]}×{sizes[0][1]} pixels, {row["path"]} '
                             f'{sizes[1][0]}×{sizes[1][1]}; slices of one patient ({row["case"]}) are stacked, so '
                             'they must have one size. Where they are no slices, a config.data.group_pattern with one '
                             'group, (patient), keeps them single images')


def _compiles(pattern: str) -> bool:
    try:
        return bool(re.compile(pattern))
    except re.error:
        return False
