import json

import nibabel
import numpy as np
import pandas as pd
import pytest

from unet_jax.errors import InputError
from unet_jax.evaluation import comparison, lesions, measure, overlap, surface, table
from unet_jax.evaluation import summary as summaries

NAN, INF = float('nan'), float('inf')


def masks(shape=(8, 9, 10)):
    reference, prediction = np.zeros(shape, bool), np.zeros(shape, bool)
    reference[2:6, 2:6], prediction[3:6, 2:7] = True, True
    return reference, prediction


def frame(**columns) -> pd.DataFrame:
    """Cases a, b, c of patients p, p, q in one region, with the given columns."""
    n = len(next(iter(columns.values())))
    return pd.DataFrame({'case': list('abcdef')[:n], 'group': list('ppqrst')[:n], 'region': 'WT', **columns})


CASES = frame(dice=[0.5, 1.0, 0.0], hd95=[3.0, 0.0, 373.12866], tp=[2, 0, 0], fp=[2, 0, 3], fn=[2, 0, 0], tn=[9, 9, 9])


def summary(cases=CASES, convention='brats', units='mm', **more):
    return summaries.summarise(cases, convention=convention, units=units, **more)


def test_a_score_holds_what_the_other_modules_measure():
    reference, prediction = masks()
    spacing = (1.0, 2.0, 1.5)
    scores = measure.score(reference, prediction, spacing=spacing, tolerance=2.0, lesion='MET')
    c = overlap.counts(reference, prediction)
    assert list(scores) == ['dice', 'iou', 'sensitivity', 'specificity', 'hd95', 'surface_dice', 'lesion_dice',
                            'lesion_nsd', 'lesion_hd95', 'lesion_tp', 'lesion_fn', 'lesion_fp', 'tp', 'fp', 'fn', 'tn',
                            'volume_reference', 'volume_prediction']
    assert (scores['dice'], scores['iou']) == (overlap.dice(c), overlap.iou(c))
    assert (scores['sensitivity'], scores['specificity']) == (overlap.sensitivity(c), overlap.specificity(c))
    assert scores['hd95'] == surface.hd95(reference, prediction, spacing=spacing)
    assert scores['surface_dice'] == surface.surface_dice(reference, prediction, spacing=spacing, tolerance=2.0)
    wise = lesions.lesion_wise(reference, prediction, spacing=spacing, challenge='MET', tolerance=2.0)
    assert {key: scores[key] for key in wise} == wise
    assert (scores['volume_reference'], scores['volume_prediction']) == (160 * 3.0, 150 * 3.0)


def test_distances_and_lesions_are_measured_only_if_asked_for():
    plain = measure.score(*masks(), spacing=(1, 1, 1), surface=False)
    assert {'hd95', 'surface_dice', 'lesion_dice'}.isdisjoint(plain)
    nnunet = measure.score(*masks(), spacing=(1, 1, 1), convention='nnunet')
    assert 'hd95' not in nnunet and 'surface_dice' in nnunet


def test_an_image_is_scored_in_pixels_with_its_diagonal_as_penalty():
    reference = masks()[0][..., 0]
    scores = measure.score(reference, np.zeros_like(reference), spacing=(1.0, 1.0))
    assert scores['hd95'] == np.hypot(8, 9)
    assert scores['volume_reference'] == 16


def test_a_summary_by_hand():
    entry = summary()['regions']['WT']
    assert {key: entry['dice'][key] for key in ('mean', 'median', 'n')} == {'mean': 0.5, 'median': 0.5, 'n': 3}
    assert entry['hd95']['mean'] == pytest.approx(376.12866 / 3)
    assert entry['pooled_dice'] == 4 / 11
    assert set(entry) == {'dice', 'hd95', 'pooled_dice'}  # counts have no mean
    assert {key: summary()[key] for key in ('convention', 'cases', 'units')} == {
        'convention': 'brats', 'cases': 3, 'units': 'mm'}


def test_intervals_are_over_patients():
    # Patients p (0.5, 1.0) and q (0.0): resamples are p p, p q, q q, with the means 0.75, 0.5, 0.
    dice = summary()['regions']['WT']['dice']
    assert (dice['low'], dice['high']) == (0, 0.75)


def test_regions_are_apart_and_in_the_order_of_the_table():
    both = pd.concat([CASES.assign(region='TC', dice=0.25), CASES])
    regions = summary(both)['regions']
    assert list(regions) == ['TC', 'WT']
    assert [regions[r]['dice']['mean'] for r in regions] == [0.25, 0.5]


