"""How the files of a folder are called: the patterns that find each sequence and the label of every case.

A pattern is the end of a path, such as {case}_T1.nii.gz, {case}/t1c.nii.gz or FLAIR/{case}.nii.gz: {case} stands for
the case, * for anything without a slash. `guess` finds the patterns that explain most of the files there are.
"""
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from unet_jax.annotations import schemas
from unet_jax.annotations.nifti_search import NIFTI, Files, patient
from unet_jax.errors import InputError

LABEL = 'label'
LABELS = re.compile(r'(?:^|[_\-./ ])(?:masks?|labels?|seg(?:m|s|mentations?)?|gts?|ground_?truths?|truths?|rois?|gtv|'
                    r'lesions?|tumou?rs?|annotations?|glistrboost\w*|delineations?)(?:tr|ts)?/?$', re.IGNORECASE)
IMAGES = re.compile(r'(?:images?|imgs?|scans?|volumes?|data|inputs?)(?:tr|ts)?', re.IGNORECASE)
SEPARATOR = re.compile(r'[-_. ]')
SHOWN = 3  # examples in messages
log = logging.getLogger('unet_jax')


def expression(pattern: str) -> re.Pattern:
    """The regular expression of a pattern, over the end of a path, with the group `case`."""
    parts = re.split(r'(\{case\}|\*)', pattern)
    words = {'{case}': '(?P<case>[^/]+)', '*': '[^/]*'}
    return re.compile('(?:.*/)?' + ''.join(words.get(part, re.escape(part)) for part in parts), re.IGNORECASE)


