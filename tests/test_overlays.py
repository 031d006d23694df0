import nibabel as nib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from unet_jax.errors import InputError
from unet_jax.report import overlays
from unet_jax.report.overlays import overlay, window


def pixels(figure):
    """(H, W, 3) uint8, as drawn at a low resolution."""
    figure.set_dpi(40)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def images(figure):
    """The grey pictures in the figure, in the order drawn."""
    return [axes.images[0].get_array() for axes in figure.axes]


def volume(seed=0, shape=(12, 16, 10)):
    generator = np.random.default_rng(seed)
    image = generator.uniform(1, 2, (*shape, 1)).astype(np.float32)
    mask = np.zeros((*shape, 1), bool)
    mask[2:5, 3:9, 4:7] = True
    return image, mask


@pytest.fixture(autouse=True)
def uncropped(monkeypatch):
    monkeypatch.setattr(overlays, 'MARGIN', 1000)


@pytest.mark.parametrize('regions, masks, count', [(1, 2, 2), (1, 1, 2), (1, 0, 1), (3, 2, 3), (3, 1, 2), (3, 0, 1)])
def test_a_picture_stands_beside_the_plain_image_for_one_region_and_a_picture_a_mask_for_more(regions, masks, count):
    mask = np.ones((8, 9, regions), bool)
    reference, prediction = [mask, mask][:masks] + [None] * (2 - masks)
    figure = overlay(np.ones((8, 9)), reference, prediction, ('a', 'b', 'c')[:regions])
    assert len(figure.axes) == count


@pytest.mark.parametrize('regions, count', [(1, 6), (3, 9)])
def test_a_volume_has_its_views_in_three_planes(regions, count):
    image, mask = volume()
    mask = np.repeat(mask, regions, -1)
    assert len(overlay(image, mask, mask, ('a', 'b', 'c')[:regions]).axes) == count


def test_an_outline_runs_half_a_pixel_outside_the_mask_also_at_the_border():
    mask = np.zeros((10, 12, 1), bool)
    mask[0:5, 3:7] = True
    axes = overlay(np.zeros((10, 12)), mask, None, ('a',)).axes[1]
    (path,) = axes.collections[0].get_paths()
    np.testing.assert_allclose([path.vertices.min(0), path.vertices.max(0)], [(2.5, -0.5), (6.5, 4.5)])


def test_reference_is_solid_and_prediction_dashed():
    mask = np.zeros((9, 9, 1), bool)
    mask[2:5, 2:5] = True
    reference, prediction = overlay(np.zeros((9, 9)), mask, mask, ('a',)).axes[1].collections
    assert reference.get_linestyle()[0][1] is None and prediction.get_linestyle()[0][1] is not None


def test_of_several_regions_a_later_one_is_painted_over_an_earlier_one():
    masks = np.zeros((6, 6, 2), bool)
    masks[1:5, 1:5, 0] = masks[2:4, 2:4, 1] = True
    painted = overlay(np.zeros((6, 6)), masks, None, ('outer', 'inner')).axes[1].images[1].get_array()
    inks = [overlays.to_rgba(overlays.colour(r), 0.4) for r in range(2)]
    np.testing.assert_allclose(painted[2, 2], inks[1])
    np.testing.assert_allclose(painted[1, 1], inks[0])
    assert painted[0, 0, 3] == 0


def test_the_slices_with_most_reference_are_shown():
    image, mask = volume()
    mask[3, 4, 5] = mask[3, 12, 5] = True  # the second makes these the fullest sections along x and z
    mask[1, 4, 5] = mask[6, 4, 1] = True  # and these the one along y
    axial, coronal, sagittal = images(overlay(image, mask, None, ('a',)))[::2]
    grey = window(image[..., 0])
    np.testing.assert_allclose(axial, grey[:, :, 5].T)
    np.testing.assert_allclose(coronal, grey[:, 4, ::-1].T)
    np.testing.assert_allclose(sagittal, grey[3, :, ::-1].T)


def test_without_reference_the_prediction_chooses_the_slices():
    image, mask = volume()
    given = overlay(image, mask, np.zeros_like(mask), ('a',))
    swapped = overlay(image, np.zeros_like(mask), mask, ('a',))
    for a, b in zip(images(given), images(swapped), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_region_asked_for_chooses_the_slices():
    image, mask = volume()
    other = np.roll(mask, 3, 2)
    axial = images(overlay(image, np.concatenate([mask, other], -1), None, ('a', 'b'), region=1))[0]
    np.testing.assert_allclose(axial, window(image[..., 0])[:, :, 8].T)


@pytest.mark.parametrize('orientation', ['RAS', 'LPI', 'SLP', 'PIR'])
def test_the_picture_does_not_depend_on_how_the_array_lies(orientation):
    image, mask = volume()
    spacing = (1.0, 1.2, 3.0)
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt('LPS'),
                                           nib.orientations.axcodes2ornt(orientation))
    turned = [nib.orientations.apply_orientation(array, turn) for array in (image, mask)]
    moved = np.empty(3)
    moved[turn[:, 0].astype(int)] = spacing
    straight = pixels(overlay(image, mask, None, ('a',), spacing=spacing))
    np.testing.assert_array_equal(pixels(overlay(*turned, None, ('a',), spacing=tuple(moved),
                                                 orientation=orientation)), straight)


