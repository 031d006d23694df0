"""Image files of every mode, letterboxing and back, labels at the network's and the file's size."""
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from unet_jax.annotations import frame as frames
from unet_jax.annotations import image_file
from unet_jax.errors import InputError
from unet_jax.pipeline import decode


def row_of(path, width, height, annotations=()):
    lines = [{'file_name': path, 'width': width, 'height': height, 'category_id': c, 'segmentation': s,
              'category': str(c) if c else None, 'subset': 'train', 'image_id': '0', 'path': path, 'group': path,
              'case': path, 'slice': None} for c, s in annotations or [(None, None)]]
    return next(frames.images(frames.build(lines)).itertuples())


@pytest.mark.parametrize('mode', ['L', 'RGB', 'RGBA', 'P', 'CMYK', '1', 'LA'])
def test_every_mode_of_eight_bits_reads_as_grey_and_as_colour(mode, tmp_path):
    grey = Image.fromarray(np.uint8([[0, 255], [255, 0]]))
    path = tmp_path / ('a.tif' if mode == 'CMYK' else 'a.png')
    grey.convert('RGBA' if mode == 'RGBA' else mode).save(path)
    assert np.abs(image_file.read(path, 1)[..., 0].astype(int) - np.asarray(grey)).max() <= 1
    assert image_file.read(path, 3).shape == (2, 2, 3)


def test_sixteen_bits_are_scaled_by_their_own_maximum(tmp_path):
    Image.fromarray(np.uint16([[0, 1000], [2000, 4000]])).save(tmp_path / 'a.png')
    assert image_file.read(tmp_path / 'a.png', 1)[..., 0].tolist() == [[0, 64], [128, 255]]


def test_exif_orientation_is_not_applied(tmp_path):
    image = Image.fromarray(np.zeros((4, 8), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees
    image.save(tmp_path / 'a.jpg', exif=exif)
    assert image_file.read(tmp_path / 'a.jpg', 1).shape == (4, 8, 1)


def test_what_is_no_image_is_refused_by_name(tmp_path):
    (tmp_path / 'page.jpg').write_text('<html>')
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(tmp_path / 'cut.png')
    (tmp_path / 'cut.png').write_bytes((tmp_path / 'cut.png').read_bytes()[:1000])
    for name in ('page.jpg', 'cut.png', 'absent.png'):
        with pytest.raises(InputError, match=name):
            image_file.read(tmp_path / name, 1)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(image_file, 'MAX_PIXELS', 100)
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / 'a.png')
    with pytest.raises(InputError, match='20×20'):
        image_file.read(tmp_path / 'a.png', 1)


@pytest.mark.parametrize('height, width', [(30, 60), (60, 30), (17, 17), (1, 50), (128, 128)])
def test_placement_keeps_the_aspect_and_is_centred(height, width):
    p = decode.place((height, width), size=(64, 64))
    assert max(p.height, p.width) == 64 and p.top == (64 - p.height) // 2 and p.left == (64 - p.width) // 2
    assert p.height / p.width == pytest.approx(height / width, rel=0.1) or min(p.height, p.width) == 1


def test_extract_undoes_embed():
    ramp = np.linspace(0, 1, 24, dtype=np.float32)[:, None, None] * np.ones((24, 48, 2), np.float32)
    assert np.abs(decode.extract(decode.embed(ramp, (96, 96)), height=24, width=48) - ramp).max() < 0.02
    assert np.array_equal(decode.embed(ramp, (24, 48)), ramp)


def test_several_annotations_of_a_class_are_united_and_classes_may_overlap(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / 'a.png')
    square = [[0, 0, 4, 0, 4, 4, 0, 4]]
    row = row_of('a.png', 8, 8, [(1, square), (1, [[4, 4, 8, 4, 8, 8, 4, 8]]), (5, square), (9, [[0, 0, 8, 0, 8, 8]])])
    settings = decode.Settings(str(tmp_path), (8, 8), 1, (1, 5))
    _, label = decode.decode(row, settings)
    assert label[0, 0] == 3 and label[6, 6] == 1 and label[0, 6] == 0
    assert np.array_equal(label, decode.decode_label(row, settings))


def test_a_pixel_belongs_to_a_class_that_covers_half_of_it(tmp_path):
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / 'a.png')
    row = row_of('a.png', 16, 16, [(1, [[0, 0, 8, 0, 8, 16, 0, 16]])])
    _, label = decode.decode(row, decode.Settings(str(tmp_path), (4, 4), 1, (1,)))
    assert label.tolist() == [[1, 1, 0, 0]] * 4


def test_of_classes_that_exclude_each_other_every_pixel_gets_the_one_that_covers_most_of_it():
    """No holes between them and no pixel twice, as with half of a pixel for each."""
    rng = np.random.default_rng(0)
    ids = np.stack([ndimage.gaussian_filter(rng.normal(size=(200, 200)), 6) for _ in range(4)], -1).argmax(-1)
    masks = ids[..., None] == np.arange(1, 4)
    found = decode.scaled_label(masks, (50, 50))
    assert found.sum(-1).max() == 1
    whole = np.stack([ids == k for k in range(4)], -1)
    scaled = np.stack([np.asarray(Image.fromarray(np.float32(whole[..., k])).resize((50, 50), Image.BILINEAR))
                       for k in range(4)], -1)
    clear = np.diff(np.sort(scaled, -1), axis=-1)[..., -1] > 0.02  # two largest further apart than rounding
    nobodys = (scaled[..., 1:] < 0.5).all(-1) & (scaled[..., 1:].max(-1) > scaled[..., 0]) & clear
    assert nobodys.sum() > 10 and found[nobodys].any(-1).all()
    assert np.array_equal(np.where(found.any(-1), found.argmax(-1) + 1, 0)[clear], scaled.argmax(-1)[clear])


def test_annotations_that_overlap_are_scaled_each_by_itself():
    """Also beside a border of two that do not; the padding belongs to nobody."""
    masks = np.zeros((40, 80, 3), bool)
    masks[:20, :30, 0] = masks[:, :33, 1] = True  # the first inside the second
    masks[:, 62:, 2] = True
    found = decode.scaled_label(masks, (20, 20))
    assert not found[:5].any() and not found[15:].any()
    assert np.array_equal(found[5:15, :, 0], decode.scaled_label(masks[..., :1], (20, 20))[5:15, :, 0])
    assert found[5:10, :7, :2].all() and found[10:15, :8, 1].all() and not found[10:15, :, 0].any()
    assert found[5:15, 16:, 2].all() and not found[5:15, :15, 2].any()


def test_a_size_that_differs_from_the_annotation_names_both(tmp_path):
    Image.fromarray(np.zeros((8, 10), np.uint8)).save(tmp_path / 'a.png')
    with pytest.raises(InputError, match='is 10×8 pixels.*annotated as 8×10'):
        decode.decode(row_of('a.png', 8, 10), decode.Settings(str(tmp_path), (8, 8), 1, (1,)))


def test_three_channels_of_hdf5_cannot_be_asked_of_an_image(tmp_path):
    with pytest.raises(InputError, match='config.data.channels is 4'):
        image_file.read(tmp_path / 'a.png', 4)
