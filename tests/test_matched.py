"""Lesions matched one to one: numbers by hand, a slow second way, and BraTS' own scorer where it is installed.

Imports no jax, so that it runs beside that scorer in an environment of its own: make test-oracles.
"""
import nibabel
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage, optimize

from unet_jax.errors import InputError
from unet_jax.evaluation import matched

MM = (1.0, 1.0, 1.0)
SHAPE = (12, 14, 30)
NAMES = {'sq_dsc': 'lesion_dice', 'sq_nsd': 'lesion_nsd', 'sq_hd95': 'lesion_hd95', 'tp': 'lesion_tp',
         'fn': 'lesion_fn', 'fp': 'lesion_fp', 'prec': 'lesion_precision', 'rec': 'lesion_recall', 'rq': 'lesion_f1',
         'pq_dsc': 'lesion_pq', 'global_bin_nsd': 'nsd', 'global_bin_hd95': 'hd95'}


def boxes(*corners: tuple[int, int, int], size: tuple[int, int, int] = (4, 4, 4)) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for corner in corners:
        mask[tuple(slice(c, c + s) for c, s in zip(corner, size))] = True
    return mask


def scores(reference, prediction, **more) -> dict:
    return matched.matched(reference, prediction, spacing=more.pop('spacing', MM), **more)


def chosen(found: dict, *names: str) -> tuple:
    return tuple(found[f'lesion_{name}'] for name in names)


def test_pairs_missed_and_invented_lesions_by_hand():
    # One found to half, one missed, two invented: F1 = 1 / (1 + 3 / 2), Dice = 2 · 32 / (64 + 32)
    reference = boxes((1, 1, 1), (1, 1, 20))
    prediction = boxes((1, 1, 1), size=(4, 4, 2)) | boxes((7, 9, 10), (7, 1, 16), size=(1, 1, 1))
    found = scores(reference, prediction)
    assert chosen(found, 'tp', 'fn', 'fp') == (1, 1, 2)
    assert chosen(found, 'dice', 'precision', 'recall', 'f1') == (2 / 3, 1 / 3, 1 / 2, 2 / 5)
    assert found['lesion_pq'] == pytest.approx(2 / 3 * 2 / 5)
    assert found['lesion_hd95'] == 2  # 16 of 56 + 32 border voxels are 2 mm away: more than 5 %


def test_the_tolerance_decides_the_nsd():
    reference, prediction = boxes((3, 3, 3)), boxes((3, 3, 4))
    strict = scores(reference, prediction, tolerance=0.5)
    assert strict['lesion_nsd'] == strict['nsd'] == 36 / 56  # of the rings about the middle
    assert scores(reference, prediction)['lesion_nsd'] == 1  # and lie 1 mm apart
    assert scores(reference, prediction)['nsd'] == 36 / 56
    # 1.5 mm apart: of the end, a fifth more of the voxels lies within 1 mm of the other's side
    assert scores(reference, prediction, spacing=(1.0, 1.0, 1.5))['lesion_nsd'] == 40 / 56


def test_a_component_has_one_partner_and_the_total_dice_decides():
    # A bridge over two lesions: the larger gains more by it. Taken greedily the best single Dice would win.
    two = boxes((1, 1, 2), size=(4, 4, 4)) | boxes((1, 1, 10), size=(4, 4, 8))
    bridge = boxes((1, 1, 2), size=(4, 4, 16))
    assert chosen(scores(two, bridge), 'tp', 'fn', 'fp') == (1, 1, 0)
    assert scores(two, bridge)['lesion_dice'] == 2 * 8 / (8 + 16)
    with_a_small_one = two & ~boxes((1, 1, 9), size=(4, 4, 1)), bridge
    assert chosen(scores(*with_a_small_one[::-1]), 'tp', 'fn', 'fp') == (1, 0, 1)


