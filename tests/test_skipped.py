"""Files that cannot be read: training stops at them, or leaves them out, counts them, and says so."""
import json

import pandas as pd
import pytest

from configs import brats, brats3d
from configs.default import get_config
from unet_jax import phantom
from unet_jax.annotations import brats_h5
from unet_jax.errors import InputError
from unet_jax.experiment import settle
from unet_jax.modes import train


def config(share):
    made = get_config()
    made.data.update({'on_error': 'skip', 'max_skipped': share})
    return made


def test_what_was_left_out_is_listed_and_limited(tmp_path):
    skipped = {'a.png': 'a.png: is damaged', 'b.png': 'b.png: is damaged'}
    train.note_skipped(config(0.1), tmp_path, skipped, total=20)
    assert json.loads((tmp_path / 'skipped.json').read_text()) == skipped
    with pytest.raises(InputError, match=r'2 of 19 samples.*config.data.max_skipped = 0.1.*a.png: is damaged'):
        train.note_skipped(config(0.1), tmp_path, skipped, total=19)


def test_a_run_with_good_files_leaves_no_list(tmp_path):
    train.note_skipped(config(0.0), tmp_path, {}, total=20)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('before, now', [({'a.png': 'x'}, {}), ({}, {'a.png': 'x'}), ({'a.png': 'x'}, {'b.png': 'x'})])
def test_a_run_does_not_go_on_with_other_samples_than_it_began_with(tmp_path, before, now):
    train.note_skipped(config(1.0), tmp_path, before, total=20)
    (tmp_path / 'checkpoints').mkdir()
    train.note_skipped(config(1.0), tmp_path, before, total=20)
    with pytest.raises(InputError, match='begun with other files'):
        train.note_skipped(config(1.0), tmp_path, now, total=20)


def test_images_that_the_reader_left_out_are_counted_beyond_those_it_names():
    frame = pd.DataFrame()
    frame.attrs['reader'] = {'missing': {'count': 3, 'first': ['x.png']}, 'unreadable': {'count': 1, 'first': ['y']}}
    found = train.unread(frame)
    assert len(found) == 4 and found['x.png'] == 'missing' and found['y'] == 'unreadable'


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])
    return path


def begin(config, folder, cache):
    config.data.cache = str(cache)
    frame = train.read_or_annotate(config, folder, resumed=False)
    return train.begin(settle(config, frame), folder, frame).samples, frame


@pytest.mark.parametrize('format', ['nifti', 'brats_h5'])
def test_damaged_cases_are_left_out_from_the_frame_on_counted_and_limited(format, tmp_path, monkeypatch):
    if format == 'nifti':
        root = phantom.write_nifti(tmp_path / 'set', cases=6, shape=(6, 20, 22), year='2021')
        made = brats3d.get_config('small')
        made.data.size = (8, 8, 8)
        made.model.update({'features': (4, 8), 'encoder_blocks': (1, 1), 'decoder_blocks': (1,),
                           'deep_supervision': 0})
        first, lost = cut(next(root.rglob('*00001_seg.nii.gz'))), 1  # noticed by the reader
    else:
        monkeypatch.setattr(brats_h5, 'SAMPLE', 2)  # else all of so few slices
        root, made = phantom.write_brats_h5(tmp_path / 'set', volumes=6, shape=(4, 32, 32)), brats.get_config()
        made.data.update({'size': (16, 16), 'empty_slices': 1.0})
        first, lost = cut(next(root.rglob('volume_1_slice_0.h5'))), 4
    made.data.root = str(root)
    with pytest.raises(InputError, match=first.name):
        begin(made.copy_and_resolve_references(), tmp_path / 'strict', tmp_path / 'cache')
    made.data.update({'on_error': 'skip', 'max_skipped': 0.5, 'split': (0.6, 0.4, 0.0)})
    _, frame = begin(made, tmp_path / 'a', tmp_path / 'cache')
    known = json.loads((tmp_path / 'a/skipped.json').read_text())
    assert len(known) == lost and frame.case.nunique() == 5 and first.name in next(iter(known))

    path = frame.path[frame.subset == 'train'].iloc[-1]  # noticed when it is decoded
    second = cut(root / path) if format == 'brats_h5' else cut(next((root / path).glob('*t2.nii.gz')))
    samples, _ = begin(made, tmp_path / 'b', tmp_path / 'cache')
    known = json.loads((tmp_path / 'b/skipped.json').read_text())
    assert len(known) == lost + 1 and second.name in known[path] and list(samples['train'].skipped) == [path]
    made.data.max_skipped = 0.01
    with pytest.raises(InputError, match=f'{lost + 1} of .* samples cannot be read'):
        begin(made, tmp_path / 'c', tmp_path / 'cache')
    if format == 'nifti':
        for path in frame.path[frame.subset == 'valid'].unique():
            cut(next((root / path).glob('*t1.nii.gz')))
        with pytest.raises(InputError, match='none of the 2 samples of a subset can be read; the first: .*t1.nii.gz'):
            begin(made, tmp_path / 'd', tmp_path / 'cache')
