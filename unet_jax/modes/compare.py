"""--mode=compare: two results, of runs or of averages of several, case by case."""
import hashlib
import json
from pathlib import Path

from unet_jax.errors import InputError
from unet_jax.evaluation import comparison, table
from unet_jax.evaluation import summary as summaries
from unet_jax.workdir import write_text


def compare(folder: Path, other: str | None, *, subset: str) -> dict:
    """Prints how `folder` differs from `other`, both evaluated on `subset`; returns the comparison.

    Each is a work directory or the folder of an average, <work directory>/ensembles/<name>; which checkpoints were
    scored stands beside them. Writes it beside the scores as compared_with_<name>_<digest>.json and .txt; the digest,
    of the other's whole path, keeps runs of one name apart. Raises InputError where there are no scores, and where the
    two were scored by different rules or against different annotations.
    """
    if not other:
        raise InputError('--other is missing: name the work directory, or the folder of an ensemble in it, to compare '
                         '--workdir with')
    parts = [Path(other) / 'evaluation' / subset, folder / 'evaluation' / subset]
    scores = [summaries.read_cases(part) for part in parts]
    rules = [read_rules(part / 'summary.json') for part in parts]
    if any(rules[0][key] != rules[1][key] for key in rules[0].keys() & rules[1].keys()):
        raise InputError(f'{parts[0]} was scored by {rules[0]}, {parts[1]} by {rules[1]}; evaluate one of them again')
    used = [summaries.read_summary(part).get('checkpoint') for part in parts]
    found, how = comparison.compare(*scores), {key: rules[0][key] for key in ('convention', 'units')}
    names = [str(name) if step is None else f'{name} (checkpoint {step})'
             for name, step in zip((other, folder), used, strict=True)]
    text = (f'a: {names[0]}\nb: {names[1]}\nsubset {subset}, convention {how["convention"]}, distances in '
            f'{how["units"]}\n\n{table.comparison_text(found)}')
    whole = Path(other).resolve()
    path = parts[1] / f'compared_with_{whole.name}_{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}.json'
    told = {'a': str(other), 'b': str(folder), 'checkpoint_a': used[0], 'checkpoint_b': used[1]}
    write_text(path, json.dumps({**told, **how, **found}, indent=2) + '\n')
    write_text(path.with_suffix('.txt'), text)
    print(f'{text}\nWritten to {path} and .txt')
    return found


def read_rules(path: Path) -> dict:
    """What two summaries must share to be compared: convention, units, and what a metric that both have tells."""
    try:
        summary = json.loads(path.read_text(encoding='utf-8'))
        if summary.get('unscored'):
            raise InputError(f'{path}: no case has an annotation, so there are no scores to compare')
        told = {f'{key} of {name}': entry[key] for metrics in summary['regions'].values()
                for name, entry in metrics.items() if isinstance(entry, dict)
                for key in ('tolerance', 'challenge', 'rule') if key in entry}
        return {'convention': summary['convention'], 'units': summary['units'], **told}
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f'{path}: is no summary of an evaluation ({error!r}); evaluate the run again') from error
