"""--mode=compare: numbers by hand, refusal where runs were scored by different rules or on other cases and data, and
the page."""
import json
import re

import pandas as pd
import pytest
from browser import CHROMIUM, chromium

from unet_jax.errors import InputError
from unet_jax.evaluation import summary as summaries
from unet_jax.modes.compare import compare


def evaluated(folder, dices, convention='brats', tolerance=1.0, name='case', data=None, regions=('WT',)):
    """A work directory in which the cases have these Dice coefficients."""
    scores = pd.DataFrame([{'case': f'{name} {k}', 'group': f'patient {k}', 'region': region, 'dice': d,
                            'surface_dice': d, 'hd95': 10 * (1 - d), 'tp': 1, 'fp': 1, 'fn': 1}
                           for k, d in enumerate(dices) for region in regions])
    summary = summaries.summarise(scores, convention=convention, units='mm', tolerance=tolerance)
    summaries.write(folder / 'evaluation' / 'test', scores, summary)
    if data:
        known = {'root': '', 'digest': data, 'images': {}, 'annotations': {}}
        (folder / 'identity.json').write_text(json.dumps(known))
    return folder


def written(folder, suffix='json'):
    (path,) = (folder / 'evaluation/test').glob(f'compared_with_*/compare.{suffix}')
    return path.read_text()


def test_two_runs_are_compared_case_by_case(tmp_path, capsys):
    a = evaluated(tmp_path / 'a', [0.5, 0.6, 0.7, 0.9])
    b = evaluated(tmp_path / 'b', [0.6, 0.8, 0.7, 0.8])
    (pair,) = compare(b, [str(a)], subset='test')['pairs']
    dice, hd95 = pair['regions']['WT']['dice'], pair['regions']['WT']['hd95']
    assert dice['difference'] == pytest.approx(0.05) and (dice['wins'], dice['ties'], dice['losses']) == (2, 1, 1)
    assert hd95['difference'] == pytest.approx(-0.5) and hd95['wins'] == 2  # less is better
    assert dice['low'] <= 0.05 <= dice['high'] and dice['n'] == 4
    assert dice['p_holm'] == dice['p'] and dice['p_permutation'] == 0.75  # of ±0.1 ±0.2 ±0.1 6 of 8 reach 0.2
    printed = capsys.readouterr().out
    assert f'a: {a}\nb: {b}' in printed and '0.0500' in printed


def test_three_runs_are_ranked_and_the_cases_where_they_differ_named(tmp_path):
    a = evaluated(tmp_path / 'a', [0.5, 0.5, 0.9])
    b = evaluated(tmp_path / 'b', [0.5, 0.8, 0.8])
    c = evaluated(tmp_path / 'c', [0.4, 0.9, 0.1])
    found = compare(c, [str(a), str(b)], subset='test')
    # Ranks of a: 1 3 1, of b (equal to a in the first): 1 2 2, of c: 3 1 3; by Dice and by HD95 alike
    assert [(one['run'], one['place'], round(one['rank'], 6)) for one in found['ranking']] == [
        ('a', 1, 1.666667), ('b', 1, 1.666667), ('c', 3, 2.333333)]
    assert found['ranked_by'] == ['dice', 'hd95']
    first = found['differ_most'][0]
    assert (first['case'], first['region'], first['values']) == ('case 2', 'WT', {'a': 0.9, 'b': 0.8, 'c': 0.1})
    assert [(pair['a'], pair['b']) for pair in found['pairs']] == [('a', 'b'), ('a', 'c'), ('b', 'c')]
    ps = [pair['regions']['WT']['dice'] for pair in found['pairs']]
    assert all(one['p_permutation_holm'] >= one['p_permutation'] for one in ps)
    assert json.loads(written(c))['runs'][1]['run'] == str(b)
    table = pd.read_csv(next((c / 'evaluation/test').glob('*/compare.csv')))
    assert len(table) == 3 * 3 * 2 and table[(table.a == 'a') & (table.b == 'c') & (table.metric == 'dice')
                                            ].difference.tolist() == pytest.approx([-0.5 / 3] * 2)


def test_what_is_printed_is_written_beside_the_scores(tmp_path):
    a, b = evaluated(tmp_path / 'a', [0.5, 0.6]), evaluated(tmp_path / 'b', [0.6, 0.8])
    compare(b, [str(a)], subset='test')
    found = json.loads(written(b))
    assert found['pairs'][0]['regions']['WT']['dice']['difference'] == pytest.approx(0.15)
    assert found['runs'][0] == {'name': 'a', 'run': str(a), 'checkpoint': None, 'data': None}
    assert (found['convention'], found['units']) == ('brats', 'mm')
    text = written(b, 'txt')
    assert 'b - a' in text and 'subset test, convention brats, distances in mm' in text


