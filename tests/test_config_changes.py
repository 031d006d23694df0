"""With which configs a run goes on."""
import json
from types import SimpleNamespace

import pytest
from ml_collections import ConfigDict

from configs.default import get_config
from unet_jax import workdir as files
from unet_jax.errors import InputError
from unet_jax.modes import train
from unet_jax.modes.train import check_config


def changed(**fields):
    config = get_config()
    with config.unlocked():
        for name, value in fields.items():
            section, _, field = name.partition('__')
            config[section][field] = value
    return config


def test_the_same_config_goes_on_and_leaves_no_note(tmp_path):
    check_config(get_config(), get_config(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_field_that_changes_steps_is_refused_with_both_values(tmp_path):
    with pytest.raises(InputError) as caught:
        check_config(get_config(), changed(optimizer__learning_rate=0.5, train__keep=9), tmp_path)
    said = str(caught.value)
    assert 'optimizer.learning_rate: 0.001 there, 0.5 here' in said and 'train.keep: ' not in said
    assert '--allow_changes=optimizer.learning_rate' in said and not list(tmp_path.iterdir())


@pytest.mark.parametrize('field, value', [('threshold', 0.4), ('flips', True)])
def test_what_validation_chooses_the_best_step_by_stays(tmp_path, field, value):
    with pytest.raises(InputError, match=f'evaluation.{field}: '):
        check_config(get_config(), changed(**{f'evaluation__{field}': value}), tmp_path)


def test_every_field_that_is_free_exists():
    assert set(train.SAFE) <= files.differences(ConfigDict(), get_config()).keys()


@pytest.mark.parametrize('fields', [{'train__log_every': 7}, {'train__keep': 5}, {'evaluation__overlap': 0.4},
                                    {'data__root': 'elsewhere'},  # of the same data: test_identity.py
                                    {'train__fsdp': 2}])
def test_a_field_that_changes_no_step_is_free_and_noted(tmp_path, fields):
    check_config(get_config(), changed(**fields), tmp_path)
    (line,) = (tmp_path / 'config_changes.jsonl').read_text().splitlines()
    assert list(json.loads(line)['changed']) == [next(iter(fields)).replace('__', '.')]


def test_what_is_allowed_by_name_goes_through(tmp_path):
    check_config(get_config(), changed(augment__rotation=3.0), tmp_path, allow=('augment.rotation',))
    assert 'augment.rotation' in (tmp_path / 'config_changes.jsonl').read_text()


def test_more_steps_stretch_a_schedule_so_they_are_an_explicit_act(tmp_path):
    with pytest.raises(InputError, match='train.steps: 1000 there, 2000 here'):
        check_config(get_config(), changed(train__steps=2000), tmp_path)
    check_config(get_config(), changed(train__steps=2000), tmp_path, allow=('train.steps',))
    constant = changed(optimizer__schedule='constant')
    check_config(constant, changed(optimizer__schedule='constant', train__steps=2000), tmp_path)


def test_free_steps_do_not_free_fields_of_a_like_name(tmp_path):
    old = changed(optimizer__schedule='constant')
    with pytest.raises(InputError, match='steps_per_dispatch'):
        check_config(old, changed(optimizer__schedule='constant', train__steps_per_dispatch=5), tmp_path)


def test_a_misspelt_allowance_is_refused(tmp_path):
    with pytest.raises(InputError, match='learning_rat: no such field|no such field'):
        check_config(get_config(), changed(train__steps=2), tmp_path, allow=('optimizer.learning_rat',))


def test_the_config_of_an_older_version_goes_on_with_the_defaults_of_what_it_lacks(tmp_path, caplog):
    old = get_config().to_dict()
    del old['train']['input_timeout'], old['augment']
    old['train']['steps'], old['data']['phantom'] = 7, {'size': 64}
    (tmp_path / 'config.json').write_text(json.dumps(old))
    found = files.load_config(tmp_path)
    assert found.train.input_timeout == get_config().train.input_timeout and found.train.steps == 7
    assert found.augment == get_config().augment and found.data.phantom.size == 64
    assert 'train.input_timeout = 600.0' in caplog.text and 'augment.gamma = 0.3' in caplog.text
    files.save_config(tmp_path, found)
    caplog.clear()
    assert files.load_config(tmp_path) == found and not caplog.text


def test_the_environment_of_the_first_start_stays_and_later_ones_are_added(tmp_path, monkeypatch):
    for number in range(3):
        monkeypatch.setattr(files, 'environment', lambda number=number: {'command': f'start {number}'})
        train.save_config(tmp_path, get_config())
    assert json.loads((tmp_path / 'environment.json').read_text()) == {'command': 'start 0'}
    assert [line['command'] for line in files.read_lines(tmp_path / 'resumed.jsonl')] == ['start 1', 'start 2']


@pytest.mark.parametrize('missing', ['config.json', 'annotations.parquet'])
def test_checkpoints_without_what_says_of_what_they_are_are_not_gone_on_from(tmp_path, missing):
    for name in {'config.json', 'annotations.parquet'} - {missing}:
        (tmp_path / name).touch()
    train.check_whole(tmp_path)
    (tmp_path / 'seed_0/checkpoints/3').mkdir(parents=True)
    (tmp_path / 'seed_0/checkpoints/3/seal.json').touch()
    with pytest.raises(InputError, match=f'holds checkpoints, but not {missing}'):
        train.check_whole(tmp_path)


def test_auto_becomes_the_type_of_the_devices_and_a_run_that_goes_on_keeps_the_one_it_has(tmp_path):
    """Whatever it goes on on: steps of another type would be other steps."""
    cpu, gpu = [SimpleNamespace(platform='cpu')], [SimpleNamespace(platform='cuda')] * 2
    assert train.settle_type(get_config(), cpu, None).model.dtype == 'float32'
    begun = train.settle_type(get_config(), gpu, None)
    assert begun.model.dtype == 'bfloat16'
    files.save_config(tmp_path, begun)
    resumed = train.settle_type(get_config(), cpu, files.load_config(tmp_path))
    assert resumed.model.dtype == 'bfloat16'
    check_config(files.load_config(tmp_path), resumed, tmp_path)
    other = train.settle_type(changed(model__dtype='float32'), gpu, files.load_config(tmp_path))
    with pytest.raises(InputError, match="model.dtype: 'bfloat16' there, 'float32' here"):
        check_config(files.load_config(tmp_path), other, tmp_path)
