"""What a field of the config may hold: kinds of values, and how each is read from a command line or a saved config."""
import ast
import math
import numbers
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

LARGEST, HIGHEST = 2**31 - 1, 3e38  # of whole numbers and of others; on the device they have 32 bits


class Kind(NamedTuple):
    """Values of one kind. `read` gives one as the config holds it; it raises ValueError or TypeError for others."""
    words: str  # what to give
    read: Callable[[Any], Any]
    example: str  # as it is typed
    typed: bool = False  # what is typed is the value, whatever it looks like: 2020 is a text


class Field(NamedTuple):
    """One field: all that a user, the checks and the reference page need."""
    default: Any
    kind: Kind
    meaning: str
    unit: str = ''
    only: str = ''  # 'volumetric' or 'unspaced': no other format of data (formats/seam.py) has a use for it


def example(field: Field) -> str:
    """The default, or another value where that is empty, as it is typed."""
    value = field.default
    if value in ((), ''):
        found = field.kind.example
    elif isinstance(value, tuple):
        plain = not any(isinstance(entry, tuple) for entry in value)
        found = ','.join(map(str, value)) if plain else str(value).replace(' ', '')
    else:
        found = f'{value:g}' if isinstance(value, float) else str(value)
    return f'"{found}"' if '(' in found else found


def require(good: bool) -> None:
    if not good:
        raise ValueError


def whole(low: int, high: int = LARGEST) -> Kind:
    def read(value: Any) -> int:
        require(isinstance(value, numbers.Real) and not isinstance(value, bool) and value == int(value))
        require(low <= value <= high)
        return int(value)

    limit = '' if high == LARGEST else f' to {high}'
    return Kind(f'a whole number from {low}{limit}', read, str(max(low, 1)))


def number(low: float, high: float = HIGHEST, *, above: bool = False, below: bool = False) -> Kind:
    """From `low` to `high`, without `low` itself if `above`, without `high` if `below`."""
    def read(value: Any) -> float:
        require(isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value))
        require(low <= value <= high and not (above and value == low) and not (below and value == high))
        return float(value)

    words = f'above {low:g}' if above else f'from {low:g}'
    words += '' if high == HIGHEST else f' to below {high:g}' if below else f' to {high:g}'
    return Kind(f'a number {words}', read, f'{(low + high) / 2 if high < HIGHEST else low + 1:g}')


def read_truth(value: Any) -> bool:
    value = {'true': True, 'false': False}.get(value.lower(), value) if isinstance(value, str) else value
    require(value in (True, False))
    return bool(value)


def read_text(value: Any) -> str:
    require(isinstance(value, str) and '\0' not in value)
    return value


def read_scale(value: Any) -> bool | str:
    return 'patient' if isinstance(value, str) and value == 'patient' else read_truth(value)


truth = Kind('True or False', read_truth, 'True')
scale = Kind("True (each image by itself), 'patient' (all slices of a patient by one scale) or False", read_scale,
             'patient', typed=True)
text = Kind('a text', read_text, 'TEXT', typed=True)
path = Kind('the path of a file or folder', read_text, 'DIR', typed=True)


def one_of(names: Collection[str]) -> Kind:
    def read(value: Any) -> str:
        require(isinstance(value, str) and value in names)
        return value

    shown = [name or "'' (nothing)" for name in names]
    return Kind(f'one of {", ".join(shown)}', read, next(name for name in names if name), typed=True)


def several(kind: Kind, lengths: Collection[int] = (), *, once: bool = False) -> Kind:
    """A tuple of values of one kind, of one of these lengths (() is any); each `once`. One alone is a tuple of it."""
    def read(value: Any) -> tuple:
        value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        found = tuple(map(kind.read, value))
        require(not lengths or len(found) in lengths)
        require(not once or len(set(found)) == len(found))
        return found

    count = f'{min(lengths)} to {max(lengths)}' if len(lengths) > 2 else ' or '.join(map(str, lengths))
    count = count or 'any number of'
    words = f'{count} values{", none twice" if once else ""}, each {kind.words}'
    return Kind(words, read, ','.join([kind.example] * max(lengths, default=1)))


def weighted(names: Collection[str]) -> Kind:
    """((name, weight), …); a name alone weighs 1, and a single pair needs no second parentheses."""
    name, weight = one_of(names), number(0)

    def pair(value: Any) -> tuple[str, float]:
        value = (value, 1.0) if isinstance(value, str) else value
        found, number_ = value
        return name.read(found), weight.read(number_)

    def read(value: Any) -> tuple[tuple[str, float], ...]:
        found = tuple(map(pair, (value,) if single(value, str) or isinstance(value, str) else value))
        require(found and len(dict(found)) == len(found) and any(w > 0 for _, w in found))
        return found

    return Kind(f'(name, weight) once for each, of {", ".join(names)}, or the names alone to weigh each 1', read,
                "(('dice',1.0),('focal',0.5))")


