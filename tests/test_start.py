"""Before a mode begins: evaluation settings that would fail after training, and paths that hold from anywhere."""
import pytest

from configs import brats3d, default, phantom, saved
from unet_jax import workdir
from unet_jax.errors import InputError
from unet_jax.evaluation import settings
from unet_jax.modes import start


def config_of(module=default, **evaluation):
    config = module.get_config()
    config.evaluation.update(evaluation)
    return config


@pytest.mark.parametrize('module', [default, phantom, brats3d])
def test_the_configs_themselves_are_good(module):
    settings.check(config_of(module))


def test_options_of_volumes_are_taken_for_volumes():
    settings.check(config_of(brats3d, lesions='MET', postprocess=True, modality_subsets=True))


@pytest.mark.parametrize('field, value, message', [
    ('convention', 'isles', "convention is 'isles'; choose one of brats"), ('lesions', 'GBM', "'GBM'.*GLI"),
    ('lesions', 'GLI', 'volumes only; here config.data.format is .coco'), ('postprocess', True, 'volumes only'),
    ('modality_subsets', True, 'volumes only'), ('threshold', 1.0, 'between 0 and 1'),
    ('tolerance', -1.0, 'tolerance is -1.0; give a distance'), ('tolerance', float('nan'), 'a distance'),
    ('overlap', 1.0, 'under 1'), ('batch_size', 0, 'from 1'), ('pictures', -1, 'from 0')])
def test_what_would_fail_after_training_is_refused_before(field, value, message):
    with pytest.raises(InputError, match=f'config.evaluation.{field}.*{message}' if 'is' not in message else message):
        start.start(config_of(**{field: value}), None)


def test_paths_hold_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = default.get_config()
    config.data.update({'root': 'data/../set', 'split_file': 'split.json'})
    start.make_absolute(config, tmp_path / 'w')
    assert (config.data.root, config.data.split_file) == (f'{tmp_path}/set', f'{tmp_path}/split.json')
    assert config.data.cache == ''  # still the user's


@pytest.mark.parametrize('config, root, expected', [
    ('configs/phantom.py', '', 'phantom'), ('configs/coco.py', '/data/br35h/', 'coco-br35h'),
    ('configs/brats3d.py:small', 'sets/BraTS 2021', 'brats3d-BraTS_2021'), ('coco.py', '/d/a.coco', 'coco-a.coco'),
    ('coco.py', '/d/set/annotations/instances_train.json', 'coco-set-instances_train'), ('coco.py', '/', 'coco')])
def test_the_default_work_directory_names_config_and_data_set(config, root, expected):
    assert workdir.default_folder(config, root).as_posix() == f'runs/{expected}'


def test_a_run_that_is_older_than_a_field_has_its_default(tmp_path):
    config = phantom.get_config()
    with config.unlocked():
        config.train.steps = 7
        del config.evaluation.uncertainty
    workdir.save_config(tmp_path, config)
    found = saved.get_config(str(tmp_path))
    assert workdir.differences(config, found) == {'evaluation.uncertainty': (None, False)}


def test_phantoms_move_with_their_work_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = phantom.get_config()
    old = tmp_path / 'old'
    (old / 'seed_1').mkdir(parents=True)
    start.make_absolute(config, old)
    for folder in (old, old / 'seed_1'):
        workdir.save_config(folder, config, old)
        assert workdir.load_config(folder).data.root == config.data.root == f'{old}/phantoms'
    old.rename('new')
    for folder in ('new', 'new/seed_1'):
        assert workdir.load_config(folder).data.root == f'{tmp_path}/new/phantoms'
