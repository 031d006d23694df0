"""Dice by subset of modalities: every subset once, means by hand."""
import pandas as pd

from unet_jax.evaluation import modalities


def test_four_modalities_have_fifteen_subsets_and_the_last_is_all_of_them():
    found = modalities.subsets(('flair', 't1', 't1ce', 't2'))
    assert len(found) == len(set(found)) == 15 and found[0] == ('flair',)
    assert found[-1] == ('flair', 't1', 't1ce', 't2') and [len(s) for s in found] == [1] * 4 + [2] * 6 + [3] * 4 + [4]


def test_the_table_has_a_row_a_subset_and_the_mean_of_the_cases():
    dice = {'t1': (0.2, 0.4, 0.5, float('nan')), 'flair+t1': (0.6, 1, 0.7, 0.9)}
    scores = pd.DataFrame([{'case': case, 'group': case, 'region': region, 'modalities': name, 'dice': value,
                            'present': True}
                           for name, values in dice.items()
                           for case, region, value in zip('abab', ('WT', 'WT', 'ET', 'ET'), values)])
    lines = modalities.text(scores, convention='nnunet').splitlines()
    assert 'nnunet' in lines[0]
    assert [line.split() for line in lines[2:]] == [
        ['modalities', 'WT', 'ET'], ['t1', '0.3000', '(0.2000', '..', '0.4000)', '0.5000', '(-', '..', '-)'],
        ['flair+t1', '0.8000', '(0.6000', '..', '1.0000)', '0.8000', '(0.7000', '..', '0.9000)']]


def test_cases_that_lack_a_region_are_left_out_of_a_second_table():
    scores = pd.DataFrame([{'case': case, 'group': case, 'region': 'WT', 'modalities': 't1', 'dice': dice,
                            'present': dice < 1} for case, dice in zip('abc', (0.2, 0.4, 1.0))])
    first, second = modalities.text(scores, convention='brats').split('whose reference has the region')
    assert '0.5333' in first and '0.3000' in second and '0.5333' not in second


def test_what_no_case_defines_is_a_dash():
    scores = pd.DataFrame([{'case': 'a', 'group': 'a', 'region': 'WT', 'modalities': 't1', 'dice': float('nan'),
                            'present': True}])
    assert modalities.text(scores, convention='nnunet').split()[-4:] == ['-', '(-', '..', '-)']
