"""--mode=compare: numbers by hand, refusal where two runs were scored by different rules."""
import json

import pandas as pd
import pytest

from unet_jax.errors import InputError
from unet_jax.evaluation import summary as summaries
from unet_jax.modes.compare import compare


def evaluated(folder, dices, convention='brats', tolerance=1.0):
    """A work directory in which the cases have these Dice coefficients."""
    scores = pd.DataFrame([{'case': f'case {k}', 'group': f'patient {k}', 'region': 'WT', 'dice': d, 'surface_dice': d,
                            'hd95': 10 * (1 - d), 'tp': 1, 'fp': 1, 'fn': 1} for k, d in enumerate(dices)])
    summary = summaries.summarise(scores, convention=convention, units='mm', tolerance=tolerance)
    summaries.write(folder / 'evaluation' / 'test', scores, summary)
    return folder


def test_two_runs_are_compared_case_by_case(tmp_path, capsys):
    a = evaluated(tmp_path / 'a', [0.5, 0.6, 0.7, 0.9])
    b = evaluated(tmp_path / 'b', [0.6, 0.8, 0.7, 0.8])
    found = compare(b, str(a), subset='test')
    dice, hd95 = found['regions']['WT']['dice'], found['regions']['WT']['hd95']
    assert dice['difference'] == pytest.approx(0.05) and (dice['wins'], dice['ties'], dice['losses']) == (2, 1, 1)
    assert hd95['difference'] == pytest.approx(-0.5) and hd95['wins'] == 2  # less is better
    assert dice['low'] <= 0.05 <= dice['high'] and dice['n'] == 4
    printed = capsys.readouterr().out
    assert f'a: {a}\nb: {b}' in printed and '0.0500' in printed


def test_what_is_printed_is_written_beside_the_scores(tmp_path):
    a, b = evaluated(tmp_path / 'a', [0.5, 0.6]), evaluated(tmp_path / 'b', [0.6, 0.8])
    compare(b, str(a), subset='test')
    (path,) = (b / 'evaluation/test').glob('compared_with_a_*.json')
    written = json.loads(path.read_text())
    assert written['regions']['WT']['dice']['difference'] == pytest.approx(0.15) and written['a'] == str(a)
    assert (written['convention'], written['units']) == ('brats', 'mm')
    text = path.with_suffix('.txt').read_text()
    assert 'b - a' in text and 'subset test, convention brats, distances in mm' in text


def test_comparisons_with_runs_of_one_name_lie_beside_each_other(tmp_path):
    b = evaluated(tmp_path / 'b', [0.6, 0.8])
    for place in ('first', 'second'):
        compare(b, str(evaluated(tmp_path / place / 'w', [0.5, 0.6])), subset='test')
    assert {json.loads(path.read_text())['a'] for path in (b / 'evaluation/test').glob('compared_with_w_*.json')} == {
        f'{tmp_path}/first/w', f'{tmp_path}/second/w'}


@pytest.mark.parametrize('rule', [{'convention': 'monai'}, {'tolerance': 2.0}])
def test_runs_scored_by_other_rules_are_refused(tmp_path, rule):
    a, b = evaluated(tmp_path / 'a', [0.5, 0.6], **rule), evaluated(tmp_path / 'b', [0.6, 0.8])
    with pytest.raises(InputError, match=f'was scored by .*{next(iter(rule.values()))}'):
        compare(b, str(a), subset='test')


def test_a_metric_that_only_one_run_has_forbids_no_comparison(tmp_path):
    a, b = evaluated(tmp_path / 'a', [0.5, 0.6]), evaluated(tmp_path / 'b', [0.6, 0.8])
    path = b / 'evaluation/test/summary.json'
    summary = json.loads(path.read_text())
    summary['regions']['WT']['lesion_dice'] = {'challenge': 'GLI'}
    path.write_text(json.dumps(summary))
    assert compare(b, str(a), subset='test')['cases'] == 2


def test_a_run_without_scores_is_named_and_so_is_the_missing_flag(tmp_path):
    b = evaluated(tmp_path / 'b', [0.6, 0.8])
    with pytest.raises(InputError, match='--other'):
        compare(b, None, subset='test')
    with pytest.raises(InputError, match='nothing/evaluation/test/cases.csv does not exist'):
        compare(b, str(tmp_path / 'nothing'), subset='test')