def test_comparisons_with_runs_of_one_name_lie_beside_each_other(tmp_path):
    b = evaluated(tmp_path / 'b', [0.6, 0.8])
    for place in ('first', 'second'):
        compare(b, [str(evaluated(tmp_path / place / 'w', [0.5, 0.6]))], subset='test')
    found = (b / 'evaluation/test').glob('compared_with_w_*/compare.json')
    assert {json.loads(path.read_text())['runs'][0]['run'] for path in found} == {
        f'{tmp_path}/first/w', f'{tmp_path}/second/w'}


@pytest.mark.parametrize('rule', [{'convention': 'monai'}, {'tolerance': 2.0}])
def test_runs_scored_by_other_rules_are_refused(tmp_path, rule):
    a, b = evaluated(tmp_path / 'a', [0.5, 0.6], **rule), evaluated(tmp_path / 'b', [0.6, 0.8])
    with pytest.raises(InputError, match=f'was scored by .*{next(iter(rule.values()))}'):
        compare(b, [str(a)], subset='test')


def test_runs_of_other_cases_and_of_other_data_are_refused_by_name(tmp_path):
    b, c = evaluated(tmp_path / 'b', [0.6, 0.8], data='1' * 32), evaluated(tmp_path / 'c', [0.6, 0.7], data='1' * 32)
    fewer = evaluated(tmp_path / 'fewer', [0.6], data='1' * 32)
    with pytest.raises(InputError, match=f'1 cases and regions are in the scores of {b} alone, such as case 1 WT, so '
                                         f'{fewer} and {b}'):
        compare(b, [str(fewer)], subset='test')
    other = evaluated(tmp_path / 'other', [0.6, 0.8], data='2' * 32)
    with pytest.raises(InputError, match=f'{c} was made from data of digest 1+, {other} from 2+'):
        compare(b, [str(c), str(other)], subset='test')
    average = evaluated(other / 'ensembles' / 'both', [0.6, 0.8])  # its data are those of the run around it
    with pytest.raises(InputError, match='both from 2+'):
        compare(b, [str(c), str(average)], subset='test')
    unknown = evaluated(tmp_path / 'unknown', [0.6, 0.8])
    compare(b, [str(c), str(unknown)], subset='test')
    assert 'Not every run has noted its data' in written(b, 'html')


def test_a_metric_that_only_one_run_has_forbids_no_comparison(tmp_path):
    a, b = evaluated(tmp_path / 'a', [0.5, 0.6]), evaluated(tmp_path / 'b', [0.6, 0.8])
    path = b / 'evaluation/test/summary.json'
    summary = json.loads(path.read_text())
    summary['regions']['WT']['lesion_dice'] = {'challenge': 'GLI'}
    path.write_text(json.dumps(summary))
    assert compare(b, [str(a)], subset='test')['cases'] == 2


def test_a_run_without_scores_is_named_and_so_is_the_missing_flag(tmp_path):
    b = evaluated(tmp_path / 'b', [0.6, 0.8])
    with pytest.raises(InputError, match='--other'):
        compare(b, [], subset='test')
    with pytest.raises(InputError, match='nothing/evaluation/test/cases.csv does not exist'):
        compare(b, [str(tmp_path / 'nothing')], subset='test')


def marked_up(tmp_path):
    """Three runs whose folders, cases and regions are markup."""
    regions, bad = ('<i>WT</i>', 'TC'), '<script>alert(1)</script>&"'
    folders = [evaluated(tmp_path / f'{name}<b>&', [0.1 * k, 0.9, 0.3 + 0.1 * k, 0.0], name=bad, regions=regions)
               for k, name in enumerate('xyz')]
    compare(folders[2], list(map(str, folders[:2])), subset='test')
    return next((folders[2] / 'evaluation/test').glob('*/compare.html'))


def test_every_string_of_the_page_is_escaped_and_nothing_leads_outwards(tmp_path):
    page = marked_up(tmp_path).read_text()
    assert '<script' not in page and '<i>' not in page and 'y<b>' not in page
    assert page.count('&lt;script&gt;') > 20 and 'y&lt;b&gt;&amp;' in page
    assert not re.search(r'(href|src)=|url\(|@import', page)
    assert page.count('<svg') == 1 + 3 * 2 and page.count('class="dot"') == 3 * 2 * 4  # pairs, regions, cases


@pytest.mark.skipif(not CHROMIUM, reason='needs chromium')
def test_the_page_fits_a_phone_and_asks_for_nothing(tmp_path):
    path = marked_up(tmp_path)
    with chromium(tmp_path / 'profile') as browser:
        for scheme in ('light', 'dark'):
            browser.open(path, width=400, scheme=scheme)
            browser.wait('document.readyState === "complete"')
            assert browser.run('document.documentElement.scrollWidth') <= 400
        assert browser.run('getComputedStyle(document.body).backgroundColor') == 'rgb(20, 22, 26)'
        assert browser.complaints() == []
