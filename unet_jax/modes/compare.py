"""--mode=compare: two evaluated runs, case by case."""
import json
from pathlib import Path

from unet_jax.errors import InputError
from unet_jax.evaluation import table
from unet_jax.workdir import write_text


def compare(folder: Path, other: str | None, *, subset: str) -> dict:
    """Prints how `folder` differs from `other`, both evaluated on `subset`; returns the comparison.

    Writes it as compared_with_<other>.json and .txt beside the scores. Raises InputError where there are none, and
    where the two were scored by different rules.
    """
    if not other:
        raise InputError('--other is missing: name the work directory to compare --workdir with')
    parts = [Path(other) / 'evaluation' / subset, folder / 'evaluation' / subset]
    scores = [table.read_cases(part) for part in parts]
    rules = [read_rules(part / 'summary.json') for part in parts]
    if rules[0] != rules[1]:
        raise InputError(f'{parts[0]} was scored by {rules[0]}, {parts[1]} by {rules[1]}; evaluate one of them again')
    found = table.compare(*scores)
    text = f'a: {other}\nb: {folder}\nsubset {subset}\n\n{table.comparison_text(found)}'
    path = parts[1] / f'compared_with_{Path(other).resolve().name}.json'
    write_text(path, json.dumps({'a': str(other), 'b': str(folder), **found}, indent=2) + '\n')
    write_text(path.with_suffix('.txt'), text)
    print(f'{text}\nWritten to {path} and .txt')
    return found


def read_rules(path: Path) -> dict:
    """What two summaries must share to be compared."""
    try:
        summary = json.loads(path.read_text(encoding='utf-8'))
        told = {key: entry[key] for metrics in summary['regions'].values() for entry in metrics.values()
                if isinstance(entry, dict) for key in ('tolerance', 'challenge') if key in entry}
        return {'convention': summary['convention'], 'units': summary['units'], **told}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f'{path}: is no summary of an evaluation ({error!r}); evaluate the run again') from error
