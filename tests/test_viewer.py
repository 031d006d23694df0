"""The viewer of cases: what is packed for it, and the page as a reader has it, in a headless Chromium."""
import base64
import io
import json
import re
import zlib

import browser
import nibabel
import numpy as np
import pytest
import scipy
from PIL import Image
from test_report import with_volumes

from unet_jax import phantom
from unet_jax.report import html, overlays, viewer, viewer_pack
from unet_jax.report.html import Example

NAMES = ('WT', 'TC', 'ET')
NASTY = '</script><img src=x onerror=alert(1)><!--<script>'
AFFINE = np.array([[-1, 0, 0, 40.0], [0, -1, 0, 50], [0, 0, 3, -30], [0, 0, 0, 1]])  # LPS, slices 3 mm apart
VIEW = "document.querySelector('.viewer')"


def volume(folder, number=1):
    """A made-up case with a prediction that is shifted, and one voxel more than the reference has lesions."""
    case = sorted(folder.rglob('BraTS20_Training_*'))[0].parent / f'BraTS20_Training_{number:03d}'
    image = np.stack([np.asanyarray(nibabel.load(case / f'{case.name}_{name}.nii.gz').dataobj)
                      for name in ('flair', 't1', 't1ce', 't2')], -1).astype(np.float32)
    seg = np.asanyarray(nibabel.load(case / f'{case.name}_seg.nii.gz').dataobj)
    reference = np.stack([seg > 0, np.isin(seg, (1, 4)), seg == 4], -1)
    found = np.stack([scipy.ndimage.binary_erosion(reference[..., r]) for r in range(3)], -1)
    found[tuple(np.argwhere((image != 0).any(-1) & ~reference[..., 0])[0])] = (True, False, False)
    return Example(case.name, 'worst', dict.fromkeys(NAMES, 0.5), image, reference, found, NAMES, (1.0, 1.0, 3.0),
                   orientation='LPS', sequences=('flair', 't1', 't1ce', 't2'), affine=AFFINE,
                   uncertainty=np.uint8(100 * (reference ^ found)))


def as_case(e, **changes):
    return viewer.Case(e.case, 'lowest Dice', e.image, e.sequences, e.reference, e.prediction, e.names, e.scores,
                       e.uncertainty, e.spacing, e.orientation, e.affine)._replace(**changes)


@pytest.fixture(scope='module')
def example(tmp_path_factory):
    return volume(phantom.write_nifti(tmp_path_factory.mktemp('phantom'), cases=1, shape=(20, 56, 48)))


# --- what is packed ---

