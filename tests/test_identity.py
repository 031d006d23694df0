"""A run belongs to its data: what is refused when they are others, and what is free."""
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from configs import phantom as phantom_config
from configs.default import get_config
from unet_jax import phantom
from unet_jax import workdir as files
from unet_jax.annotations import frame as frames
from unet_jax.annotations import identity, nifti
from unet_jax.errors import InputError
from unet_jax.experiment import read_frame, settle
from unet_jax.modes import train
from unet_jax.modes.annotate import annotate, check_data

NAMES = [f'p{k}.png' for k in range(12)]


def write_set(root, seed):
    """A COCO set whose names and annotations are those of every other; only the pixels differ."""
    root.mkdir()
    for k, name in enumerate(NAMES):
        pixels = np.random.default_rng((seed, k)).integers(0, 255, (16, 16), np.uint8)
        Image.fromarray(pixels).save(root / name, compress_level=0)  # so that all have one size
    (root / 'a.json').write_text(json.dumps({
        'images': [{'id': k, 'file_name': name, 'width': 16, 'height': 16} for k, name in enumerate(NAMES)],
        'annotations': [{'id': k, 'image_id': k, 'category_id': 1, 'segmentation': [[2, 2, 9, 2, 9, 9]]}
                        for k in range(len(NAMES))], 'categories': [{'id': 1, 'name': 'tumour'}]}))
    return root


def config_of(root, **data):
    config = get_config()
    config.data.update({'root': str(root), **data})
    return config


def begin(config, folder):
    """A run that has begun in `folder`, as far as data go."""
    frame = train.read_or_annotate(config, folder, resumed=False)
    files.save_config(folder, settle(config, frame))
    return folder


def go_on(config, folder):
    return train.read_or_annotate(config, folder, resumed=True)


@pytest.fixture
def run(tmp_path):
    """(config, work directory) of a run on the set tmp_path/a."""
    config = config_of(write_set(tmp_path / 'a', 0))
    return config, begin(config, tmp_path / 'w')


def test_another_set_of_the_same_names_is_refused_with_both_roots_and_the_first_files(run, tmp_path):
    other = config_of(write_set(tmp_path / 'b', 1))
    for what in (go_on, annotate):
        with pytest.raises(InputError) as told:
            what(other, run[1])
        said = str(told.value)
        assert f'was made from the data in {tmp_path}/a, and 12 of its 13 files are others in {tmp_path}/b' in said
        assert 'p0.png (other content, of the same size)' in said and 'Name another --workdir' in said


def test_data_may_be_moved_and_copied_but_not_vanish(run, tmp_path):
    config, folder = run
    shutil.copytree(tmp_path / 'a', tmp_path / 'copy')  # with other times
    for path in (tmp_path / 'copy').iterdir():
        os.utime(path, (1, 1))
    assert go_on(config_of(tmp_path / 'copy'), folder).equals(go_on(config, folder))
    (tmp_path / 'a').rename(tmp_path / 'moved')
    go_on(config_of(tmp_path / 'moved'), folder)
    with pytest.raises(InputError, match=f'{tmp_path}/a is not there.*--config.data.root=DIR'):
        go_on(config, folder)
    write_set(tmp_path / 'b', 1)
    with pytest.raises(InputError, match=f'the data in {tmp_path}/a, which is not there any more, and 12 of'):
        go_on(config_of(tmp_path / 'b'), folder)


def test_an_image_edited_in_place_is_refused_though_size_and_time_are_the_old_ones(run, tmp_path):
    path, (config, folder) = tmp_path / 'a/p3.png', run
    content, times = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(InputError, match=r'these data as they were when it began, and 1 of its 13 .*p3.png \(other'):
        go_on(config, folder)
    path.unlink()
    with pytest.raises(InputError, match=r'p3.png \(not there\)'):
        go_on(config, folder)


def test_another_annotation_is_another_truth(run, tmp_path):
    text = (tmp_path / 'a/a.json').read_text()
    (tmp_path / 'a/a.json').write_text(text.replace('[2, 2, 9, 2, 9, 9]', '[2, 2, 9, 2, 8, 9]', 1))
    with pytest.raises(InputError, match='a.json .other content, of the same size'):
        go_on(*run)
    (tmp_path / 'a/notes.json').write_text('{}')  # decides nothing
    (tmp_path / 'a/a.json').write_text(text)
    go_on(*run)


