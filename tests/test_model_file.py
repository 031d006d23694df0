"""A model as one file: what it holds, that it answers as its work directory does, and what is refused."""
import hashlib
import importlib.util
import io
import json
import struct
import zipfile

import numpy as np
import pytest
from test_ensembles import begin, rows
from test_together import tiny

from unet_jax import workdir
from unet_jax.errors import InputError
from unet_jax.evaluation.summary import read_cases, read_summary
from unet_jax.inference import members, model_file
from unet_jax.inference import predictor as inference
from unet_jax.modes.evaluate import evaluate
from unet_jax.modes.export import export
from unet_jax.modes.predict import predict

MADE = rows('train', ['a', 'b']) + rows('valid', ['c']) + rows('test', ['t0', 't1'])


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """(config, work directory with scores, model file that was exported without any data at hand)."""
    place = tmp_path_factory.mktemp('place')
    folder = place / 'run'
    config = begin(folder, place / 'set', MADE)
    evaluate(config, folder, subset='test', which='best')
    (place / 'set').rename(place / 'away')
    path = export(config, folder, output=f'{place}/model.zip', which='best')
    (place / 'away').rename(place / 'set')
    return config, folder, path


def images_of(made):
    return made[2].parent / 'set'


def masks_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob('*.png'))}


def test_masks_of_a_model_file_are_those_of_its_work_directory(made, tmp_path):
    config, folder, path = made
    for source, name in ((folder, 'x'), (path, 'y')):
        predict(workdir.load_config(source), source, sources=[str(images_of(made))], output=f'{tmp_path}/{name}',
                which='best')
    found = masks_of(tmp_path / 'x')
    assert len(found) == 5 and found == masks_of(tmp_path / 'y') and len(set(found.values())) > 1


def test_the_same_run_gives_the_same_bytes_without_names_paths_or_code(made, tmp_path):
    config, folder, path = made
    again = export(config, folder, output=f'{tmp_path}/again.zip', which='latest')
    assert path.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(path) as archive:
        beside = {'model.onnx', 'run.json', 'run.py'} if importlib.util.find_spec('onnxruntime') else set()
        assert set(archive.namelist()) == {'README.md', 'card.json', 'config.json', 'model.json',
                                           'params.safetensors', 'seal.json', 'used.json'} | beside
        text = b''.join(archive.read(name) for name in archive.namelist())
    assert str(path.parent).encode() not in text and b'patient of a' not in text and b'a.png' not in text


def test_the_card_tells_data_splits_scores_and_versions(made):
    config, folder, path = made
    card, page = model_file.read(path).card, model_file.read(path).page
    known = json.loads((folder / 'identity.json').read_text())
    assert card['data'] == {'name': 'set', 'format': 'coco', 'identity': known['digest'], 'images': 5,
                            'annotations': 0}
    assert card['splits']['train'] == {'images': 2, 'cases': 2, 'groups': 2} and card['input']['sequences'] == ['grey']
    dice = read_summary(folder / 'evaluation/test')['regions']['tumour']['dice']
    assert card['metrics']['test']['regions']['tumour']['dice'] == dice
    assert f'| tumour | dice | {dice["mean"]:.4f} | {dice["low"]:.4f} to {dice["high"]:.4f} | 2 |' in page
    assert 'convention brats' in page and known['digest'] in page and 'no medical device' in page


def test_a_model_file_is_scored_as_its_run_and_says_what_it_has_seen(made, tmp_path, capsys):
    config, folder, path = made
    given = workdir.load_config(path)
    with pytest.raises(InputError, match='is a model file, in which no results can be kept; .*--output=DIR'):
        evaluate(given, path, subset='test', which='best')
    splits = tmp_path / 'splits.json'
    splits.write_text(json.dumps({subset: [f'{case}.png' for case in cases] for subset, cases in
                                  {'train': ['b'], 'valid': ['c'], 'test': ['t0', 't1', 'a']}.items()}))
    coco = {'images': [{'id': k, 'file_name': row['path'], 'width': 16, 'height': 16} for k, row in enumerate(MADE)],
            'annotations': [{'id': k, 'image_id': k, 'category_id': 1, 'area': 49, 'bbox': [2, 2, 7, 7], 'iscrowd': 0,
                             'segmentation': row['segmentation']} for k, row in enumerate(MADE)],
            'categories': [{'id': 1, 'name': 'tumour'}]}
    (images_of(made) / 'all.json').write_text(json.dumps(coco))
    given.data.update({'root': str(images_of(made)), 'split_file': str(splits)})
    evaluate(given, path, subset='test', which='best', output=f'{tmp_path}/out')
    there, here = (read_cases(place / 'evaluation/test').set_index('case') for place in (folder, tmp_path / 'out'))
    assert there.dice.to_dict() == here.loc[there.index].dice.to_dict()
    assert 'of the names of 1 of these 3, such as a.png' in read_summary(tmp_path / 'out/evaluation/test')['seen']
    assert f'--workdir={path}' in (tmp_path / 'out/report.html').read_text()


