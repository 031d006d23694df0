"""The seam: every format fills it, nothing else compares names, a new one is one file and one line."""
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import default
from unet_jax import experiment, formats, phantom
from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.modes import kinds

ROOT = Path(__file__).resolve().parents[1]
MAKERS = {'coco': lambda folder: phantom.write_coco(folder, train=2, valid=1, test=1, size=32),
          'brats_h5': lambda folder: phantom.write_brats_h5(folder, volumes=3, shape=(8, 32, 32)),
          'nifti': lambda folder: phantom.write_nifti(folder, cases=3, shape=(16, 32, 32))}


def config_of(name, root):
    config = default.get_config()
    with config.unlocked():
        config.data.update({'format': name, 'root': str(root), 'size': (16, 16), 'schema': '2021'})
        if name != 'coco':
            config.data.channels = 4
        if name == 'nifti':
            config.data.size = (8, 16, 16)
    return config


@pytest.fixture(scope='module', params=MAKERS)
def made(request, tmp_path_factory):
    """(settled config, frame) of a made-up data set of each format."""
    root = tmp_path_factory.mktemp(request.param)
    MAKERS[request.param](root)
    config = config_of(request.param, root)
    frame = experiment.read_frame(config)
    return experiment.settle(config, frame), frame


def test_what_a_format_reads_it_decodes_writes_and_reads_back(made, tmp_path):
    config, frame = made
    one = experiment.create(config)
    rows = kinds.kind_of(one).rows(one, frame)
    row = next(row for row in rows.itertuples() if row.annotations)
    content = one.format.read(one.settings.root, row, config.data.channels)
    assert content.image.shape[-1] == config.data.channels
    assert all((Path(one.settings.root) / path).is_file() for path in one.format.files(row))
    assert (content.image.ndim == 4) == one.format.volumetric == (content.affine is not None)
    shape = content.image.shape[:-1]
    ids = np.random.default_rng(0).choice([0, *one.classes], shape).astype(np.uint8)
    one.format.write(tmp_path / row.mask_file, ids, like=Path(one.settings.root) / one.format.files(row)[0])
    if one.format.volumetric:
        import nibabel
        read = np.asarray(nibabel.load(tmp_path / row.mask_file).dataobj)
    else:
        read = np.asarray(Image.open(tmp_path / row.mask_file))
    assert np.array_equal(read, ids)


def test_samples_have_the_type_that_the_format_tells(made):
    config, frame = made
    one = experiment.create(config)
    data = kinds.kind_of(one)
    samples = data.open_samples(one, data.rows(one, frame)[:4])
    image = samples[0].image if one.format.volumetric else samples.image
    assert image.dtype == one.format.dtype


def test_the_same_files_are_found_to_predict(made):
    config, frame = made
    one = experiment.create(config)
    rows, problems = one.format.find([config.data.root], config.data)
    assert not problems and len(rows) == len(kinds.kind_of(one).rows(one, frame))
    for _, found, content in kinds.kind_of(one).predict(predictor_of(one), rows[:2]):
        assert content.image.shape[:-1] == found.bits.shape == found.probability.shape[:-1], found


def test_predicting_reads_each_input_once(made, tmp_path, monkeypatch):
    from unet_jax.modes import predict
    config, _ = made
    one, read = experiment.create(config), []
    rows, _ = one.format.find([config.data.root], config.data)
    form = one.format
    counted = form._replace(read=lambda *given: read.append(given[1].path) or form.read(*given))
    monkeypatch.setitem(formats.FORMATS, config.data.format, counted)
    sources = [str(Path(row.root) / row.path) for row in rows[:2].itertuples()]
    predict.write(predictor_of(one), sources, tmp_path, 'latest', report=True)
    assert len(read) == 2 and len(list((tmp_path / 'overlays').rglob('*.png'))) == 2


def predictor_of(one):
    from unet_jax.inference import predictor
    one = one._replace(config=one.config.copy_and_resolve_references())
    with one.config.unlocked():
        one.config.evaluation.batch_size = 8
        one.config.model.update({'features': (4, 8), 'encoder_blocks': (1, 1), 'decoder_blocks': (1,)})
    one = experiment.create(one.config)
    return predictor.create(one, experiment.init_params(one))


def test_no_other_file_compares_the_name_of_a_format():
    names = '|'.join(formats.FORMATS)
    compared = re.compile(rf"""(==|!=|\bin\b)\s*\(?\s*['"]({names})['"]|['"]({names})['"]\s*(==|!=)""")
    files = [path for path in (ROOT / 'unet_jax').rglob('*.py') if path.parent.name != 'formats']
    wrong = [f'{path.name}: {line.strip()}' for path in files for line in path.read_text().splitlines()
             if compared.search(line)]
    assert not wrong


def test_an_unknown_format_is_refused_naming_the_choices():
    with pytest.raises(InputError, match="config.data.format is 'dicom'; choose one of 'coco', 'brats_h5'"):
        formats.named('dicom')