def test_a_run_of_an_older_version_takes_its_data_as_they_are_and_says_so(run, caplog):
    config, folder = run
    before = json.loads((folder / identity.FILE).read_text())
    (folder / identity.FILE).unlink()
    for _ in range(2):
        go_on(config, folder)
    assert json.loads((folder / identity.FILE).read_text()) == before
    assert caplog.text.count('begun by a version that did not note its data') == 1
    (folder / identity.FILE).write_text('{"files"')
    with pytest.raises(InputError, match='identity.json: does not say which data'):
        go_on(config, folder)


def test_of_many_large_images_both_ends_are_read_and_annotations_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, 'BUDGET', 0)
    monkeypatch.setattr(identity, 'LEAST', 4)
    content = bytearray(range(20))

    def digests(position, whole):
        changed = bytearray(content)
        changed[position] ^= 1
        (tmp_path / 'x').write_bytes(changed)
        return identity.contents(tmp_path, ['x'], whole=whole)['x']

    (tmp_path / 'x').write_bytes(content)
    for whole, seen in ((True, range(20)), (False, [0, 3, 16, 19])):
        (tmp_path / 'x').write_bytes(content)
        before = identity.contents(tmp_path, ['x'], whole=whole)['x']
        assert [k for k in range(20) if digests(k, whole) != before and k in (*seen,)] == list(seen)
    assert identity.end_size(57_195) == 4 and identity.contents(tmp_path, ['none']) == {'none': identity.ABSENT}


def test_of_volumes_every_modality_and_label_is_named(tmp_path):
    root = phantom.write_nifti(tmp_path / 'n', cases=2, shape=(8, 32, 32))
    images, annotations = identity.files_of(nifti.read_frame(root, split=(0.5, 0.5, 0)))
    found = {path.relative_to(root).as_posix() for path in root.rglob('*.nii.gz')}
    assert {*images, *annotations} == found and len(images) == 8 and len(annotations) == 2


def small_phantoms(folder, **fields):
    config = phantom_config.get_config()
    config.data.root = str(folder / 'phantoms')
    config.data.phantom.update({'train': 3, 'valid': 1, 'test': 1, 'size': 32, **fields})
    return config


def written(root):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in root.rglob('*')}


def test_annotating_a_run_never_writes_its_phantoms_again(tmp_path):
    config = small_phantoms(tmp_path)
    begin(config, tmp_path)
    before = written(tmp_path / 'phantoms')
    frame = annotate(small_phantoms(tmp_path, size=64), tmp_path)  # as --config=configs/phantom.py would
    assert written(tmp_path / 'phantoms') == before
    assert frame.width.eq(32).all() and frame.equals(frames.load(tmp_path / 'annotations.parquet'))


def test_phantoms_that_were_deleted_are_made_again_if_they_come_out_the_same(tmp_path, monkeypatch):
    config = small_phantoms(tmp_path)
    begin(config, tmp_path)
    shutil.rmtree(tmp_path / 'phantoms')
    check_data(config, tmp_path)
    annotate(config, tmp_path)
    shutil.rmtree(tmp_path / 'phantoms')
    monkeypatch.setattr(phantom, '_seed', lambda *numbers: 7)  # of another version
    with pytest.raises(InputError, match='was made from these data as they were'):
        check_data(config, tmp_path)
    assert not (tmp_path / 'phantoms').exists()


def test_runs_of_different_seeds_share_phantoms_and_split(tmp_path):
    root, found = write_set(tmp_path / 'set', 0), []
    for seed, split_seed in ((0, 0), (5, 0), (0, 5)):
        config = config_of(root, split_seed=split_seed)
        made = small_phantoms(tmp_path / f'{seed} {split_seed}')
        config.seed = made.seed = seed
        made.data.split_seed = split_seed
        frame = read_frame(made)
        pixels = (tmp_path / f'{seed} {split_seed}/phantoms' / frame.path[0]).read_bytes()
        found.append((read_frame(config).subset.tolist(), pixels))
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[0], found[2], strict=True))
