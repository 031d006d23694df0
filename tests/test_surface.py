import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unet_jax.errors import InputError
from unet_jax.evaluation import surface

SPACING = st.sampled_from([0.1, 0.5, 1.0, 1.3, 5.0])


@pytest.fixture(scope='module')
def medpy():
    return pytest.importorskip('medpy.metric.binary', reason='needs medpy: pip install -r requirements-test.txt')


@pytest.fixture(scope='module')
def monai():
    pytest.importorskip('torch', reason='needs MONAI and torch: make test-oracles')
    return pytest.importorskip('monai.metrics', reason='needs MONAI and torch: make test-oracles')


@pytest.fixture(scope='module')
def deepmind():
    found = pytest.importorskip('surface_distance', reason='needs it: pip install -r requirements-test.txt')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, 'Inf', np.inf, raising=False)  # which it asks numpy 2 for where a mask is empty
        yield found


def voxels(shape: tuple[int, ...], *places: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for place in places:
        mask[place] = True
    return mask


@st.composite
def cases(draw, kinds=('random', 'voxel', 'border')):
    """Two masks, each of one of the kinds, of 2 or 3 dimensions, and their spacing."""
    shape = draw(arrays.array_shapes(min_dims=2, max_dims=3, max_side=6))
    pair = []
    for _ in range(2):
        kind = draw(st.sampled_from(kinds))
        mask = draw(arrays.arrays(bool, shape)) if kind == 'random' else np.zeros(shape, bool)
        if kind == 'border':  # all of one face
            mask[(slice(None),) * draw(st.integers(0, len(shape) - 1)) + (draw(st.sampled_from([0, -1])),)] = True
        elif kind != 'empty':
            mask[draw(st.tuples(*(st.integers(0, n - 1) for n in shape)))] = True
        pair.append(mask)
    return *pair, draw(st.tuples(*[SPACING] * len(shape)))


def corners(ndim: int):
    """One voxel, two that touch the border, a full image against one voxel, empty ones; anisotropic."""
    shape, spacing = (4, 5, 3)[:ndim], (1.0, 0.5, 5.0)[:ndim]
    first, last = voxels(shape, (0,) * ndim), voxels(shape, tuple(n - 1 for n in shape))
    empty = np.zeros(shape, bool)
    return [(first, first, spacing), (first, last, spacing), (np.ones(shape, bool), last, spacing),
            (empty, empty, spacing), (first, empty, spacing), (empty, last, spacing)]


def on_every_kind_of_mask(test):
    for case in corners(2) + corners(3):
        test = example(case)(test)
    kinds = ('random', 'voxel', 'border', 'empty')
    return settings(max_examples=40, deadline=None)(given(cases(kinds))(test))


def when_empty(reference, prediction, spacing, convention):
    """HD95 where a mask is empty, by the table of evaluation/surface.py; None where none is."""
    empty = not reference.any(), not prediction.any()
    if not any(empty):
        return None
    if convention != 'brats':
        return np.nan if all(empty) else np.inf
    return 0.0 if all(empty) else surface.penalty(reference.shape, spacing)


def directed(reference, prediction, spacing):
    """Distances between border voxels, all pairs, with loops only."""
    def border(mask):
        inside = set(map(tuple, np.argwhere(mask).tolist()))
        return [v for v in sorted(inside) if any((*v[:a], v[a] + s, *v[a + 1:]) not in inside
                                                 for a in range(mask.ndim) for s in (-1, 1))]
    a, b = (np.array(border(mask)) * spacing for mask in (reference, prediction))
    distances = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    return distances.min(1), distances.min(0)


def test_hd95_of_two_voxels_is_their_distance_in_mm():
    reference, prediction = voxels((6, 6, 6), (0, 0, 0)), voxels((6, 6, 6), (3, 4, 0))
    for convention in ('brats', 'monai', 'deepmind'):
        assert surface.hd95(reference, prediction, spacing=(1, 1, 1), convention=convention) == 5
        anisotropic = surface.hd95(reference, prediction, spacing=(2, 1.5, 1), convention=convention)
        assert anisotropic == pytest.approx(72 ** 0.5)


def test_brats_pools_both_directions_and_monai_takes_the_worse():
    reference, prediction = np.ones((1, 1), bool), np.ones((1, 3), bool)  # distances 0, and 0 1 2
    reference = np.pad(reference, ((0, 0), (0, 2)))
    assert surface.hd95(reference, prediction, spacing=(1, 1)) == pytest.approx(1.85)  # of 0 0 1 2: 2.85 of 3 steps
    assert surface.hd95(reference, prediction, spacing=(1, 1), convention='monai') == pytest.approx(1.9)


@on_every_kind_of_mask
def test_hd95_is_that_of_all_pairs_of_border_voxels(case):
    reference, prediction, spacing = case
    if not (reference.any() and prediction.any()):
        return  # no pairs
    there, back = directed(reference, prediction, spacing)
    pooled = np.percentile(np.concatenate([there, back]), 95)
    worse = max(np.percentile(there, 95), np.percentile(back, 95))
    assert surface.hd95(reference, prediction, spacing=spacing) == pytest.approx(pooled, abs=1e-9)
    assert surface.hd95(reference, prediction, spacing=spacing, convention='monai') == pytest.approx(worse, abs=1e-9)


@given(cases())
@settings(max_examples=20, deadline=None)
def test_nothing_changes_when_masks_swap_or_both_are_flipped_or_moved(case):
    reference, prediction, spacing = case

    def scores(a, b):
        return [surface.hd95(a, b, spacing=spacing, convention=c) for c in ('brats', 'monai')] + [
            surface.surface_dice(a, b, spacing=spacing, tolerance=1.0)]
    expected = pytest.approx(scores(reference, prediction), abs=1e-9)
    assert scores(prediction, reference) == expected
    assert scores(np.flip(reference), np.flip(prediction)) == expected
    assert scores(np.pad(reference, (3, 1)), np.pad(prediction, (3, 1))) == expected


@given(cases())
@settings(max_examples=20, deadline=None)
def test_a_mask_is_at_distance_0_of_itself(case):
    mask, _, spacing = case
    for convention in ('brats', 'monai', 'deepmind'):
        assert surface.hd95(mask, mask, spacing=spacing, convention=convention) == 0
    assert surface.surface_dice(mask, mask, spacing=spacing, tolerance=0.0) == 1


@pytest.mark.parametrize(('convention', 'both', 'one'), [
    ('brats', 0.0, 373.12866), ('monai', np.nan, np.inf), ('deepmind', np.nan, np.inf)])
def test_hd95_of_empty_masks_is_what_the_convention_says(convention, both, one):
    empty, full = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
    spacing = (1.0, 1.0, 1.0)
    assert surface.hd95(empty, empty, spacing=spacing, convention=convention) == pytest.approx(both, nan_ok=True)
    assert surface.hd95(full, empty, spacing=spacing, convention=convention) == one
    assert surface.hd95(empty, full, spacing=spacing, convention=convention) == one


def test_the_penalty_of_an_image_is_its_own_diagonal():
    empty = np.zeros((30, 40), bool)
    assert surface.hd95(empty, ~empty, spacing=(1.0, 1.0)) == 50


@pytest.mark.parametrize(('convention', 'both'), [('brats', 1.0), ('nnunet', np.nan), ('deepmind', np.nan)])
def test_surface_dice_of_empty_masks_is_that_of_dice(convention, both):
    empty = np.zeros((3, 4, 5), bool)
    arguments = dict(spacing=(1.0, 1.0, 1.0), convention=convention)
    assert surface.surface_dice(empty, empty, **arguments) == pytest.approx(both, nan_ok=True)
    assert surface.surface_dice(~empty, empty, **arguments) == surface.surface_dice(empty, ~empty, **arguments) == 0


def test_surface_dice_of_neighbouring_pixels_by_hand():
    # Each has four corner elements of the same length, and two of the four corners are common.
    reference, prediction = voxels((3, 4), (1, 1)), voxels((3, 4), (1, 2))
    assert surface.surface_dice(reference, prediction, spacing=(1, 1), tolerance=0.0) == pytest.approx(0.5)
    assert surface.surface_dice(reference, prediction, spacing=(1, 1), tolerance=1.0) == 1
    assert surface.surface_dice(reference, prediction, spacing=(1, 2), tolerance=1.0) == pytest.approx(0.5)


@pytest.mark.parametrize('start', range(9))
def test_a_tolerance_of_one_step_reaches_one_step_wherever_it_starts(start):
    # The common first voxel keeps the coordinates from starting anew; 0.4 - 0.3 > 0.1.
    reference, prediction = (voxels((1, 10), (0, 0), (0, k)) for k in (start, start + 1))
    assert surface.surface_dice(reference, prediction, spacing=(1.0, 0.1), tolerance=0.1) == 1


def test_deepmind_weights_distances_by_area():
    assert surface.weighted_percentile(np.array([3.0, 1.0, 2.0]), weights=np.array([2.0, 96.0, 2.0]), percent=95) == 1
    assert surface.weighted_percentile(np.array([3.0, 1.0, 2.0]), weights=np.array([2.0, 90.0, 8.0]), percent=95) == 2


def test_areas_of_elements_by_hand():
    sizes = surface.element_sizes((1.0, 2.0, 4.0))  # bits 7..0 are voxels 000 001 010 011 100 101 110 111
    assert sizes[0] == sizes[255] == 0
    assert sizes[0b10000000] == pytest.approx(np.sqrt(2 ** 2 * 4 ** 2 + 4 ** 2 + 2 ** 2) / 8)  # a cut corner
    assert sizes[0b11110000] == pytest.approx(8)  # a plane across the first axis
    assert sizes[0b11001100] == pytest.approx(4)  # across the second
    assert sizes[0b10101010] == pytest.approx(2)  # across the third
    assert sizes[0b10000001] == pytest.approx(2 * sizes[0b10000000])  # two cut corners


@pytest.mark.parametrize('spacing', [(1.0, 1.0, 1.0), (0.7, 1.9, 5.0)])
def test_areas_of_up_to_four_voxels_are_those_of_classic_marching_cubes(spacing):
    measure = pytest.importorskip('skimage.measure', reason='needs scikit-image: pip install -r requirements-test.txt')
    for code in range(1, 255):
        cube = np.array([code >> (7 - k) & 1 for k in range(8)], float).reshape(2, 2, 2)
        if cube.sum() <= 4:
            vertices, faces, *_ = measure.marching_cubes(cube, 0.5, spacing=spacing, method='lorensen')
            area = measure.mesh_surface_area(vertices, faces)
            assert surface.element_sizes(spacing)[code] == pytest.approx(area, rel=1e-5)


def test_lengths_of_elements_by_hand():
    sizes = surface.element_sizes((3.0, 4.0))
    assert sizes[[0b0000, 0b1000, 0b1100, 0b1010, 0b1001, 0b1110, 0b1111]].tolist() == [0, 2.5, 4, 3, 5, 2.5, 0]


@pytest.mark.parametrize('spacing', [(1.0, 2.0), (1.0, 2.0, 4.0)])
def test_an_element_is_as_large_as_that_of_the_complement(spacing):
    sizes = surface.element_sizes(spacing)
    np.testing.assert_allclose(sizes, sizes[::-1], rtol=1e-12)


def test_the_surface_of_a_box_is_its_faces_less_the_cut_edges():
    # A 10 mm cube: each of 6 faces keeps 9 x 9 mm, 12 edges 9 mm long are cut at 45 degrees, 8 corners are triangles.
    _, sizes = surface.elements(np.ones((10, 10, 10), bool), (1.0, 1.0, 1.0))
    assert sizes.sum() == pytest.approx(6 * 81 + 12 * 9 * np.sqrt(0.5) + 8 * np.sqrt(3) / 8)


def test_crop_keeps_the_union_and_what_margin_the_image_has():
    first, second = voxels((9, 9), (1, 2)), voxels((9, 9), (3, 8))
    assert [mask.shape for mask in surface.crop(first, second)] == [(3, 7)] * 2
    assert surface.crop(first, second, margin=2)[0].shape == (6, 9)
    assert surface.crop(first & second)[0].shape == (0, 0)


def test_nnunet_has_no_distance():
    mask = np.ones((2, 2), bool)
    with pytest.raises(InputError, match='nnunet'):
        surface.hd95(mask, mask, spacing=(1, 1), convention='nnunet')


@pytest.mark.parametrize('spacing', [(1.0, 1.0, 1.0), (1.0, 0.0), (1.0, np.nan)])
def test_a_spacing_that_is_none_is_refused(spacing):
    mask = np.ones((2, 2), bool)
    with pytest.raises(InputError, match='spacing'):
        surface.hd95(mask, mask, spacing=spacing)


@on_every_kind_of_mask
def test_hd95_is_that_of_medpy(medpy, case):
    reference, prediction, spacing = case
    expected = when_empty(*case, 'brats')
    if expected is None:
        expected = medpy.hd95(prediction, reference, voxelspacing=spacing)
    else:
        with pytest.raises(RuntimeError, match='any binary object'):  # the challenge's number, not MedPy's
            medpy.hd95(prediction, reference, voxelspacing=spacing)
    assert surface.hd95(reference, prediction, spacing=spacing) == pytest.approx(expected, abs=1e-9)


@on_every_kind_of_mask
def test_hd95_is_that_of_monai(monai, case):
    reference, prediction, spacing = case
    batches = [mask[None, None].astype(np.float32) for mask in (prediction, reference)]
    theirs = monai.compute_hausdorff_distance(*batches, include_background=True, percentile=95, spacing=spacing).item()
    expected = when_empty(*case, 'monai')
    if expected is None:
        expected = theirs
    else:  # infinite distances, of which a percentile is NaN in some versions
        assert not np.isfinite(theirs)
    ours = surface.hd95(reference, prediction, spacing=spacing, convention='monai')
    assert ours == pytest.approx(expected, rel=1e-5, nan_ok=True)  # theirs is float32


@on_every_kind_of_mask
def test_surface_dice_and_hd95_are_those_of_deepmind(deepmind, case):
    reference, prediction, spacing = case
    theirs = deepmind.compute_surface_distances(reference, prediction, spacing)
    ours = surface.hd95(reference, prediction, spacing=spacing, convention='deepmind')
    if reference.any() or prediction.any():
        assert ours == pytest.approx(deepmind.compute_robust_hausdorff(theirs, 95), abs=1e-9)
    else:
        assert np.isnan(ours) and np.isinf(deepmind.compute_robust_hausdorff(theirs, 95))  # left out, as its Dice is
    for tolerance in (0.0, 0.5, 1.0, 2.6):
        with np.errstate(invalid='ignore'):  # 0 / 0
            expected = deepmind.compute_surface_dice_at_tolerance(theirs, tolerance)
        ours = surface.surface_dice(reference, prediction, spacing=spacing, tolerance=tolerance, convention='deepmind')
        assert ours == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize('spacing', [(1.0, 1.0), (0.7, 1.9), (1.0, 1.0, 1.0), (0.7, 1.9, 5.0)])
def test_every_element_is_as_large_as_deepminds(deepmind, spacing):
    tables = deepmind.metrics.lookup_tables
    table = {2: tables.create_table_neighbour_code_to_contour_length,
             3: tables.create_table_neighbour_code_to_surface_area}[len(spacing)](spacing)
    np.testing.assert_allclose(surface.element_sizes(spacing), table, rtol=0, atol=1e-9)
