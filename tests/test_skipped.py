"""Files that cannot be read: training stops at them, or leaves them out, counts them, and says so."""
import json

import pandas as pd
import pytest

from configs.default import get_config
from unet_jax.errors import InputError
from unet_jax.modes import train


def config(share):
    made = get_config()
    made.data.update({'on_error': 'skip', 'max_skipped': share})
    return made


def test_what_was_left_out_is_listed_and_limited(tmp_path):
    skipped = {'a.png': 'a.png: is damaged', 'b.png': 'b.png: is damaged'}
    train.note_skipped(config(0.1), tmp_path, skipped, of=20)
    assert json.loads((tmp_path / 'skipped.json').read_text()) == skipped
    with pytest.raises(InputError, match=r'2 of 19 samples.*config.data.max_skipped = 0.1.*a.png: is damaged'):
        train.note_skipped(config(0.1), tmp_path, skipped, of=19)


def test_a_run_with_good_files_leaves_no_list(tmp_path):
    train.note_skipped(config(0.0), tmp_path, {}, of=20)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('before, now', [({'a.png': 'x'}, {}), ({}, {'a.png': 'x'}), ({'a.png': 'x'}, {'b.png': 'x'})])
def test_a_run_does_not_go_on_with_other_samples_than_it_began_with(tmp_path, before, now):
    train.note_skipped(config(1.0), tmp_path, before, of=20)
    (tmp_path / 'checkpoints').mkdir()
    train.note_skipped(config(1.0), tmp_path, before, of=20)
    with pytest.raises(InputError, match='begun with other files'):
        train.note_skipped(config(1.0), tmp_path, now, of=20)


def test_images_that_the_reader_left_out_are_counted_beyond_those_it_names():
    frame = pd.DataFrame()
    frame.attrs['reader'] = {'missing': {'count': 3, 'first': ['x.png']}, 'unreadable': {'count': 1, 'first': ['y']}}
    found = train.unread(frame)
    assert len(found) == 4 and found['x.png'] == 'missing' and found['y'] == 'unreadable'
