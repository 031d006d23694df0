"""--mode=compare: two evaluated runs, case by case."""
import hashlib
import json
from pathlib import Path

from unet_jax.errors import InputError
from unet_jax.evaluation import table
from unet_jax.workdir import write_text


def compare(folder: Path, other: str | None, *, subset: str) -> dict:
    """Prints how `folder` differs from `other`, both evaluated on `subset`; returns the comparison.

    Writes it beside the scores as compared_with_<name>_<digest>.json and .txt; the digest, of the other's whole path,
    keeps runs of one name apart. Raises InputError where there are no scores, and where the two were scored by
    different rules.
    """
    if not other:
        raise InputError('--other is missing: name the work directory to compare --workdir with')
    parts = [Path(other) / 'evaluation' / subset, folder / 'evaluation' / subset]
    scores = [table.read_cases(part) for part in parts]
    rules = [read_rules(part / 'summary.json') for part in parts]
    if any(rules[0][key] != rules[1][key] for key in rules[0].keys() & rules[1].keys()):
        raise InputError(f'{parts[0]} was scored by {rules[0]}, {parts[1]} by {rules[1]}; evaluate one of them again')
    found, how = table.compare(*scores), {key: rules[0][key] for key in ('convention', 'units')}
    text = (f'a: {other}\nb: {folder}\nsubset {subset}, convention {how["convention"]}, distances in {how["units"]}'
            f'\n\n{table.comparison_text(found)}')
    whole = Path(other).resolve()
    path = parts[1] / f'compared_with_{whole.name}_{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}.json'
    write_text(path, json.dumps({'a': str(other), 'b': str(folder), **how, **found}, indent=2) + '\n')
    write_text(path.with_suffix('.txt'), text)
    print(f'{text}\nWritten to {path} and .txt')
    return found


def read_rules(path: Path) -> dict:
    """What two summaries must share to be compared: convention, units, and what a metric that both have tells."""
    try:
        summary = json.loads(path.read_text(encoding='utf-8'))
        told = {f'{key} of {name}': entry[key] for metrics in summary['regions'].values()
                for name, entry in metrics.items() if isinstance(entry, dict)
                for key in ('tolerance', 'challenge') if key in entry}
        return {'convention': summary['convention'], 'units': summary['units'], **told}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f'{path}: is no summary of an evaluation ({error!r}); evaluate the run again') from error