def test_undefined_values_are_left_out_and_counted():
    dice = summary(frame(dice=[NAN, 0.5, 0.7]), 'nnunet')['regions']['WT']['dice']
    assert (dice['mean'], dice['n'], dice['undefined']) == (0.6, 2, 1)
    nothing = summary(frame(dice=[NAN, NAN]), 'nnunet')['regions']['WT']['dice']
    assert (nothing['mean'], nothing['median'], nothing['low'], nothing['n']) == (None, None, None, 0)


def test_an_infinite_distance_makes_the_mean_null_and_is_counted():
    hd95 = summary(frame(hd95=[INF, 1.0, 2.0]), 'monai')['regions']['WT']['hd95']
    assert (hd95['mean'], hd95['low'], hd95['high']) == (None, None, None)
    assert (hd95['median'], hd95['n'], hd95['infinite']) == (2.0, 3, 1)


@pytest.mark.parametrize(('convention', 'pooled'), [('brats', 1.0), ('monai', None)])
def test_pooled_dice_of_nothing_is_what_the_convention_says(convention, pooled):
    cases = pd.concat([frame(dice=[NAN], tp=[0], fp=[0], fn=[0]), CASES.assign(region='TC')])
    assert summary(cases, convention)['regions']['WT']['pooled_dice'] == pooled


def test_cases_without_the_region_have_a_mean_apart():
    """A network that predicts nothing: 1 in three cases without tumour, 0 in one with."""
    cases = frame(dice=[1.0, 1.0, 0.0, 1.0], hd95=[0.0, 0.0, 80.0, 0.0], tp=[0] * 4, fp=[0] * 4, fn=[0, 0, 9, 0])
    dice = summary(cases)['regions']['WT']['dice']
    assert (dice['mean'], dice['n']) == (0.75, 4)
    assert (dice['with_region']['mean'], dice['with_region']['n']) == (0.0, 1)
    text = table.text(summary(cases))
    lines = [line.split() for line in text.split('\n')]
    assert ['WT', 'dice,', 'with', 'region', '0.0000', '-', '..', '-', '0.0000', '1'] in lines
    assert ['WT', 'hd95', '(mm),', 'with', 'region', '80.00', '-', '..', '-', '80.00', '1'] in lines
    assert 'leave out the cases whose reference lacks the region' in text


def test_where_every_case_has_the_region_there_is_one_mean():
    cases = frame(dice=[0.5, 0.7], tp=[1, 1], fp=[0, 0], fn=[0, 0])
    dice = summary(cases)['regions']['WT']['dice']
    assert dice['with_region'] == {key: dice[key] for key in dice['with_region']} and dice['with_region']['n'] == 2
    assert 'with region' not in table.text(summary(cases))


def test_cases_without_any_annotation_are_unscored():
    cases = frame(dice=[1.0, 0.0], tp=[0, 0], fp=[0, 7], fn=[0, 0], volume_prediction=[0, 7])
    both = pd.concat([cases, cases.assign(region='TC')])
    found = summary(both)
    assert found['unscored'] and found['regions'] == {'WT': {}, 'TC': {}} and found['cases'] == 2
    text = table.text(found)
    assert 'none of them has an annotation of WT, TC' in text and text.count('unscored') == 3
    assert not any(character.isdigit() for character in text.replace('2 cases', ''))


def test_tolerance_and_challenge_are_told_beside_their_metrics():
    regions = summary(frame(surface_dice=[1.0, 0.5], lesion_dice=[1.0, 0.5]), tolerance=2.0, lesion='GLI')['regions']
    assert regions['WT']['surface_dice']['tolerance'] == 2.0
    assert regions['WT']['lesion_dice']['challenge'] == 'GLI'
    text = table.text(summary(frame(surface_dice=[1.0, 0.5], lesion_dice=[1.0, 0.5]), tolerance=2.0, lesion='GLI'))
    assert 'surface dice (2 mm)' in text and 'lesion dice (GLI)' in text


@pytest.mark.parametrize(('cases', 'message'), [
    (CASES.drop(columns='group'), 'no column group'), (CASES.iloc[:0], 'no rows'),
    (pd.concat([CASES, CASES]), "'a', region 'WT' twice"), (CASES.assign(group=None), 'without group')])