def test_voxels_that_meet_at_a_corner_are_one_lesion():
    diagonal = boxes((1, 1, 1), (2, 2, 2), (3, 3, 3), size=(1, 1, 1))
    assert scores(diagonal, diagonal)['lesion_tp'] == 1
    assert scores(diagonal[1], diagonal[1], spacing=(1.0, 1.0))['lesion_tp'] == 1  # and of images


@pytest.mark.parametrize('empty', [0, 1])
def test_one_empty_mask_scores_0_and_infinity_and_two_nothing(empty):
    masks = [boxes((1, 1, 1)), boxes((1, 1, 1))]
    masks[empty][:] = False
    found = scores(*masks)
    assert chosen(found, 'dice', 'nsd', 'hd95', 'f1', 'pq') == (0, 0, np.inf, 0, 0)
    assert (found['nsd'], found['hd95']) == (0, np.inf)
    nothing = scores(masks[empty], masks[empty])
    assert chosen(nothing, 'tp', 'fn', 'fp') == (0, 0, 0)
    assert np.isnan([nothing['nsd'], nothing['hd95'], *chosen(nothing, 'dice', 'nsd', 'hd95', 'f1', 'pq')]).all()


def test_large_metastases_by_overlap_and_small_ones_by_being_found():
    reference = boxes((1, 1, 1), (1, 1, 10)) | boxes((8, 8, 2), (8, 8, 12), size=(2, 2, 2))
    prediction = boxes((1, 1, 1)) | boxes((8, 8, 2), size=(2, 2, 1)) | boxes((8, 2, 25), size=(1, 1, 1))
    found = scores(reference, prediction, sizes=matched.Sizes())
    large = {name: found[f'large_{name}'] for name in ('tp', 'fn', 'dice', 'nsd', 'hd95', 'f1')}
    assert large == {'tp': 1, 'fn': 1, 'dice': 1 / 3, 'nsd': 1 / 3, 'hd95': 2 * 373 / 3, 'f1': 1 / 2}
    assert (found['small_tp'], found['small_fn'], found['small_f1']) == (1, 1, 1 / 2)
    strict = scores(reference, prediction, sizes=matched.Sizes(dice=0.7))
    assert (strict['small_tp'], strict['small_fn'], strict['large_tp']) == (0, 2, 1)  # it was found at a Dice of 2/3
    none_large = scores(reference, prediction, sizes=matched.Sizes(volume=1000))
    assert np.isnan(none_large['large_f1']) and none_large['small_fn'] == 2


def test_a_spacing_that_is_none_is_refused():
    with pytest.raises(InputError, match='spacing'):
        scores(boxes((1, 1, 1)), boxes((1, 1, 1)), spacing=(1.0, 1.0))


# --- every kind of volume, a slow second way, and the official scorer ---

@st.composite
def cases(draw) -> tuple[np.ndarray, np.ndarray]:
    """Two masks: noise (many lesions, one-voxel and touching ones), boxes anywhere (the border too), or empty."""
    shape = draw(st.tuples(*[st.integers(3, 7)] * 3))

    def mask():
        kind = draw(st.sampled_from(('noise', 'boxes', 'voxel', 'empty')))
        if kind == 'noise':
            return arrays.arrays(np.uint8, shape, elements=st.integers(0, 6)).map(lambda a: a == 0)
        made = np.zeros(shape, bool)
        for _ in range({'boxes': draw(st.integers(1, 4)), 'voxel': 1, 'empty': 0}[kind]):
            corner = [draw(st.integers(0, n - 1)) for n in shape]
            made[tuple(slice(c, c + (draw(st.integers(1, 3)) if kind == 'boxes' else 1)) for c in corner)] = True
        return st.just(made)
    return draw(mask()), draw(mask())


def dice_table(reference, prediction) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """The components of both, and the Dice of every two."""
    parts = []
    for mask in (reference, prediction):
        labels, n = ndimage.label(mask, np.ones((3,) * mask.ndim))
        parts.append([labels == k + 1 for k in range(n)])
    table = np.array([[2 * (a & b).sum() / (a.sum() + b.sum()) for b in parts[1]] for a in parts[0]])
    return *parts, table.reshape(len(parts[0]), len(parts[1]))


