import json
import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.default import get_config
from unet_jax import phantom
from unet_jax.annotations.split import by_group, k_folds, source_stem
from unet_jax.errors import InputError
from unet_jax.experiment import read_frame

SHARES = (0.7, 0.15, 0.15)
names = st.lists(st.sampled_from([f'p{i}' for i in range(30)]), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(names, st.integers(0, 99), st.randoms(use_true_random=False))
def test_a_group_is_never_torn_and_the_order_of_rows_does_not_matter(groups, seed, random):
    groups = pd.Series(groups, index=[f'row {i}' for i in range(len(groups))])
    subsets = by_group(groups, SHARES, seed)
    assert subsets.index.equals(groups.index)
    assert (subsets.groupby(groups).nunique() == 1).all()
    shuffled = groups.sample(frac=1, random_state=random.randrange(99))
    assert by_group(shuffled, SHARES, seed).sort_index().equals(subsets.sort_index())
    if groups.nunique() >= 3:
        assert set(subsets) == {'train', 'valid', 'test'}


def test_shares_are_of_groups():
    subsets = by_group(pd.Series([f'p{i}' for i in range(369)]), SHARES, 0)
    assert subsets.value_counts().to_dict() == {'train': 258, 'valid': 56, 'test': 55}  # 258.3, 55.35, 55.35
    assert by_group(pd.Series([f'p{i}' for i in range(10)]), (0.8, 0.2, 0), 0).value_counts().to_dict() \
        == {'train': 8, 'valid': 2}


def test_the_seed_decides():
    groups = pd.Series([f'p{i}' for i in range(40)])
    assert by_group(groups, SHARES, 1).equals(by_group(groups, SHARES, 1))
    assert not by_group(groups, SHARES, 1).equals(by_group(groups, SHARES, 2))


def test_three_groups_fill_three_subsets_and_fewer_are_told(caplog):
    assert sorted(by_group(pd.Series(['a', 'b', 'c']), SHARES, 0)) == ['test', 'train', 'valid']
    assert sorted(by_group(pd.Series(['a', 'b', 'c']), (0.98, 0.01, 0.01), 0)) == ['test', 'train', 'valid']
    with caplog.at_level(logging.WARNING, 'unet_jax'):
        assert set(by_group(pd.Series(['a', 'a']), SHARES, 0)) == {'train'}
    assert '1 groups (a) are too few for 3 subsets' in caplog.text


@pytest.mark.parametrize('shares', [(0.7, 0.3), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (np.nan, 0.5, 0.5), (0, 0, 0)])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(InputError, match='config.data.split'):
        by_group(pd.Series(['a', 'b', 'c']), shares, 0)


def test_missing_groups_and_strata_are_refused():
    with pytest.raises(InputError, match='1 rows have no group'):
        by_group(pd.Series(['a', None, 'c']), SHARES, 0)
    with pytest.raises(InputError, match='finite number'):
        by_group(pd.Series(['a', 'b', 'c']), SHARES, 0, strata=pd.Series([1, np.nan, 2]))


def test_stratification_evens_out_the_strata():
    groups = pd.Series([f'p{i}' for i in range(120)])
    size = pd.Series(np.random.default_rng(0).lognormal(0, 1.5, 120))

    def spread(strata):  # of the subsets' mean rank, averaged over seeds
        ranks = size.rank()
        return np.mean([np.ptp(ranks.groupby(by_group(groups, SHARES, s, strata=strata)).mean()) for s in range(20)])
    assert spread(size) < 0.4 * spread(None)
    assert by_group(groups, SHARES, 0, strata=size).value_counts().to_dict() == {'train': 84, 'valid': 18, 'test': 18}


def test_strata_count_a_group_by_its_mean_and_the_seed_still_decides():
    groups, size = pd.Series([f'p{i}' for i in range(40)]), pd.Series(np.arange(40.0))
    subsets = by_group(groups, SHARES, 0, strata=size)
    more = [*range(40), *[3] * 50]  # many rows of one group
    assert by_group(groups[more], SHARES, 0, strata=size[more])[:40].equals(subsets)
    assert not by_group(groups, SHARES, 1, strata=size).equals(subsets)


def test_a_stratified_split_does_not_depend_on_the_order_of_rows():
    groups = pd.Series([f'p{i % 20}' for i in range(100)])
    size = pd.Series(np.random.default_rng(1).random(100))
    subsets = by_group(groups, SHARES, 3, strata=size)
    shuffled = np.random.default_rng(2).permutation(100)
    assert by_group(groups[shuffled], SHARES, 3, strata=size[shuffled]).sort_index().equals(subsets)


@settings(max_examples=40, deadline=None)
@given(names, st.integers(2, 6), st.booleans())
def test_folds_are_whole_groups_of_even_number(groups, k, stratified):
    groups = pd.Series(groups)
    strata = pd.Series(np.arange(len(groups))) if stratified else None
    if groups.nunique() < k:
        with pytest.raises(InputError, match=f'{k} folds of {groups.nunique()} groups'):
            k_folds(groups, k, seed=0, strata=strata)
        return
    folds = k_folds(groups, k, seed=0, strata=strata)
    assert (folds.groupby(groups).nunique() == 1).all()
    sizes = groups.groupby(folds).nunique()
    assert sizes.index.tolist() == list(range(k)) and sizes.max() - sizes.min() <= 1


def test_stratified_folds_have_alike_means():
    size = pd.Series(np.arange(100.0))
    folds = k_folds(pd.Series([f'p{i}' for i in range(100)]), 5, seed=0, strata=size)
    assert np.ptp(size.groupby(folds).mean()) < 8  # unstratified: 15 and more


@pytest.mark.parametrize('name, stem', [
    ('63_jpg.rf.13454b0a33fb53c0cc68d81c5f19b7d2.jpg', '63'),
    ('train/Y12_JPEG.rf.13454B0A33FB53C0CC68D81C5F19B7D2.jpg', 'Y12'),
    ('a_b_png.rf.13454b0a33fb53c0cc68d81c5f19b7d2.jpg', 'a_b'),
    ('c_jpg.rf.13454b0a33fb53c0cc68d81c5f19b7d2_jpg.rf.23454b0a33fb53c0cc68d81c5f19b7d2.jpg', 'c'),
    ('plain.rf.13454b0a33fb53c0cc68d81c5f19b7d2.png', 'plain'),
    ('photo.jpg', 'photo'), ('a.rf.jpg', 'a.rf'), ('x_jpg.png', 'x_jpg'), ('.hidden', '.hidden'), ('bare', 'bare'),
    ('folder\\Y1.JPG', 'Y1')])
def test_copies_of_one_source_share_its_stem(name, stem):
    assert source_stem(name) == stem


@pytest.mark.parametrize('format', ['nifti', 'brats_h5'])
def test_folds_and_split_files_of_a_config_are_followed(format, tmp_path):
    if format == 'nifti':
        phantom.write_nifti(tmp_path / 'set', cases=5, shape=(4, 20, 22), year='2021')
    else:
        phantom.write_brats_h5(tmp_path / 'set', volumes=5, shape=(2, 20, 22))
    config, seen = get_config(), []
    config.data.update({'format': format, 'root': str(tmp_path / 'set'), 'folds': 2, 'split': (0.8, 0.0, 0.2)})
    for fold in range(2):
        config.data.fold = fold
        subset = read_frame(config).groupby('case').subset.first()
        assert (subset == 'test').sum() == 1
        seen += subset.index[subset == 'valid'].tolist()
    assert len(seen) == len(set(seen)) == 4
    config.data.fold = 2
    with pytest.raises(InputError, match='config.data.fold is 2 of config.data.folds = 2'):
        read_frame(config)
    cases = sorted(subset.index)
    (tmp_path / 'split.json').write_text(json.dumps({'train': cases[:1], 'valid': cases[1:4], 'test': cases[4:]}))
    config.data.update({'folds': 0, 'fold': 0, 'split_file': str(tmp_path / 'split.json')})
    subset = read_frame(config).groupby('case').subset.first()
    assert subset[cases].tolist() == ['train', 'valid', 'valid', 'valid', 'test']
