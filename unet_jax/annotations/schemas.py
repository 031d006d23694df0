"""What the BraTS releases call their files and labels, and how a tumour's parts look in each sequence.

Facts from the releases' own descriptions: Menze et al. 2015 (doi 10.1109/TMI.2014.2377694) and Baid et al. 2021
(arXiv 2107.02314) for labels 1, 2, 4; Kazerooni et al. (arXiv 2305.17033, 2404.15009) for the paediatric ones of 2023
and 2024; de Verdier et al. 2024 (arXiv 2405.18368) for post-treatment; LaBella et al. 2023 and 2024 (arXiv 2305.07642,
2405.18383) for meningioma and its radiotherapy; Moawad et al. 2023 (arXiv 2306.00838) for metastases; Adewole et al.
2023 (arXiv 2305.19369) for Sub-Saharan Africa; Antonelli et al. 2022 (arXiv 2106.05735) for the Decathlon.
"""
from collections.abc import Iterable
from typing import NamedTuple

from unet_jax.annotations.labels import Region
from unet_jax.errors import InputError

MODALITIES = ('flair', 't1', 't1ce', 't2')


class Schema(NamedTuple):
    """One release."""
    name: str
    case: str  # regular expression of a case's name; group 1 is the patient
    separator: str  # between the case's name and a file's suffix; '' where one 4-D file holds all modalities
    suffixes: dict[str, str]  # modality -> the suffix of its file, or its position in the 4-D file
    names: dict[int, str]  # label value -> class
    regions: tuple[Region, ...]  # trained and scored, the outer ones first
    label: str = 'seg'  # the suffix of the label's file

    @property
    def aliased(self) -> tuple[str, ...]:
        """Modalities that sets of no release call otherwise, beside those that call the others as this one does."""
        return ('t1ce',) if self.suffixes == _OLD else ()

    @property
    def loose(self) -> bool:
        """Whether a set of no release may call its files as this one does."""
        return bool(self.separator) and set(self.suffixes) == set(MODALITIES)


def _nested(core: tuple[int, ...], oedema: tuple[int, ...], enhancing: int, paint: tuple[int, int]
            ) -> tuple[Region, ...]:
    whole = tuple(sorted({*core, *oedema}))
    return (Region('WT', whole, paint[0]), Region('TC', core, paint[1]), Region('ET', (enhancing,), enhancing))


_OLD = dict(zip(MODALITIES, MODALITIES, strict=True))
_NEW = {'flair': 't2f', 't1': 't1n', 't1ce': 't1c', 't2': 't2w'}
_LABELS = {1: 'NCR/NET', 2: 'ED', 4: 'ET'}
_REGIONS = _nested((1, 4), (2,), 4, (2, 1))
_NEWER = {1: 'NCR', 2: 'ED', 3: 'ET'}
_TREATED = {1: 'NETC', 2: 'SNFH', 3: 'ET', 4: 'RC'}
_TREATED_REGIONS = (*_nested((1, 3), (2,), 3, (2, 1)), Region('RC', (4,), 4))

# Other endings, of sets of no release: UPENN-GBM, UCSF-PDGM, TCGA-GBM and TCGA-LGG.
ALIASES = {'t1gd': 't1ce', 't1c': 't1ce', 'segm': 'seg', 'tumor_segmentation': 'seg', 'glistrboost': 'seg',
           'glistrboost_manuallycorrected': 'seg'}

# What people call the four sequences, whatever the rest of a name is.
SPELLINGS = {'flair': ('flair', 't2f', 't2flair', 't2wflair', 'fla', 'flr'), 't1': ('t1', 't1n', 't1w', 't1pre'),
             't1ce': ('t1ce', 't1c', 't1gd', 't1wce', 't1gad', 't1post', 'ct1', 't1contrast'), 't2': ('t2', 't2w')}