def test_the_patients_right_is_on_the_viewers_left_and_anterior_and_superior_are_up(shared_data):
    scan = nib.load(shared_data / 'brats2021-00006' / 'BraTS2021_00006_seg.nii.gz')
    mask = np.asarray(scan.dataobj) > 0
    codes = ''.join(nib.aff2axcodes(scan.affine))
    right, anterior, superior = nib.affines.apply_affine(scan.affine, np.argwhere(mask)).mean(0)
    middle = nib.affines.apply_affine(scan.affine, (np.array(mask.shape) - 1) / 2)
    image = np.zeros((*mask.shape, 1), np.uint8)
    image[mask] = 1
    axial, coronal, sagittal = images(overlay(image, mask[..., None], None, ('a',), orientation=codes))[::2]
    for picture, world in ((axial, (right, anterior)), (coronal, (right, superior)), (sagittal, (anterior, superior))):
        row, column = np.argwhere(picture > 0.5).mean(0) - (np.array(picture.shape) - 1) / 2
        across, up = [value - middle[(right, anterior, superior).index(value)] for value in world]
        assert abs(column) < 3 or (column < 0) == (across > 0)  # R and A lie to the left
        assert abs(row) < 3 or (row < 0) == (up > 0)  # A and S lie upwards


def test_a_slice_with_an_orientation_is_turned_upright_and_lettered():
    image = np.random.default_rng(0).uniform(size=(6, 9))
    figure = overlay(image, None, None, ('a',), orientation='LP')
    np.testing.assert_allclose(images(figure)[0], window(image).T)
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ['A', 'L', 'P', 'R', 'axial']


def test_a_slice_without_an_orientation_is_shown_as_it_is_and_claims_none():
    image = np.random.default_rng(0).uniform(size=(6, 9))
    figure = overlay(image, None, None, ('a',))
    np.testing.assert_allclose(images(figure)[0], window(image))
    assert not ''.join(text.get_text() for text in figure.axes[0].texts)


def test_voxels_keep_their_shape():
    image, mask = volume()
    figure = overlay(image, mask, None, ('a',), spacing=(1.0, 2.0, 5.0))
    assert [axes.get_aspect() for axes in figure.axes[::2]] == [2.0, 5.0, 2.5]


def test_a_volume_is_cut_to_the_head_and_masks_with_a_margin(monkeypatch):
    monkeypatch.setattr(overlays, 'MARGIN', 2)
    image = np.zeros((40, 40, 40, 1), np.uint8)
    image[10:20, 12:30, 5:35] = 7
    mask = np.zeros((40, 40, 40, 1), bool)
    mask[15, 35, 20] = True
    axial = images(overlay(image, mask, None, ('a',)))[0]
    assert axial.shape == (36 + 2 - 10, 22 - 8)  # y, x


def test_the_window_spans_the_head_and_a_standardised_background_is_black():
    image = np.zeros((20, 20), np.float32)
    image[5:15, 5:15] = np.linspace(-2, 3, 100).reshape(10, 10)
    grey = window(image)
    assert grey[0, 0] == 0 and grey[5, 5] == 0 and grey[14, 14] == 1
    low, high = np.percentile(image[5:15, 5:15], (0.5, 99.5))
    assert grey[10, 10] == pytest.approx((image[10, 10] - low) / (high - low))


def test_one_bright_pixel_does_not_darken_the_picture():
    image = np.tile(np.arange(100, dtype=np.uint8), (100, 1))
    spoilt = image.copy()
    spoilt[50, 50] = 255
    np.testing.assert_allclose(np.delete(window(spoilt), 50, 0), np.delete(window(image), 50, 0), atol=0.02)


@pytest.mark.parametrize('value', [0, 7, np.nan, np.inf])
def test_a_constant_or_undefined_image_is_drawn(value):
    assert np.isfinite(window(np.full((4, 4), value, np.float32))).all()


def test_the_channel_asked_for_is_shown():
    image = np.random.default_rng(0).uniform(size=(8, 8, 4))
    np.testing.assert_allclose(images(overlay(image, None, None, (), channel=2))[0], window(image[..., 2]))


def test_names_and_titles_are_shown_literally(tmp_path):
    mask = np.eye(8, dtype=bool)[..., None]
    figure = overlay(np.zeros((8, 8)), mask, mask, ('$\\frac{$ <b>',), title='$\\frac{$')
    path = overlays.save(figure, tmp_path / 'new' / 'a.png')
    assert path.read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('arguments, message', [
    ({'image': np.zeros(5)}, r'shape \(5,\)'),
    ({'reference': np.zeros((4, 5, 2), bool)}, r'reference of shape \(4, 5, 2\)'),
    ({'prediction': np.zeros((5, 4, 1), bool)}, r'prediction of shape \(5, 4, 1\)'),
    ({'channel': 1}, 'channel 1 of an image with 1'),
    ({'spacing': (1.0, 1.0, 1.0)}, 'spacing'),
    ({'orientation': 'XY'}, "orientation 'XY'"),
    ({'orientation': 'LR'}, "orientation 'LR'"),
    ({'orientation': 'LPS'}, "orientation 'LPS'"),
    ({'image': np.zeros((4, 5, 6, 1)), 'orientation': 'LRS'}, "orientation 'LRS'"),
])
def test_what_does_not_fit_is_refused_by_name(arguments, message):
    given = {'image': np.zeros((4, 5)), 'reference': None, 'prediction': None, 'names': ('a',)} | arguments
    with pytest.raises(InputError, match=message):
        overlay(**given)