def test_the_page_on_adding_a_format_is_followed_literally(tmp_path, monkeypatch):
    """docs/adding.md: its file is run as it stands, its line added to the table; then the set is read and decoded."""
    page = (ROOT / 'docs' / 'adding.md').read_text(encoding='utf-8')
    section = page[page.index('## A format'):]
    file, line = re.findall(r'```python\n(.*?)```', section, re.DOTALL)[:2]
    module = {'__name__': 'unet_jax.formats.arrays'}
    exec(compile(file, 'arrays.py', 'exec'), module)
    key, value = re.fullmatch(r"\s*'(\w+)': (\w+\.FORMAT),\s*", line).groups()
    assert value == f'{key}.FORMAT'
    monkeypatch.setitem(formats.FORMATS, key, module['FORMAT'])
    rng = np.random.default_rng(0)
    for k in range(8):
        label = np.zeros((20, 24), np.uint8)
        label[4:9, 5:12] = 1
        np.savez(tmp_path / f'case{k}.npz', image=rng.integers(0, 255, (20, 24, 1), np.uint8), label=label)
    config = config_of(key, tmp_path)
    config.data.channels = 1
    frame = experiment.read_frame(config)
    one = experiment.create(experiment.settle(config, frame))
    samples = kinds.kind_of(one).open_samples(one, kinds.kind_of(one).rows(one, frame))
    assert samples.image.shape == (8, 16, 16, 1) and samples.label.any((1, 2)).all()
    assert set(frame.subset) == {'train', 'valid', 'test'} and one.names == ('tumour',)
    rows, _ = one.format.find([str(tmp_path)], config.data)
    assert all(found.bits.shape == (20, 24) and found.probability.shape == (20, 24, 1)
               for _, found, _ in kinds.kind_of(one).predict(predictor_of(one), rows))


def test_predict_goes_through_damaged_files_and_goes_on(tmp_path, capsys):
    """One of four cut off: three masks, its name and an error at the end; once mended only it is predicted."""
    from unet_jax.modes import predict
    root = tmp_path / 'set'
    MAKERS['coco'](root)
    config = config_of('coco', root)
    one = experiment.create(experiment.settle(config, experiment.read_frame(config)))
    predictor, out = predictor_of(one), tmp_path / 'out'
    paths = sorted(root.rglob('*.jpg')) or sorted(root.rglob('*.png'))
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:200])
    with pytest.raises(InputError, match=rf'1 of 4 inputs could not be predicted; .*\n.*{paths[1].name}: cannot be'):
        predict.write(predictor, [str(root)], out, 'latest')
    masks = {path: path.stat().st_mtime_ns for path in out.rglob('*.png') if 'overlays' not in path.parts}
    assert len(masks) == 3 and len(json.loads((out / 'predictions.json').read_text())['images']) == 3
    paths[1].write_bytes(whole)
    predict.write(predictor, [str(root)], out, 'latest')
    assert '3 of 4 are there already' in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in masks.items())
    assert len(json.loads((out / 'predictions.json').read_text())['images']) == 4
    paths[2].write_bytes(whole[:200])  # one that was done before is damaged now: its old mask counts no more
    with pytest.raises(InputError, match=rf'1 of 4 inputs could not be predicted; .*\n.*{paths[2].name}: cannot be'):
        predict.write(predictor, [str(root)], out, 'latest')
    assert len(json.loads((out / 'predictions.json').read_text())['images']) == 3
    paths[2].write_bytes(whole)
    capsys.readouterr()
    predict.write(predictor_of(one._replace(config=with_seed(one.config))), [str(root)], out, 'latest')
    assert 'are there already' not in capsys.readouterr().out  # another network


def with_seed(config: ConfigDict) -> ConfigDict:
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.seed = 5
    return config


def test_rows_to_predict_come_from_files_folders_and_patterns(tmp_path, monkeypatch):
    for name in ('a/x.png', 'a/y.jpeg', 'b/z.jfif', 'b/notes.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    find = formats.named('coco').find
    monkeypatch.chdir(tmp_path)
    for sources, names in ((['a'], ['x.png', 'y.jpeg']), (['a', 'b/z.jfif'], ['a/x.png', 'a/y.jpeg', 'b/z.jfif']),
                           (['?/*.j*'], ['a/y.jpeg', 'b/z.jfif']), (['a', 'a/x.png'], ['x.png', 'y.jpeg'])):
        rows, _ = find(sources, None)
        assert rows.path.tolist() == names and isinstance(rows, pd.DataFrame)
    with pytest.raises(InputError, match='notes.txt: is not an image; known endings: .jpg'):
        find(['b/notes.txt'], None)
    with pytest.raises(InputError, match=re.escape("--input=c/*.png: no such file or folder")):
        find(['c/*.png'], None)


def test_frames_name_files_that_lie_under_the_root(made):
    config, frame = made
    for path in frame.path.head(3):
        assert frames.locate(config.data.root, path).exists()