SCHEMAS = {schema.name: schema for schema in (
    Schema('2018', r'(Brats18_.+)_\d+', '_', _OLD, _LABELS, _REGIONS),
    Schema('2019', r'(BraTS19_.+)_\d+', '_', _OLD, _LABELS, _REGIONS),
    Schema('2020', r'(BraTS20_Training_\d+)', '_', _OLD, _LABELS, _REGIONS),
    Schema('2021', r'(BraTS2021_\d+)', '_', _OLD, _LABELS, _REGIONS),
    Schema('2023', r'(BraTS-GLI-\d{5})-\d{3}', '-', _NEW, _NEWER,
           _nested((1, 3), (2,), 3, (2, 1))),
    Schema('2024-GLI', r'(BraTS-GLI-\d{5})-\d{3}', '-', _NEW, _TREATED, _TREATED_REGIONS),
    Schema('2024-PED', r'(BraTS-PED-\d{5})-\d{3}', '-', _NEW, {1: 'ET', 2: 'NET', 3: 'CC', 4: 'ED'},
           _nested((1, 2, 3), (4,), 1, (4, 2))),
    Schema('MEN', r'(BraTS-MEN-\d{5})-\d{3}', '-', _NEW, _NEWER, _nested((1, 3), (2,), 3, (2, 1))),
    Schema('SSA', r'(BraTS-SSA-\d{5})-\d{3}', '-', _NEW, _NEWER, _nested((1, 3), (2,), 3, (2, 1))),
    Schema('GoAT', r'(BraTS-GoAT-\d{5})(?:-\d{3})?', '-', _NEW, _NEWER, _nested((1, 3), (2,), 3, (2, 1))),
    Schema('MET', r'(BraTS-MET-\d{5})-\d{3}', '-', _NEW, _TREATED, _TREATED_REGIONS),
    Schema('MEN-RT', r'(BraTS-MEN-RT-\d{4})-\d+', '_', {'t1ce': 't1c'}, {1: 'GTV'}, (Region('GTV', (1,), 1),), 'gtv'),
    Schema('MSD', r'(BRATS_\d+)', '', {'flair': '0', 't1': '1', 't1ce': '2', 't2': '3'}, {1: 'ED', 2: 'NCR', 3: 'ET'},
           _nested((2, 3), (1,), 3, (1, 2))),
)}


def sequence(text: str) -> str:
    """What a sequence is called here: flair, t1, t1ce or t2 for their usual spellings, else the text, small."""
    plain = ''.join(filter(str.isalnum, text.lower()))
    return next((name for name, known in SPELLINGS.items() if plain in known), text.lower())


def in_order(sequences: Iterable[str]) -> tuple[str, ...]:
    """Sequences in the order of channels: flair, t1, t1ce, t2, then others by name."""
    return tuple(sorted(sequences, key=lambda name: (MODALITIES.index(name) if name in MODALITIES else 9, name)))


def schema(name: str) -> Schema:
    """The release called `name`. Raises InputError, naming the choices."""
    if name not in SCHEMAS:
        raise InputError(f'schema {name!r} is unknown; choose one of {", ".join(SCHEMAS)}')
    return SCHEMAS[name]


def choices(values: set[int], among: tuple[str, ...] = ()) -> str:
    """What to set config.data.schema to for files with these label values: the releases that have all of them, one for
    each meaning, those of `among` alone where there are some."""
    fits = {}
    for name, one in SCHEMAS.items():
        meaning = tuple(one.names.items())
        if values <= one.names.keys() and (meaning not in fits or name[0].isdigit()):  # the year, of equal ones
            fits[meaning] = name
    likely = [name for name in fits.values() if name in among] or list(fits.values())
    if not likely:
        return f'No release has the labels {sorted(values)}; write the labels of one of them into the files'
    meanings = [f'--config.data.schema={name} ({", ".join(f"{v} {n}" for v, n in SCHEMAS[name].names.items())})'
                for name in likely]
    old = {name for name, s in SCHEMAS.items() if s.names == _LABELS}
    three = '. Where 3 was written for 4, as many notebooks do, that is 2023' if 3 in values and {*among} & old else ''
    return (f'Say what they mean: {"; ".join(meanings)}{three}. Where they are of no release: '
            '--config.data.format=volumes takes each number for a class')


def classes(name: str) -> tuple[int, ...]:
    """The foreground label values of a release, ascending: bit k of a label is classes[k]."""
    return tuple(sorted(schema(name).names))


def regions(name: str) -> tuple[Region, ...]:
    """What is trained and scored in a release: WT ⊃ TC ⊃ ET, and the resection cavity RC where it is labelled."""
    return schema(name).regions


def value(name: str, part: str) -> int:
    """The label value of 'ET', the enhancing tumour, or 'ED', the oedema (in 2024: SNFH), in a release; -1 where there
    is none."""
    return next((v for v, n in schema(name).names.items() if n == part or (part, n) == ('ED', 'SNFH')), -1)