def read_arguments(value: Any) -> tuple[tuple[str, Any], ...]:
    found = tuple((name, entry) for name, entry in ((value,) if single(value, str) else value))
    require(len(dict(found)) == len(found))
    for name, entry in found:
        require(isinstance(name, str) and name.isidentifier())
        require(isinstance(entry, (str, bool, int, float, type(None))))
        require(not isinstance(entry, float) or math.isfinite(entry))
    return found


def single(value: Any, first: type) -> bool:
    """Whether a value is one pair or triple without the parentheses about it: ('dice', 1.0), not (('dice', 1.0),)."""
    return isinstance(value, (tuple, list)) and 2 <= len(value) <= 3 and isinstance(value[0], first) and \
        not isinstance(value[1], str)


def read_regions(value: Any) -> tuple[tuple[str, tuple[int, ...], int], ...]:
    name, ids, paint = text, several(whole(0), once=True), whole(0)
    value = (value,) if single(value, str) else value
    require(isinstance(value, (tuple, list)))
    found = tuple((name.read(n), ids.read(i), paint.read(p)) for n, i, p in value)
    names = [entry[0] for entry in found]
    require(all(names) and len(set(names)) == len(names))
    require(all(inside and color in inside for _, inside, color in found))
    return found


def read_mask_values(value: Any) -> tuple[tuple[int, str], ...]:
    number_, name = whole(0, 2**25), text
    found = tuple((number_.read(v), name.read(n)) for v, n in ((value,) if single_value(value) else value))
    require(len(dict(found)) == len(found) and all(n for _, n in found))
    return found


def read_factors(value: Any) -> tuple[tuple[str, float], ...]:
    found = tuple((text.read(part), number(0).read(by)) for part, by in ((value,) if single(value, str) else value))
    require(len(dict(found)) == len(found) and all(part for part, _ in found))
    return found


def single_value(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and not isinstance(value[0], (tuple, list))


def read_file_patterns(value: Any) -> tuple[tuple[str, str], ...]:
    found = tuple((text.read(name), text.read(pattern)) for name, pattern in value)
    require(len(dict(found)) == len(found))
    require(all(name and pattern.count('{case}') == 1 for name, pattern in found))
    return found


def per_level(high: int, *, odd: bool = False) -> Kind:
    """For each level a tuple of whole numbers from 1, one an axis; () leaves them as they are without."""
    side = several(whole(1, high), (2, 3))

    def read(value: Any) -> tuple[tuple[int, ...], ...]:
        value = tuple(value)
        found = tuple(map(side.read, value))
        require(len(found) <= 10 and len({len(sides) for sides in found}) < 2)
        require(not odd or all(n % 2 for sides in found for n in sides))
        return found

    return Kind(f'() or for each level an entry of whole {"odd " * odd}numbers from 1 to {high}, one an axis', read,
                '((1,1,1),(3,3,3))' if odd else '((1,1,1),(2,2,1))')


def read_axes(value: Any) -> str:
    letters = read_text(value)
    pairs = ''.join({'R': 'L', 'P': 'A', 'I': 'S'}.get(letter, letter) for letter in letters)
    require(not letters or sorted(pairs) == ['A', 'L', 'S'])
    return letters


def read_unless_between(value: Any) -> float:
    found = number(0).read(value)
    require(found == 0 or found >= 1)
    return found


arguments = Kind('(name, value) once for each', read_arguments, "(('weight_decay',1e-4),)")
regions = Kind('(name, (category ids), id to paint) for each region, of different names; the id to paint is one of '
               'its category ids', read_regions, "(('WT',(1,2,4),2),('ET',(4,),4))")
mask_values = Kind('(value in the masks, name) for each; values of one name are one class', read_mask_values,
                   "((255,'tumour'),)")
file_patterns = Kind('(name, pattern) for each sequence and the label; a pattern is a path below the root in which '
                     '{case} stands for the case and * for anything', read_file_patterns,
                     "(('t1','{case}_T1.nii.gz'),('label','{case}_mask.nii.gz'))")
factors = Kind('(part, factor) for each part of the network, by how the names of its parameters begin; 0 keeps it as '
               'it is', read_factors, "(('encoder',0.1),)")
axes = Kind("one letter a axis, of R or L, A or P, S or I, or '' (as in the files)", read_axes, 'LPS', typed=True)
factor = Kind('0 (off) or a number from 1', read_unless_between, '2.0')


def literal(typed: str) -> Any:
    """What was typed as a value: Python's spelling, or names without quotation marks with commas between them."""
    try:
        return ast.literal_eval(typed.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        parts = typed.strip().strip('()[]').split(',')
        return tuple(literal(part) for part in parts if part.strip()) if len(parts) > 1 else typed.strip()