def test_a_table_that_cannot_be_summarised_is_refused(cases, message):
    with pytest.raises(InputError, match=message):
        summary(cases)


def test_an_unknown_convention_is_refused():
    with pytest.raises(InputError, match='isles'):
        summary(convention='isles')


def test_written_files_read_back_equal(tmp_path):
    cases = frame(dice=[0.1 + 0.2, NAN, 1 / 3], hd95=[INF, 0.0, 1e-17]).assign(case=['001', 'NA', 'ü,"'])
    summaries.write(tmp_path / 'new' / 'folder', cases, summary(cases, 'monai'))
    pd.testing.assert_frame_equal(summaries.read_cases(tmp_path / 'new' / 'folder'), cases, check_dtype=False)
    stored = json.loads((tmp_path / 'new' / 'folder' / 'summary.json').read_text(encoding='utf-8'))
    assert stored == summary(cases, 'monai')
    names = sorted(path.name for path in (tmp_path / 'new' / 'folder').iterdir())
    assert names == ['cases.csv', 'summary.csv', 'summary.json']


def test_every_digit_is_kept(tmp_path):
    values = np.random.default_rng(0).random(300)
    cases = pd.DataFrame({'case': [f'{k}' for k in range(300)], 'group': 'p', 'region': 'WT', 'dice': values})
    summaries.write(tmp_path, cases, {})
    assert summaries.read_cases(tmp_path)['dice'].tolist() == values.tolist()


def test_what_cannot_be_written_leaves_the_old_files(tmp_path):
    summaries.write(tmp_path, CASES, summary())
    before = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    with pytest.raises(ValueError, match='JSON'):
        summaries.write(tmp_path, CASES.iloc[:1], {'mean': NAN})
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == before


def test_reading_what_was_never_written_says_so(tmp_path):
    with pytest.raises(InputError, match='evaluate the run first'):
        summaries.read_cases(tmp_path)


def test_the_text_names_convention_units_cases_and_intervals():
    text = table.text(summary())
    assert '3 cases, convention brats, distances in mm' in text
    assert '373.12866 mm' in text and '95 % bootstrap interval' in text
    lines = [line.split() for line in text.split('\n')]
    assert ['WT', 'dice', '0.5000', '0.0000', '..', '0.7500', '0.5000', '3'] in lines
    assert ['WT', 'pooled', 'dice', '0.3636'] in lines


def test_the_text_of_images_names_the_diagonal():
    text = table.text(summary(units='px'))
    assert "the image's own diagonal in px" in text and 'hd95 (px)' in text
    assert '373' not in text.split('\n\n')[0]


def test_the_text_tells_what_is_undefined_or_infinite_and_shows_it_as_a_dash():
    text = table.text(summary(frame(dice=[NAN, 0.5, 0.5], hd95=[INF, 1.0, 2.0]), 'monai'))
    assert 'WT dice: 1 undefined, left out' in text
    assert 'WT hd95 (mm): 1 infinite' in text
    assert '- .. -' in text and 'nan' not in text


def test_numbers_stand_below_each_other():
    rows = table.text(summary()).split('\n\n')[1].split('\n')
    assert len({row.index('..') for row in rows if '..' in row and '- ..' not in row}) == 1


def compared(a, b):
    return comparison.compare({'a': a, 'b': b})


def differences(a, b):
    (pair,) = compared(a, b)['pairs']
    return pair['regions']['WT']


def test_a_comparison_by_hand():
    better = CASES.assign(dice=[0.6, 1.0, 0.2], hd95=[2.0, 0.0, 300.0])
    found = compared(CASES, better)
    dice, hd95 = (found['pairs'][0]['regions']['WT'][name] for name in ('dice', 'hd95'))
    assert found['cases'] == 3 and [one['run'] for one in found['ranking']] == ['b', 'a']
    assert dice['difference'] == pytest.approx(0.1)
    assert (dice['wins'], dice['ties'], dice['losses']) == (2, 1, 0)
    assert (hd95['wins'], hd95['ties'], hd95['losses']) == (2, 1, 0)  # less is better


def test_a_comparison_draws_patients():
    dice = differences(CASES, CASES.assign(dice=[0.6, 1.0, 0.2]))['dice']
    # Differences 0.1, 0 of patient p and 0.2 of q: resamples p p, p q, q q.
    assert (dice['low'], dice['high']) == pytest.approx((0.05, 0.2))