def test_model_files_are_averaged_with_runs_and_refused_where_they_have_learnt_the_cases(made, tmp_path):
    config, folder, path = made
    other = tmp_path / 'other'
    begin(other, images_of(made), rows('train', ['c']) + rows('test', ['t0', 't1']), seed=1)
    averages = [inference.restore(config, [other, member], 'best')[0].params for member in (folder, path)]
    assert np.array_equal(*(pair[1]['head_0']['kernel'] for pair in averages))
    evaluate(config, other, subset='test', which='best', ensemble=[str(path)])
    assert len(read_cases(members.home(members.choose([other, path], 'best')) / 'evaluation/test')) == 2
    wrong = tmp_path / 'wrong'
    begin(wrong, images_of(made), rows('train', ['c']) + rows('test', ['a']))
    with pytest.raises(InputError, match='model.zip was trained on or chosen by 1 of the 1 cases.*such as a.png'):
        evaluate(config, wrong, subset='test', which='best', ensemble=[str(path)])


def first_version(config, params):
    """A file as version 1 wrote it, by hand: by this alone old files are told to be readable."""
    header, data = {}, b''
    for name, array in params.items():
        header[name] = {'dtype': 'F32', 'shape': list(array.shape),
                        'data_offsets': [len(data), len(data) + array.nbytes]}
        data += array.astype('<f4').tobytes()
    head = json.dumps(header).encode()
    files = {'model.json': json.dumps({'format': 'unet_jax model', 'version': 1, 'checkpoint': 7}).encode(),
             'config.json': json.dumps(config).encode(),
             'params.safetensors': struct.pack('<Q', len(head)) + head + data}
    return sealed(files)


def sealed(files, **changed):
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    whole = hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()
    files = files | {'seal.json': json.dumps({'files': sums, 'sha256': whole}).encode()} | changed
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


def test_a_file_of_the_first_version_is_read_and_what_it_lacks_is_as_by_default(made, tmp_path, monkeypatch, caplog):
    config, folder, path = made
    model = model_file.read(path)
    old = json.loads(json.dumps(model.config))
    del old['evaluation']['flips'], old['train']['init_seal']
    old['evaluation']['gone'] = 3
    (tmp_path / 'old.zip').write_bytes(first_version(old, model.params))
    monkeypatch.setattr(model_file, 'VERSION', 2)  # of a program to come
    found, used = inference.restore(workdir.load_config(tmp_path / 'old.zip'), [tmp_path / 'old.zip'], 'best')
    assert used == 7 and found.experiment.config.evaluation.flips is False
    assert 'evaluation.flips = False' in caplog.text and 'no such field: evaluation.gone' in caplog.text
    ours = inference.restore(config, [folder], 'best')[0].params[0]
    assert all(np.array_equal(model_file.flatten(found.params[0])[name], leaf)
               for name, leaf in model_file.flatten(ours).items())
    assert members.used_by(tmp_path / 'old.zip').empty and model_file.read(tmp_path / 'old.zip').card == {}


@pytest.mark.parametrize('name, change, message', [
    ('no zip', lambda data: b'\x89PNG' + data[:400], 'x.zip: is no model file, or a damaged one'),
    ('cut off', lambda data: data[:-500], 'is no model file, or a damaged one'),
    ('a bit', lambda data: data.replace(b'"checkpoint": 7', b'"checkpoint": 8'), 'model.json in it was changed'),
    ('a parameter', lambda data: flipped(data), 'params.safetensors in it was changed since it was written'),
    ('newer', lambda data: remade(data, model={'format': 'unet_jax model', 'version': 9}),
     'of version 9, and this program reads up to 1; install a newer unet_jax'),
    ('another', lambda data: sealed({'a.txt': b'x'}), 'is no model file of unet_jax, as it holds no model.json'),
    ('other seal', lambda data: remade(data, config={}), 'config.json in it was changed since it was written'),
    ('missing', lambda data: remade(data, without='params.safetensors'), 'params.safetensors is missing in it')])
def test_what_is_no_good_model_file_is_refused_naming_the_part(made, tmp_path, name, change, message):
    model = model_file.read(made[2])
    (tmp_path / 'x.zip').write_bytes(change(first_version(model.config, model.params)))
    with pytest.raises(InputError, match=message):
        given = workdir.load_config(tmp_path / 'x.zip')
        predict(given, tmp_path / 'x.zip', sources=[str(images_of(made))], output=f'{tmp_path}/out', which='best')
    assert not (tmp_path / 'out').exists()


def flipped(data):
    at = data.index(b'data_offsets') + 3000
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


def remade(data, without='', **changed):
    """The zip with other content, under the seal that it had."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name != without}
    files |= {f'{name}.json': json.dumps(value).encode() for name, value in changed.items()}
    return sealed({}, **files)


def test_what_cannot_be_exported_or_used_says_what_to_do(made, tmp_path):
    config, folder, path = made
    for arguments, message in (({'folder': path}, 'is a model file already'),
                               ({'which': 'best,latest'}, 'holds one checkpoint; export each'),
                               ({'output': str(tmp_path)}, 'is a folder; name the file to write')):
        arguments = {'folder': folder, 'which': 'best', 'output': None} | arguments
        with pytest.raises(InputError, match=message):
            export(config, **arguments)
    with pytest.raises(InputError, match='--checkpoint=3: .*model.zip is a model file and holds checkpoint 0 alone'):
        members.choose([path], '3')
    with pytest.raises(InputError, match='model.zip holds another network: model.features is'):
        predictor_config = tiny(0)
        predictor_config.model.features = (8, 16)
        inference.restore(predictor_config, [path], 'best')
    assert not list(folder.glob('*.zip'))