def unpacked(text):
    """What `viewer_pack.integers` packed."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).astype(int)
    folded = raw[:len(raw) // 2] + 256 * raw[len(raw) // 2:]
    return (folded >> 1) ^ -(folded & 1)


def test_whole_numbers_survive():
    values = np.array([0, -1, 1, 127, -128, 32767, -32767])
    assert unpacked(viewer_pack.integers(values)).tolist() == values.tolist()


@pytest.mark.parametrize('shape', [(1, 9, 7), (8, 8, 8), (5, 1, 12)])
def test_bands_hold_each_coefficient_once_and_a_flat_volume_has_no_details(shape):
    coefficients = viewer_pack.wavelet(np.full(shape, 100.0))
    seen = np.zeros(shape, int)
    *details, mean = list(viewer_pack.bands())
    for band in (*details, mean):
        seen[band] += 1
    assert (seen == 1).all()
    assert max(np.abs(coefficients[band]).max(initial=0) for band in details) < 1e-2 < coefficients[mean].min()


def test_lesions_are_matched_counted_and_placed():
    masks = np.zeros((2, 20, 20, 20, 1), bool)
    masks[:, 2:6, 2:6, 2:6] = True  # found
    masks[1, 4:6] = False  # but for half of it
    masks[0, 10, 10, 10] = masks[1, 15:17, 15, 15] = True  # missed; invented
    grid = viewer.Grid(np.zeros((20, 20, 20, 1)), *masks, None, np.ones((20,) * 3, bool), (1.0, 1.0, 5.0), np.eye(4))
    found, invented, missed = viewer.lesions(grid, ('WT',))
    assert (found['state'], found['reference'], found['prediction']) == ('found', '0.32', '0.16')  # ml
    assert found['dice'] == f'{2 * 32 / (64 + 32):.3f}'
    assert (missed['state'], missed['at'], missed['dice']) == ('missed', [10, 10, 10], '0.000')
    assert invented['state'] == 'invented' and masks[1][tuple(invented['at'])].all()


@pytest.mark.parametrize('orientation', ['LPS', 'RAS', 'SLP', 'AIR'])
def test_places_lead_back_to_the_file_however_its_axes_point(orientation, example):
    turn = nibabel.orientations.ornt_transform(*map(nibabel.orientations.axcodes2ornt, ('LPS', orientation)))
    arrays = {name: nibabel.orientations.apply_orientation(getattr(example, name), turn)
              for name in ('image', 'reference', 'prediction', 'uncertainty')}
    affine = AFFINE @ nibabel.orientations.inv_ornt_aff(turn, example.image.shape[:3])
    spacing = tuple(float(n) for n in np.sqrt((affine[:3, :3] ** 2).sum(0)))
    turned = as_case(example, orientation=orientation, spacing=spacing, affine=affine, **arrays)
    packed = viewer.packed(turned, 10 ** 6)
    upright = viewer.packed(as_case(example), 10 ** 6)
    assert packed['spacing'] == upright['spacing'] == (1, 1, 3) and packed['shape'] == upright['shape']
    assert [lesion['reference'] for lesion in packed['lesions']] == [le['reference'] for le in upright['lesions']]
    np.testing.assert_allclose(packed['world'], upright['world'])
    for lesion in packed['lesions']:
        voxel = np.rint(np.array(packed['file']) @ [*lesion['at'], 1]).astype(int)
        which = 'prediction' if lesion['state'] == 'invented' else 'reference'
        assert arrays[which][(*voxel, lesion['region'])]


def test_a_surface_lies_where_the_mask_is_and_small_masks_have_one():
    mask = np.zeros((40, 40, 20), bool)
    mask[10:30, 12:28, 5:15] = True
    mesh = viewer_pack.surface(mask, (1.0, 1.0, 2.0), 10_000)
    places = np.cumsum(unpacked(mesh['vertices']).reshape(-1, 3), 0) * mesh['unit']
    np.testing.assert_allclose(places.min(0), (10, 12, 5), atol=1)
    np.testing.assert_allclose(places.max(0), (30, 28, 15), atol=1)
    assert np.cumsum(unpacked(mesh['faces'])).max() == len(places) - 1
    coarse = viewer_pack.surface(mask, (1.0, 1.0, 2.0), 300)
    assert len(unpacked(coarse['vertices'])) < len(places) * 2
    mask[:] = False
    assert viewer_pack.surface(mask, (1.0, 1.0, 2.0), 300) is None
    mask[0, 0, 0] = True
    assert viewer_pack.surface(mask, (0.5, 0.5, 2.0), 300) is not None


def test_a_case_is_made_coarser_until_it_fits_and_large_volumes_thinner(example, monkeypatch):
    fine = viewer.packed(as_case(example), 10 ** 7)
    coarse = viewer.packed(as_case(example), len(viewer._json(fine)) * 4 // 5)
    assert fine['step'] == viewer.STEPS[0] < coarse['step'] and len(viewer._json(coarse)) < len(viewer._json(fine))
    monkeypatch.setattr(viewer, 'VOXELS', np.prod(fine['shape']) * 0.6)
    thin = viewer.packed(as_case(example), 10 ** 7)
    assert thin['spacing'] == (2, 1, 3) and thin['lesions'][0]['reference'] == fine['lesions'][0]['reference']


def test_names_end_no_script_and_are_kept(example):
    case = as_case(example, name=NASTY, sequences=(NASTY,) * 4, regions=(NASTY, 'TC', 'ET'), scores={NASTY: 0.5})
    text = viewer.html([case])
    scripts = re.findall(r'<script[^>]*>(.*?)</script>', text, re.DOTALL)
    assert len(scripts) == 3 and '<img' not in text and '<!--' not in text
    assert json.loads(scripts[1])['name'] == json.loads(scripts[1])['sequences'][3]['name'] == NASTY
    assert viewer.html([]) == ''


def test_nine_real_volumes_take_under_20_megabytes(shared_data):
    files = sorted((shared_data / 'brats2021-00006').glob('*.nii.gz'))
    arrays = {path.name.split('_')[-1][:-7]: np.asanyarray(nibabel.load(path).dataobj) for path in files}
    seg = arrays.pop('seg')
    masks = np.stack([seg > 0, np.isin(seg, (1, 4)), seg == 4], -1)
    image = np.stack([arrays[name] for name in ('flair', 't1', 't1ce', 't2')], -1).astype(np.float32)
    case = viewer.Case('a', 'b', image, (), masks, np.roll(masks, 2, 0), NAMES, {}, spacing=(1.0, 1.0, 1.0))
    packed = viewer.packed(case, viewer.BYTES // 9)
    assert len(viewer._json(packed)) <= viewer.BYTES // 9 and packed['step'] <= 12


# --- the page ---

needs_chromium = pytest.mark.skipif(not browser.CHROMIUM, reason='needs Chromium (Debian: apt-get install chromium)')


@pytest.fixture(scope='module')
def pages(tmp_path_factory, example):
    """A report of volumes, and one of images."""
    folder, dpi = tmp_path_factory.mktemp('report'), overlays.DPI
    overlays.DPI = 30
    picture = np.random.default_rng(0).integers(60, 250, (40, 60, 3), np.uint8)
    mask = np.zeros((40, 60, 1), bool)
    mask[5:15, 30:50] = True
    images = [Example('a.png', 'worst', {'tumour': 0.5}, picture, mask, np.roll(mask, 4, 0), ('tumour',))]
    volumes = [example, example._replace(case=NASTY, kind='best', prediction=np.zeros_like(example.prediction),
                                         uncertainty=None)]
    made = {name: html.write(folder / name, 'test', examples)
            for name, examples in (('volumes', volumes), ('images', images))}
    overlays.DPI = dpi
    return made


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp('profile'), *browser.SOFTWARE) as opened:
        yield opened


def show(page, path, **how):
    page.open(path, **how)
    page.wait(f'{VIEW}?.dataset.whole')
    page.settle()


def voxel(page):
    return tuple(int(n) for n in page.run(f'{VIEW}.dataset.voxel').split(','))


def canvas(page, name):
    """What is drawn: (H, W, 3)."""
    box = page.run(f'(e => {{ e.scrollIntoView({{block: "center"}}); const b = e.getBoundingClientRect();'
                   f'return [b.x, b.y, b.right, b.bottom] }})(document.querySelector("canvas[data-plane={name}]"))')
    return np.asarray(Image.open(io.BytesIO(page.shot())).convert('RGB').crop([round(n) for n in box])).astype(int)


def near(pixels, colour):
    return int((np.abs(pixels - colour).max(-1) < 30).sum())


@needs_chromium
def test_every_canvas_shows_something_and_nothing_is_asked_of_the_net(page, pages):
    show(page, pages['volumes'])
    for name in ('axial', 'coronal', 'sagittal', 'surface'):
        assert len(np.unique(canvas(page, name).reshape(-1, 3), axis=0)) > 50, name
    assert page.complaints() == []
    wide, high = page.run('[...document.querySelectorAll(".plane canvas")].slice(0, 1)'
                          '.map(c => [c.width, c.height])[0]')
    assert wide == high > 250


@needs_chromium
def test_a_lesion_row_moves_the_crosshair_to_its_voxel(page, pages, example):
    show(page, pages['volumes'])
    rows = page.run(f'[...{VIEW}.querySelectorAll("tbody tr")].map(r => [r.dataset.voxel, r.innerText])')
    assert [text.split()[2] for _, text in rows].count('invented') == 1
    for number in (2, len(rows), 1):
        page.mouse(f'.viewer tbody tr:nth-child({number})', 0.5, 0.5)
        where, text = rows[number - 1]
        assert voxel(page) == tuple(map(int, where.split(',')))
        masks = example.prediction if 'invented' in text else example.reference
        assert masks[(*voxel(page), NAMES.index(text.split()[0]))]


@needs_chromium
def test_arrow_keys_and_the_wheel_move_slices_and_shift_the_crosshair(page, pages):
    show(page, pages['volumes'])
    x, y, z = voxel(page)  # files point left, posterior, superior; what is shown points inferior
    page.run('document.querySelector("canvas[data-plane=axial]").focus()')
    page.key('ArrowUp')
    assert voxel(page) == (x, y, z - 1)
    page.key('ArrowDown')
    page.key('ArrowRight', modifiers=8)
    page.key('ArrowDown', modifiers=8)
    assert voxel(page) == (x + 1, y + 1, z)
    page.mouse('canvas[data-plane=sagittal]', 0.5, 0.5, 'wheel', deltaX=0, deltaY=-100)
    page.settle()
    assert voxel(page) == (x + 2, y + 1, z)
    page.key('PageDown')
    assert voxel(page)[2] == min(z + 10, 19)


@needs_chromium
def test_place_and_value_under_the_mouse_are_those_of_the_file(page, pages, example):
    show(page, pages['volumes'])
    page.mouse('.viewer tbody tr', 0.5, 0.5)
    at = voxel(page)
    for number, name in enumerate(example.sequences):
        page.run(f'(s => {{ s.value = {number}; s.dispatchEvent(new Event("change")) }})'
                 '(document.querySelector(".sequence"))')
        page.wait(f'{VIEW}.querySelector(".told").textContent.includes(" · {name} ")')
        told = page.run(f'{VIEW}.querySelector(".told").textContent')
        value = float(re.search(rf'{name} [≈≥] ([\d,.-]+)', told)[1].replace(',', ''))
        low, high = np.percentile(example.image[..., number][example.image[..., number] != 0], (0.05, 99.95))
        wanted = np.clip(example.image[(*at, number)], low, high)
        assert abs(value - wanted) < 0.08 * (high - low)  # the wavelet's error, at its worst
    right, anterior, superior = (AFFINE @ [*at, 1])[:3]
    assert told.startswith(f'{"R" if right >= 0 else "L"} {abs(right):.1f}, {"A" if anterior >= 0 else "P"} '
                           f'{abs(anterior):.1f}, {"S" if superior >= 0 else "I"} {abs(superior):.1f} mm')
    assert 'reference: WT' in told and 'uncertainty of 100: WT' in told
    page.mouse('canvas[data-plane=axial]', 0.02, 0.02, 'move')
    assert 'outside' in page.run(f'{VIEW}.querySelector(".told").textContent')


@needs_chromium
def test_overlays_come_and_go_in_colours_and_textures_of_their_own(page, pages):
    show(page, pages['volumes'])
    page.mouse('.viewer tbody tr', 0.5, 0.5)
    plain, orange = canvas(page, 'axial'), (230, 159, 0)
    assert near(plain, orange)
    for name in ('reference', 'prediction'):
        page.mouse(f'.viewer input[name={name}]', 0.5, 0.5)
    assert not near(canvas(page, 'axial'), orange)
    page.run(f'(s => {{ s.value = 1; s.dispatchEvent(new Event("input")) }})({VIEW}.querySelector("[type=range]"))')
    page.mouse('.viewer input[name=errors]', 0.5, 0.5)
    errors = canvas(page, 'axial')
    assert near(errors, orange) and near(errors, (0, 158, 115))
    legend = page.run(f'{VIEW}.querySelector(".legend").innerText').split()
    assert legend == ['agreed', 'missed', 'invented']
    page.mouse('.viewer input[name=errors]', 0.5, 0.5)
    page.mouse('.viewer input[name=uncertainty]', 0.5, 0.5)
    assert (np.ptp(canvas(page, 'axial'), axis=-1) > 60).any()


@needs_chromium
def test_the_window_makes_brighter_and_zoom_larger(page, pages):
    show(page, pages['volumes'])
    before = canvas(page, 'coronal')
    page.run(f'(s => {{ s.value = 40; s.dispatchEvent(new Event("input")) }})'
             f'([...{VIEW}.querySelectorAll("label")].find(l => l.innerText === "Level").querySelector("input"))')
    page.settle()
    assert canvas(page, 'coronal').mean() > before.mean() + 10
    page.run(f'[...{VIEW}.querySelectorAll("button")].find(b => b.innerText === "Auto").click()')
    page.settle()
    assert np.abs(canvas(page, 'coronal') - before).mean() < 1
    page.run('document.querySelector("canvas[data-plane=coronal]").focus()')
    page.key('+')
    assert np.abs(canvas(page, 'coronal') - before).mean() > 5


@needs_chromium
@pytest.mark.parametrize('name', ['volumes', 'images'])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_on_a_phone_nothing_is_wider_than_the_window_and_planes_are_below_one_another(page, pages, name, scheme):
    show(page, pages[name], width=400, scheme=scheme)
    assert page.run('document.documentElement.scrollWidth <= window.innerWidth')
    boxes = page.run('[...document.querySelectorAll(".plane")].map(e => e.getBoundingClientRect().toJSON())')
    assert len(boxes) == (4 if name == 'volumes' else 1) and len({round(box['left']) for box in boxes}) == 1
    assert all(box['width'] > 300 for box in boxes)


@needs_chromium
def test_the_keyboard_reaches_everything(page, pages):
    show(page, pages['volumes'])
    wanted = page.run(f'{VIEW}.querySelectorAll("canvas, input, select, button").length')
    page.run(f'{VIEW}.querySelector("select").focus(); window.seen = new Set()')
    for _ in range(wanted):
        page.run('seen.add(document.activeElement)')
        page.key('Tab')
    assert page.run(f'[...{VIEW}.querySelectorAll("canvas, input, select, button")].every(e => seen.has(e))')
    page.run(f'{VIEW}.querySelector("tbody tr:nth-child(3) button").focus()')
    page.key('Enter')
    assert page.run(f'{VIEW}.dataset.voxel === {VIEW}.querySelector("tbody tr:nth-child(3)").dataset.voxel')


@needs_chromium
def test_another_case_may_be_chosen_whatever_it_is_called(page, pages):
    show(page, pages['volumes'])
    assert page.run(f'[...{VIEW}.querySelectorAll("optgroup")].map(g => g.label)') == ['lowest Dice', 'highest Dice']
    page.run(f'(s => {{ s.value = 1; s.dispatchEvent(new Event("change")) }})({VIEW}.querySelector("select"))')
    page.wait(f'{VIEW}.dataset.whole === {json.dumps(NASTY)}')
    assert page.run(f'{VIEW}.querySelectorAll("img").length') == 0
    assert 'missed' in page.run(f'{VIEW}.querySelector("tbody").innerText')
    assert page.complaints() == []


@needs_chromium
def test_an_image_is_one_plane_in_its_colours_that_zooms_under_the_mouse(page, pages):
    show(page, pages['images'])
    assert page.run('document.querySelectorAll(".plane").length') == 1
    page.mouse('.plane canvas', 0.26, 0.76)
    assert voxel(page) == (15, 30)
    pixels = canvas(page, 'axial')
    assert (np.ptp(pixels, axis=-1) > 40).mean() > 0.3  # coloured noise
    page.mouse('.plane canvas', 0.26, 0.76, 'wheel', deltaX=0, deltaY=-100)
    page.settle()
    assert np.abs(canvas(page, 'axial') - pixels).mean() > 5
    page.mouse('.plane canvas', 0.26, 0.76)
    assert voxel(page) == (15, 30)
    page.run('document.querySelector(".plane canvas").focus()')
    page.key('ArrowDown')
    page.key('ArrowRight')
    assert voxel(page) == (16, 31)
    assert page.complaints() == []


@needs_chromium
def test_in_print_and_without_scripts_the_pictures_stay(page, pages):
    visible = f'[{VIEW}.checkVisibility(), document.querySelector("figure img").checkVisibility()]'
    show(page, pages['volumes'], media='print')
    assert page.run(visible) == [False, True]
    page.call('Emulation.setScriptExecutionDisabled', value=True)
    page.open(pages['volumes'])
    page.wait('document.readyState === "complete"')
    assert page.run(visible) == [False, True] and 'scripts allowed' in page.run('document.body.innerText')
    page.call('Emulation.setScriptExecutionDisabled', value=False)


@needs_chromium
def test_without_webgl_the_planes_stay_and_it_is_said(tmp_path, pages):
    with browser.chromium(tmp_path, '--disable-3d-apis') as page:
        show(page, pages['volumes'])
        assert 'No WebGL' in page.run('document.querySelector(".none").innerText')
        assert len(np.unique(canvas(page, 'axial').reshape(-1, 3), axis=0)) > 50
        assert [text for text in page.complaints() if 'WebGL' not in text] == []


@needs_chromium
def test_the_table_of_cases_opens_the_viewer_and_tables_are_copied(page, example, tmp_path, monkeypatch):
    monkeypatch.setattr(overlays, 'DPI', 30)
    shown = [example._replace(case='a'), example._replace(case='b', kind='best')]
    show(page, html.write(with_volumes(tmp_path), 'test', shown))
    page.run('document.querySelector(\'a[data-walk="1"]\').click()')
    assert page.wait(f'{VIEW}.dataset.whole === "b"') < 10
    page.run('navigator.clipboard.writeText = async text => { window.held = text }')
    for number in range(2):
        page.run(f'document.querySelectorAll("button.copy")[{number}].click()')
        page.wait(f'document.querySelectorAll("button.copy")[{number}].textContent === "Copied"')
        text = page.run('held')
        assert ('WT,dice,all,0.87654,' if not number else '\na,,0.0,3000.0,0.0\n') in text
    assert page.complaints() == []