def best_total(table: np.ndarray) -> float:
    """The largest total of a pairing: by trial of all, by dynamic programming over which columns are taken."""
    table = table if table.shape[1] <= table.shape[0] else table.T
    totals = {0: 0.0}
    for row in table:
        for taken, total in list(totals.items()):
            for k in np.flatnonzero(row):
                if not taken >> k & 1:
                    key = taken | 1 << int(k)
                    totals[key] = max(totals.get(key, 0.0), total + row[k])
    return max(totals.values())


def is_settled(table: np.ndarray) -> bool:
    """Whether only one pairing has the largest total, so that distances do not depend on the order of lesions: each
    of its pairs is needed for it."""
    def total(table):
        return table[optimize.linear_sum_assignment(table, maximize=True)].sum()
    for pair in zip(*optimize.linear_sum_assignment(table, maximize=True)):
        without = table.copy()
        without[pair] = 0
        if table[pair] and total(without) > total(table) - 1e-12:
            return False
    return True


@given(cases())
@settings(max_examples=60, deadline=None)
@example((boxes((0, 0, 0), (5, 5, 5)), boxes((0, 1, 0), (5, 6, 5), (8, 10, 26))))
@example((boxes((1, 0, 0), size=(1, 1, 1)), boxes((3, 0, 0), size=(1, 1, 1))))
def test_every_kind_of_volume_scores_as_by_trial_of_all_pairings(case):
    lesions, parts, table = dice_table(*case)
    found = scores(*case)
    assert found['lesion_tp'] + found['lesion_fn'] == len(lesions)
    assert found['lesion_tp'] + found['lesion_fp'] == len(parts)
    if not (lesions or parts):
        return
    touching = table[table.any(1)][:, table.any(0)] if table.size else table
    if min(touching.shape) <= 8:
        total = best_total(touching)
        assert found['lesion_dice'] * max(found['lesion_tp'], 1) == pytest.approx(total)
        assert found['lesion_pq'] == pytest.approx(2 * total / (len(lesions) + len(parts)))
    expected = whole(*case, 0.5) if (case[0] & case[1]).any() else (0, np.inf)
    assert (found['nsd'], found['hd95']) == pytest.approx(expected)


def whole(reference, prediction, tolerance) -> tuple[float, float]:
    """NSD and HD95 by every two border voxels."""
    borders = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) for mask in (reference, prediction)]
    apart = np.sqrt(((borders[0][:, None] - borders[1][None]) ** 2).sum(-1))
    there, back = apart.min(1), apart.min(0)
    return (((there <= tolerance).mean() + (back <= tolerance).mean()) / 2,
            np.percentile(np.concatenate([there, back]), 95))


@pytest.fixture(scope='module')
def official(tmp_path_factory):
    """What BraTS' scorer says of ET, for two masks, by our names."""
    package = pytest.importorskip('brats_evaluation', reason='needs BraTS\' scorer (AGPL): make test-oracles')
    import panoptica
    evaluator = panoptica.Panoptica_Evaluator.load_from_config(str(package.config_path('gli')))
    folder = tmp_path_factory.mktemp('official')

    def judge(reference, prediction, spacing=MM):
        paths = [str(folder / f'{name}.nii.gz') for name in ('prediction', 'reference')]
        for path, mask in zip(paths, (prediction, reference)):
            nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8) * 3, np.diag([*spacing, 1.0])), path)
        told = package.evaluate_single_exam(*paths, 'case', evaluator)['et']
        return {ours: float(told.get(theirs, np.nan)) for theirs, ours in NAMES.items()}
    return judge


