"""Before a mode begins: paths that hold from anywhere, and runs of older versions."""
from configs import default, phantom
from unet_jax import workdir
from unet_jax.modes import start


def test_paths_hold_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = default.get_config()
    config.data.update({'root': 'data/../set', 'split_file': 'split.json'})
    start.make_absolute(config, tmp_path / 'w')
    assert (config.data.root, config.data.split_file) == (f'{tmp_path}/set', f'{tmp_path}/split.json')
    assert config.data.cache == ''  # still the user's


def test_a_run_that_is_older_than_a_field_has_its_default(tmp_path):
    config = phantom.get_config()
    with config.unlocked():
        config.train.steps = 7
        del config.evaluation.uncertainty
    workdir.save_config(tmp_path, config)
    found = workdir.load_config(tmp_path)
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
