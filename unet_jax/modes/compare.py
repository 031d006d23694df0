"""--mode=compare: two results or more, of runs or of averages of several: ranked, and case by case."""
import hashlib
import json
import string
from collections.abc import Sequence
from pathlib import Path

from unet_jax.annotations import identity
from unet_jax.errors import InputError
from unet_jax.evaluation import comparison
from unet_jax.evaluation import summary as summaries
from unet_jax.evaluation.table import comparison_text
from unet_jax.report import compare as page
from unet_jax.workdir import write_text


def compare(folder: Path, others: Sequence[str], *, subset: str) -> dict:
    """Prints how `folder` and `others`, all evaluated on `subset`, are ranked and differ; returns the comparison.

    Each is a work directory or the folder of an average, <work directory>/ensembles/<name>; which checkpoints were
    scored stands beside them. Writes compare.html, compare.csv, compare.json and compare.txt into a folder beside the
    scores of `folder`, compared_with_<name>_<digest>; the digest, of the others' whole paths, keeps runs of one name
    apart. Raises InputError where there are no scores, and where they are of other cases, rules, annotations or data.
    """
    if not others:
        raise InputError('--other is missing: name the work directories, or the folders of ensembles in them, to '
                         'compare --workdir with, such as --other=runs/a,runs/b')
    runs = [Path(path) for path in (*others, folder)]
    if len(runs) > len(string.ascii_lowercase):
        raise InputError(f'--other names {len(others)} runs; give at most {len(string.ascii_lowercase) - 1}')
    parts = [run / 'evaluation' / subset for run in runs]
    scores = [summaries.read_cases(part) for part in parts]
    how = check_rules(parts)
    letters = string.ascii_lowercase[:len(runs)]
    told = [{'name': letter, 'run': str(run), 'checkpoint': summaries.read_summary(part).get('checkpoint'),
             'data': data_digest(run)} for letter, run, part in zip(letters, runs, parts, strict=True)]
    check_data(told)
    comparison.check_same_cases(dict(zip(map(str, runs), scores, strict=True)))
    tables = {one['name']: table for one, table in zip(told, scores, strict=True)}
    found = comparison.compare(tables)
    text = '\n'.join(f'{one["name"]}: {called(one)}' for one in told)
    text += f'\nsubset {subset}, convention {how["convention"]}, distances in {how["units"]}\n\n'
    text += comparison_text(found)
    target = parts[-1] / place(runs[:-1])
    whole = {'runs': told, 'subset': subset, **how, **found}
    target.mkdir(exist_ok=True)
    write_text(target / 'compare.json', json.dumps(whole, indent=2) + '\n')
    write_text(target / 'compare.csv', comparison.pairs_table(found).to_csv(index=False))
    write_text(target / 'compare.txt', text)
    write_text(target / 'compare.html', page.html(whole, tables))
    print(f'{text}\nWritten to {target}/compare.html, .csv, .json and .txt')
    return found


def called(one: dict) -> str:
    """A run by its folder, and what was scored of it."""
    return one['run'] if one['checkpoint'] is None else f'{one["run"]} (checkpoint {one["checkpoint"]})'


def place(others: Sequence[Path]) -> str:
    """The name of the folder of a comparison."""
    whole = [str(path.resolve()) for path in others]
    name = Path(whole[0]).name if len(whole) == 1 else f'{len(whole)}_runs'
    return f'compared_with_{name}_{hashlib.sha256(chr(0).join(whole).encode()).hexdigest()[:8]}'


def check_rules(parts: Sequence[Path]) -> dict:
    """{'convention', 'units'} of all. Raises InputError where two were scored by different rules."""
    rules = [read_rules(part / 'summary.json') for part in parts]
    for part, rule in zip(parts, rules, strict=True):
        if any(rules[0][key] != rule[key] for key in rules[0].keys() & rule.keys()):
            raise InputError(f'{parts[0]} was scored by {rules[0]}, {part} by {rule}; evaluate one of them again')
    return {key: rules[0][key] for key in ('convention', 'units')}


def data_digest(run: Path) -> str | None:
    """The digest of the data of a run, or of the run that an average lies in; None where it was not noted."""
    inside = run.resolve().parent
    known = identity.load(run) or (identity.load(inside.parent) if inside.name in ('ensembles', 'interim') else None)
    return known['digest'] if known else None


def check_data(told: Sequence[dict]) -> None:
    """Raises InputError where two runs are known to be made from different data."""
    known = [one for one in told if one['data']]
    for one in known[1:]:
        if one['data'] != known[0]['data']:
            raise InputError(f'{known[0]["run"]} was made from data of digest {known[0]["data"]}, {one["run"]} from '
                             f'{one["data"]}: other files, so they cannot be compared. Evaluate both on the same data')


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