def match(paths: Iterable[str], patterns: dict[str, str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """({case: {name of the pattern: path}}, the paths that fit none). Of several that fit a path, the longest pattern
    takes it. Raises InputError where two files are the same of one case."""
    known = [(name, expression(pattern)) for name, pattern in
             sorted(patterns.items(), key=lambda item: -len(item[1].replace('*', '')))]
    found, others = defaultdict(dict), []
    for path in paths:
        name, fits = next(((name, fits) for name, one in known if (fits := one.fullmatch(path))), (None, None))
        if fits is None:
            others.append(path)
        elif (other := found[fits['case']].setdefault(name, path)) != path:
            raise InputError(f'{other} and {path} are both {name} of {fits["case"]}; keep one, or write more of the '
                             f'path into config.data.files ({name}: {patterns[name]})')
    return dict(found), others


def candidates(path: str) -> list[tuple[str, str]]:
    """All (case, pattern) that a path may be read as."""
    parts = PurePosixPath(path).parts
    stem, ending = NIFTI.fullmatch(parts[-1]).groups()
    cuts = [found.start() for found in SEPARATOR.finditer(stem) if found.start()]
    ends = [found.end() for found in SEPARATOR.finditer(stem) if found.end() < len(stem)]
    tails = [(stem[:cut], '{case}' + stem[cut:] + ending) for cut in cuts]
    named = [(stem[cut:], stem[:cut] + '{case}' + ending) for cut in ends]
    found = tails + named
    if len(parts) > 1:
        found += [(case, f'{parts[-2]}/{pattern}') for case, pattern in [(stem, '{case}' + ending), *tails]]
        found += [(parts[-2], f'{{case}}/{parts[-1]}')]
        # t1/p1_x.nii.gz in a folder of p1 may be called anything
        found += [(parts[-2], f'{{case}}/*{stem[cut:]}{ending}') for cut in cuts]
    if len(parts) > 2:
        found += [(parts[-3], f'{{case}}/{parts[-2]}/{parts[-1]}'), (parts[-3], f'{{case}}/{parts[-2]}/*{ending}')]
    return found


def guess(paths: list[str]) -> dict[str, str]:
    """{role: pattern}: the patterns by which most files belong to cases that each have two files or more.

    A pattern's cases are tried as those of the data set; another pattern counts where it is found in half of them. A
    role is what a pattern says besides the case, such as T1. Empty where no two files have a case in common.
    """
    read = {path: candidates(path) for path in paths}
    cases_of = defaultdict(set)
    for found in read.values():
        for case, pattern in found:
            cases_of[pattern].add(case)
    best, most = {}, (0, 0, 0, 0, 0)
    tried = {frozenset(cases) for cases in cases_of.values() if len(cases) > 1}
    for cases in sorted(tried, key=lambda some: (-len(some), min(some)))[:64]:
        shared = {pattern: len(cases & mine) for pattern, mine in cases_of.items()}
        fits = {pattern: count for pattern, count in shared.items() if 2 * count >= len(cases)}
        taken = defaultdict(dict)
        for path, found in read.items():
            good = [(fits[pattern], '*' not in pattern, len(pattern), case, pattern) for case, pattern in found
                    if case in cases and pattern in fits]
            if good:
                *_, case, pattern = max(good)
                taken[pattern].setdefault(case, path)
        files = Counter(case for found in taken.values() for case in found)
        whole = sum(count for count in files.values() if count > 1)
        # then words that are known, what needs no *, and the longest names of cases
        known = sum(is_known(role(pattern)) for pattern in taken)
        score = whole, known, -len(taken), -sum('*' in pattern for pattern in taken), sum(map(len, cases))
        if len(taken) > 1 and whole and score > most:
            best, most = dict(taken), score
    return {role(pattern): pattern for pattern in best or one_case(read)}


def one_case(read: dict[str, list[tuple[str, str]]]) -> list[str]:
    """The patterns of a single case: by the longest name that all its files may have."""
    shared = set.intersection(*({case for case, _ in found} for found in read.values())) if len(read) > 1 else set()
    if not shared:
        return []
    name = max(shared, key=lambda case: (len(case), case))
    return [max((pattern for case, pattern in found if case == name), key=lambda p: ('*' not in p, len(p)))
            for found in read.values()]


def is_known(name: str) -> bool:
    """Whether a role is called like a label or one of the four sequences."""
    return bool(LABELS.search(name)) or sequence(name) in schemas.MODALITIES


def role(pattern: str) -> str:
    """What a pattern says besides the case: T1 of {case}_T1.nii.gz, FLAIR of FLAIR/{case}.nii.gz."""
    plain = NIFTI.fullmatch(pattern)[1] if NIFTI.fullmatch(pattern) else pattern
    return '/'.join(part for text in re.split(r'\{case\}|\*|/', plain) if (part := text.strip('-_. '))) or 'image'


def name_roles(roles: dict[str, str], where: str) -> tuple[tuple[str, str], ...]:
    """What `guess` found as `config.data.files`: sequences in the order of channels, then the label.

    Raises InputError, with the choices as flags, where no role or several may be the label's, or two sequences get
    one name.
    """
    labels = [name for name in roles if LABELS.search(name)]
    table = '\n'.join(f'  {name}: {pattern}' for name, pattern in roles.items())
    if len(labels) != 1:
        likely = labels or list(roles)
        flags = '\n'.join('  ' + flag(named_files(roles, name, labels)) for name in likely)
        what = 'none of them is called like a label' if not labels else f'{len(labels)} of them may be the label'
        raise InputError(f'{where}: the files fall into {len(roles)} kinds, and {what}:\n{table}\nSay which; '
                         f'sequences that are not wanted can be left out:\n{flags}')
    files = named_files(roles, labels[0], labels)
    twice = [name for name, count in Counter(name for name, _ in files).items() if count > 1]
    if twice:
        own = ((name if sequence(name) in twice else sequence(name), pattern) for name, pattern in roles.items()
               if name not in labels)
        raise InputError(f'{where}: several kinds of files would be {twice[0]}:\n{table}\nName them, or leave some '
                         f'out:\n  {flag((*own, (LABEL, roles[labels[0]])))}')
    return files


def named_files(roles: dict[str, str], label: str, labels: list[str]) -> tuple[tuple[str, str], ...]:
    files = {name: roles[name] for name in roles if name != label and name not in labels}
    names = [sequence(name) for name in files]
    order = sorted(zip(names, files.values(), strict=True),
                   key=lambda item: schemas.in_order(names).index(item[0]))
    return (*order, (LABEL, roles[label]))


def sequence(name: str) -> str:
    """The sequence that a role is: T1w of anat/T1w; image where it says no more than that."""
    return schemas.sequence('image' if IMAGES.fullmatch(name) else name.rsplit('/', 1)[-1])


def flag(files: Iterable[tuple[str, str]]) -> str:
    """As it is typed."""
    return '--config.data.files="(' + ','.join(f"('{name}','{pattern}')" for name, pattern in files) + ')"'


def cases(root: Path, paths: list[str], patterns: dict[str, str], modalities: tuple[str, ...], *,
          missing_modalities: bool, labelled: bool) -> tuple[list[Files], list[str]]:
    """(the cases, what is wrong with those that lack a file). Raises InputError where no file fits."""
    found, others = match(paths, patterns)
    if not found:
        raise InputError(f'{root}: none of its {len(paths)} NIfTI files, such as {", ".join(paths[:SHOWN])}, is '
                         f'called as config.data.files says: {patterns}')
    if others and labelled:
        log.warning('%s: %d NIfTI files belong to no case and are left out, such as %s', root, len(others), others[0])
    whole, problems = [], []
    for name, files in sorted(found.items()):
        absent = [m for m in modalities if m not in files]
        lacking = (absent if not missing_modalities or len(absent) == len(modalities) else []) \
            + [LABEL] * (labelled and LABEL not in files)
        if lacking:
            told = ', '.join(f'{m} ({patterns.get(m)})' for m in lacking)
            problems.append(f'{root}: case {name} lacks {told}; it has {", ".join(sorted(files.values())[:8])}. Add '
                            'what is missing, or leave such cases out: --config.data.on_error=skip')
            continue
        paths_of = {m: Path(root) / files[m] if m in files else None for m in modalities}
        folder = next(path for path in paths_of.values() if path).parent
        label = Path(root) / files[LABEL] if labelled else None
        whole.append(Files(name, patient(name), folder, paths_of, label))
    return whole, problems