def test_a_comparison_has_the_cases_with_the_region_apart():
    """Of CASES only the first has it: there b is worse, though it is better on the whole."""
    worse = CASES.assign(dice=[0.4, 1.0, 1.0])
    dice = differences(CASES, worse)['dice']
    assert dice['difference'] == pytest.approx(0.3) and dice['with_region']['difference'] == pytest.approx(-0.1)
    assert (dice['n'], dice['with_region']['n'], dice['with_region']['losses']) == (3, 1, 1)
    assert 'dice, with region' in table.comparison_text(compared(CASES, worse))


def test_runs_scored_against_other_annotations_are_refused():
    with pytest.raises(InputError, match="'a', region 'WT' has 4 voxels in the reference of a and 5 in that of b"):
        compared(CASES, CASES.assign(fn=[3, 0, 0]))


def test_the_order_of_rows_does_not_matter():
    better = CASES.assign(dice=[0.6, 1.0, 0.2])
    assert compared(CASES, better.iloc[::-1]) == compared(CASES, better)


@pytest.mark.parametrize(('a', 'b', 'lonely'), [(CASES, CASES.iloc[1:], 'a'), (CASES.iloc[:1], CASES, 'b'),
                                                (CASES.iloc[:1], CASES.iloc[1:], 'a')])
def test_runs_of_other_cases_are_refused(a, b, lonely):
    with pytest.raises(InputError, match=f'cases and regions are in the scores of {lonely} alone, such as '):
        compared(a, b)


def test_a_comparison_is_json_and_text_whatever_is_undefined():
    found = compared(CASES, CASES.assign(dice=NAN, hd95=INF))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found['pairs'][0]['regions']['WT']['dice']['difference'] is None
    assert 'nan' not in table.comparison_text(found)


def test_equal_runs_share_the_better_rank_and_two_empty_masks_are_the_best():
    tables = {'a': CASES.assign(dice=[0.5, NAN, 0.0]), 'b': CASES.assign(dice=[0.5, 0.0, 0.0]),
              'c': CASES.assign(dice=[0.9, NAN, 0.2])}
    ranks = comparison.rank(tables, ['dice'])
    assert ranks[['a', 'b', 'c']].to_numpy().tolist() == [[2, 2, 1], [1, 3, 1], [2, 2, 1]]
    assert comparison.rank(tables, ['hd95'])[['a', 'b', 'c']].to_numpy().tolist() == [[1, 1, 1]] * 3


def test_a_real_case_of_three_regions_moved_by_two_voxels(shared_data):
    path, = (shared_data / 'brats2021-00006').glob('*seg*')
    image = nibabel.load(path)
    ids, spacing = np.asarray(image.dataobj), tuple(map(float, image.header.get_zooms()))
    rows = []
    for classes in ((1, 2, 4), (1, 4), (4,)):  # WT, TC, ET
        reference = np.isin(ids, classes)
        same = measure.score(reference, reference, spacing=spacing, lesion='GLI')
        assert (same['dice'], same['hd95'], same['surface_dice'], same['lesion_dice']) == (1, 0, 1, 1)
        moved = measure.score(reference, np.roll(reference, 2, 0), spacing=spacing, lesion='GLI')
        assert moved['hd95'] == 2 and 0 < moved['dice'] < 1 and 0 < moved['surface_dice'] < 1
        rows.append(moved['volume_reference'])
    assert rows == [25506 + 85957 + 26448, 25506 + 26448, 26448]


def test_scores_can_be_written_as_json():
    mask = np.arange(64).reshape(4, 4, 4) % 3 == 0
    found = measure.score(mask, ~mask, spacing=(1.0, 1.0, 1.0), lesion='GLI')
    assert json.loads(json.dumps(found)) == pytest.approx(found, nan_ok=True)


def test_the_means_are_a_table_of_both_kinds(tmp_path):
    summaries.write(tmp_path, CASES, summary())
    found = pd.read_csv(tmp_path / 'summary.csv').set_index(['region', 'metric', 'cases'])
    assert found.loc['WT', 'dice', 'all'][['mean', 'n']].tolist() == [0.5, 3]  # two of three have no tumour
    assert found.loc['WT', 'dice', 'with region'][['mean', 'n']].tolist() == [0.5, 1]
    assert 'tp' not in found.index.get_level_values('metric')