def check(case, expected, spacing=MM, names=None):
    found, (_, _, table) = scores(*case, spacing=spacing, tolerance=min(spacing)), dice_table(*case)
    settled = is_settled(table) if table.size else True
    for name in names or NAMES.values():
        if settled or name not in ('lesion_nsd', 'lesion_hd95'):
            assert found[name] == pytest.approx(expected[name], rel=1e-6, nan_ok=True), name


@given(case=cases())
@settings(max_examples=80, deadline=None)
@example(case=(boxes((0, 0, 0), (5, 5, 5)), boxes((0, 1, 0), (5, 6, 5), (8, 10, 26))))
@example(case=(boxes((1, 1, 1)), boxes((1, 1, 5))))  # they touch, and share nothing
def test_the_official_scorer_says_the_same(official, case):
    check(case, official(*case))


@pytest.mark.parametrize('seed', range(6))
def test_the_official_scorer_says_the_same_of_many_lesions(official, seed):
    rng = np.random.default_rng(seed)
    noise = [ndimage.gaussian_filter(rng.normal(size=(30, 32, 34)), 1 + seed / 4) for _ in range(2)]
    case = noise[0] > 2 * noise[0].std(), noise[0] + 0.5 * noise[1] > 2.2 * noise[0].std()
    assert scores(*case)['lesion_tp'] > 3
    check(case, official(*case))


def test_the_official_scorer_takes_the_axes_of_the_spacing_in_reverse(official):
    spacing = (1.0, 2.0, 5.0)
    case = boxes((3, 3, 3), (3, 3, 20)), boxes((3, 4, 3), (4, 3, 21))
    lesion_wise = [name for name in NAMES.values() if name.startswith('lesion')]
    check(case, official(*case, spacing=spacing[::-1]), spacing, lesion_wise)


def test_large_and_small_metastases_are_those_of_the_official_table(official, tmp_path):
    import json
    import subprocess
    import sys
    reference = boxes((1, 1, 1), (1, 1, 10), (1, 7, 1), size=(5, 2, 2)) | boxes((8, 8, 15), (8, 8, 22), size=(2, 2, 2))
    prediction = boxes((1, 1, 1), (1, 7, 1), size=(5, 2, 1)) | boxes((8, 8, 15), size=(1, 1, 10)) | boxes(
        (0, 12, 28), (11, 0, 0), size=(1, 1, 1))
    import brats_evaluation
    import panoptica
    evaluator = panoptica.Panoptica_Evaluator.load_from_config(str(brats_evaluation.config_path('mets')))
    paths = [str(tmp_path / f'{name}.nii.gz') for name in ('prediction', 'reference')]
    for path, mask in zip(paths, (prediction, reference)):
        nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8) * 3, np.eye(4)), path)
    told = brats_evaluation.evaluate_single_exam(*paths, 'case', evaluator)
    (tmp_path / 'told.json').write_text(json.dumps({'metrics': [told], 'missings': []}, default=float))
    program = [sys.executable, '-c', 'from brats_evaluation.metrics_parser import main; main()', 'mets', '--json_path',
               str(tmp_path / 'told.json'), '--vol_threshold', '20', '--overlap_threshold', '0.1',
               '--output_csv_path', str(tmp_path / 'told.csv')]
    subprocess.run(program, check=True, capture_output=True)
    header, row = ((tmp_path / 'told.csv').read_text().splitlines()[k].split(',') for k in (0, 1))
    table, found = dict(zip(header, row)), scores(reference, prediction, sizes=matched.Sizes(20.0, 0.1))
    theirs = {f'{size}_{name}': f'{size}_instance_{said}_et' for size in ('large', 'small') for name, said in (
        ('tp', 'tp'), ('fn', 'fn'), ('precision', 'prec'), ('recall', 'rec'), ('f1', 'f1'))}
    theirs |= {f'large_{name}': f'lesionwise_{said}_mean_et' for name, said in (
        ('dice', 'dsc'), ('nsd', 'nsd'), ('hd95', 'hd95'))}
    assert {ours: found[ours] for ours in theirs} == pytest.approx({k: float(table[v]) for k, v in theirs.items()})
