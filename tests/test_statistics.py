import warnings

import numpy as np
import pytest
from scipy import stats

from unet_jax.errors import InputError
from unet_jax.evaluation import statistics
from unet_jax.evaluation.statistics import bootstrap_interval, paired

NAN, INF = float('nan'), float('inf')
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


def test_the_interval_of_many_values_is_the_one_of_normal_theory():
    values = RNG.normal(5, 2, 500)
    error = values.std() / 500 ** 0.5
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_two_values_resample_to_0_one_half_and_1():
    assert bootstrap_interval([0, 1]) == (0, 1)
    assert bootstrap_interval([0, 1], confidence=0.4) == (0.5, 0.5)  # each end has a quarter of the resamples


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    held = [low <= 0 <= high for low, high in
            (bootstrap_interval(rng.normal(size=40), confidence=0.8, resamples=400) for _ in range(300))]
    assert 0.72 < np.mean(held) < 0.86


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = RNG.normal(size=30)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_nan_is_left_out_with_its_group():
    values = RNG.normal(size=30)
    assert bootstrap_interval([*values, NAN]) == bootstrap_interval(values)
    groups = [str(k) for k in range(30)]
    assert bootstrap_interval([*values, NAN], groups=[*groups, 'z']) == bootstrap_interval(values, groups=groups)


def test_ten_copies_of_a_value_in_one_group_do_not_make_it_surer():
    values = RNG.normal(size=20)
    names = [f'{k:02d}' for k in range(20)]
    assert bootstrap_interval(np.repeat(values, 10), groups=np.repeat(names, 10)) == pytest.approx(
        bootstrap_interval(values))
    assert np.ptp(bootstrap_interval(np.repeat(values, 10))) < 0.5 * np.ptp(bootstrap_interval(values))


def test_groups_count_with_their_size():
    low, high = bootstrap_interval([0, 0, 0, 1], groups=['a', 'a', 'a', 'b'], confidence=0.4)
    assert low == high == 0.25  # one draw of either: the mean over cases, not over groups


def test_the_mean_of_many_resamples_is_drawn_in_pieces(monkeypatch):
    values = RNG.normal(size=50)
    whole = bootstrap_interval(values)
    monkeypatch.setattr(statistics, 'CHUNK', 777)
    assert bootstrap_interval(values) == pytest.approx(whole, abs=0.02)


@pytest.mark.parametrize('values', [[], [NAN], [0.5], [0.5, NAN], [0.5, INF]])
def test_what_too_few_or_infinite_values_cannot_tell_is_nan(values):
    assert np.isnan(bootstrap_interval(values)).all()


def test_one_patient_alone_has_no_interval():
    assert np.isnan(bootstrap_interval([0.1, 0.9], groups=['p', 'p'])).all()


def test_values_without_their_groups_are_refused():
    with pytest.raises(InputError, match='3 values with 2 groups'):
        statistics.by_group(np.ones(3), ['a', 'b'])


def test_paired_by_hand():
    result = paired([1, 2, 3, 4], [2, 2, 5, 3.5])
    assert (result['n'], result['difference']) == (4, 0.625)
    assert (result['wins'], result['ties'], result['losses']) == (2, 1, 1)
    assert result['low'] < 0.625 < result['high']
    assert result['p'] == 0.5  # ranks 2, 3 against 1: of the 8 signs of three ranks 4 are as far from even


def test_lower_is_better_turns_wins_and_losses_only():
    a, b = RNG.normal(size=(2, 20))
    higher, lower = paired(a, b), paired(a, b, lower_is_better=True)
    assert (lower.pop('wins'), lower.pop('losses')) == (higher.pop('losses'), higher.pop('wins'))
    assert lower == higher


def test_p_is_that_of_scipy_and_small_for_a_steady_difference():
    a = RNG.normal(size=30)
    b = a + RNG.normal(0.5, 0.1, size=30)
    assert paired(a, b)['p'] == stats.wilcoxon(b - a).pvalue < 1e-6
    assert paired(a, b)['low'] > 0.4


def test_swapping_the_runs_turns_the_signs():
    a, b = RNG.normal(size=(2, 20))
    there, back = paired(a, b), paired(b, a)
    assert there['difference'] == -back['difference']
    assert there['p'] == back['p']
    assert (there['low'], there['high']) == pytest.approx((-back['high'], -back['low']), abs=0.05)


def test_a_pair_with_nan_is_left_out():
    assert paired([1, 2, NAN, 4], [2, NAN, 3, 6])['n'] == 2


@pytest.mark.parametrize(('a', 'b', 'p'), [
    ([], [], NAN), ([NAN], [1], NAN), ([1], [1], 1), ([1], [2], 1), ([1, 2], [1, 2], 1), ([1, 2], [2, 3], 0.5)])
def test_few_or_equal_pairs_are_not_significant(a, b, p):
    assert paired(a, b)['p'] == pytest.approx(p, nan_ok=True, abs=0.35)


def test_infinities_tie_with_each_other_and_lose_to_all_else():
    result = paired([INF, INF, 1, 2], [INF, 5, INF, 1], lower_is_better=True)
    assert (result['wins'], result['ties'], result['losses']) == (2, 1, 1)
    assert np.isnan([result['difference'], result['low'], result['high']]).all()
    assert 0 < result['p'] <= 1


def test_groups_pull_the_certainty_of_many_slices_down_to_that_of_patients():
    a = RNG.normal(size=8)
    b = a + RNG.normal(0.3, 0.3, size=8)
    many = paired(np.repeat(a, 10), np.repeat(b, 10), groups=np.repeat(list('abcdefgh'), 10))
    assert many['p'] == pytest.approx(paired(a, b)['p'])
    assert (many['low'], many['high']) == pytest.approx((paired(a, b)['low'], paired(a, b)['high']))


def test_runs_of_different_lengths_are_refused():
    with pytest.raises(InputError, match='same cases'):
        paired([1, 2], [1, 2, 3])


def test_permutation_of_few_tries_all_signs_and_of_many_comes_near_scipy():
    assert statistics.permutation(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert statistics.permutation(np.array([0.1, 0.2, -0.3])) == 1  # a sum of 0, but for rounding
    differences = np.random.default_rng(3).normal(0.25, 1, size=40)
    expected = stats.permutation_test((differences,), np.mean, permutation_type='samples', n_resamples=20000, rng=0)
    assert statistics.permutation(differences) == pytest.approx(expected.pvalue, abs=0.015)
    assert np.isnan([statistics.permutation(np.array([])), statistics.permutation(np.array([1.0, INF]))]).all()
    assert paired([1, 2, 3], [2, 4, 6])['p_permutation'] == 2 / 8


def test_holm_by_hand():
    # Sorted 0.01 0.02 0.04: times 3, 2, 1, and none below the one before it
    assert statistics.holm([0.02, 0.01, 0.04]) == pytest.approx([0.04, 0.03, 0.04])
    assert statistics.holm([0.03, NAN, 0.02]) == pytest.approx([0.04, NAN, 0.04], nan_ok=True)
    assert statistics.holm([0.9, 0.8]) == [1, 1]
