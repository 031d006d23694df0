"""Every field of the config is checked before any work; wrong values get a message that names it."""
import json
import math

import pytest

from configs import brats, brats3d, coco, default, phantom
from unet_jax import config_check, workdir
from unet_jax.config import FIELDS, build, flat, read, read_typed
from unet_jax.errors import InputError
from unet_jax.fields import example
from unet_jax.modes import start

CONFIGS = {'default': default.get_config, 'coco': coco.get_config, 'phantom': phantom.get_config,
           'brats': brats.get_config, 'brats3d': brats3d.get_config, 'small': lambda: brats3d.get_config('small')}
WRONG = [None, math.nan, object(), b'x', {'a': 1}, ((),), (None,), {1, 2}, 1j, range(3)]  # of any field
ODD = [0, -1, 1, 2, 0.5, -0.5, 1.5, 1e300, -math.inf, math.inf, 10**30, True, '', 'x', 'x\0', 'None', (), [], (0,),
       (1, 1), (-1, 1), (1, 2, 3), (0.5, 0.25, 0.25), (1.0, math.nan), (2, 1), (True, False), ('a', 1.0), ('a', 'a'),
       ('a', 1.0, 'b'), (('a', 1.0), ('a', 2.0)), (('dice', -1.0),), (('dice', 1.0), ('dice', 1.0)),
       (('WT', (1,), 2),), (('WT', (1,), 1), ('WT', (2,), 2)), ((1, 2), (3, 4)), (('weight_decay', math.nan),),
       (('learning_rate', 1.0),), (('b1', 'x'),), tuple(range(40)), (8,) * 12, 'flair',
       'adam', 'getattr', 'softmax', 'LPS', 'LLL', {}]
TYPED = ['', 'None', 'nan', 'inf', '-inf', '-1', '0', '1', '1e400', 'many', '(', "('a'", '{}', '[1', '1,2,3,4,5',
         'a,b', "(('dice',1.0))", '1,', ',', '"', 'True', '\\', '(' * 500, '1/3', 'lambda: 0', '1' * 5000]


@pytest.mark.parametrize('name', FIELDS)
def test_whatever_a_field_is_given_the_answer_is_a_value_or_a_message_that_names_it(name):
    for value in [*WRONG, *ODD]:
        try:
            found = read(name, value)
        except InputError as error:
            assert str(error).startswith(f'config.{name} is ') and f'--config.{name}=' in str(error)
            continue
        assert not any(value is wrong for wrong in WRONG), (name, value)
        assert read(name, found) == found and type(found) is type(FIELDS[name].default)
    for typed in TYPED:
        try:
            read_typed(name, typed)
        except InputError as error:
            assert f'config.{name} is ' in str(error)


@pytest.mark.parametrize('name', FIELDS)
def test_what_a_field_may_be_alone_is_followed_or_refused_by_name_in_every_config(name):
    """Lengths that have to agree, names, shares, strides, and what only some formats have a use for."""
    found = []
    for value in ODD:
        try:
            found.append(read(name, value))
        except InputError:
            continue
    for base in ('default', 'small'):
        values = flat(CONFIGS[base]())
        for value in found:
            config = build({**values, name: value})
            try:
                config_check.check_config(config)
            except InputError as error:
                assert 'config.' in str(error)


@pytest.mark.parametrize('name', FIELDS)
def test_the_example_of_every_field_can_be_typed(name):
    field = FIELDS[name]
    typed = read_typed(name, example(field).strip('"'))
    assert field.default in ((), '') or typed == field.default or math.isclose(typed, field.default, rel_tol=1e-5)
    assert read(name, field.default) == field.default and field.meaning and field.kind.words


@pytest.mark.parametrize('name', CONFIGS)
def test_the_configs_themselves_are_good(name):
    config = CONFIGS[name]()
    config_check.check_config(config)
    assert flat(config).keys() == FIELDS.keys()


@pytest.mark.parametrize('name, typed, value', [
    ('loss.terms', 'focal', (('focal', 1.0),)), ('loss.terms', 'dice, focal', (('dice', 1.0), ('focal', 1.0))),
    ('loss.terms', "(('dice',1.0))", (('dice', 1.0),)), ('loss.terms', '(dice, 2)', (('dice', 2.0),)),
    ('optimizer.arguments', "(('weight_decay',0.1))", (('weight_decay', 0.1),)),
    ('data.regions', "(('WT',1,1),)", (('WT', (1,), 1),)), ('data.regions', "(('WT',(1,2),1))", (('WT', (1, 2), 1),)),
    ('data.size', '(64,64)', (64, 64)), ('train.seeds', '3', (3,)), ('train.steps', '1e4', 10000),
    ('data.modalities', 'flair,t1', ('flair', 't1')), ('data.root', '2020', '2020'), ('model.remat', 'true', True)])
def test_what_was_typed_is_taken_where_its_meaning_is_plain(name, typed, value):
    found = read_typed(name, typed)
    assert found == value and repr(found) == repr(value)


@pytest.mark.parametrize('name, typed, message', [
    ('data.size', '256', r'config.data.size is 256; give 2 or 3 values.*--config.data.size=128,128'),
    ('data.regions', 'tumour', r"config.data.regions is 'tumour'; give \(name, \(category ids\), id to paint\)"),
    ('loss.terms', 'dcie', "is 'dcie'; give .*cross_entropy, focal, dice, tversky, generalised_dice"),
    ('train.stepz', '3', 'config.train.stepz: no such field; did you mean config.train.steps'),
    ('trian.steps', '3', 'did you mean config.train.steps'), ('lr', '1', 'no such field'),
    ('data.orientation', 'LRS', 'give one letter a'), ('data.orientation', 'XYZ', 'give one letter a'),
    ('data.spacing', '1.0', 'give 0 or 3 values'), ('augment.elastic_grid', '1', 'from 2 to 64'),
    ('augment.modality_dropout', '1.5', 'from 0 to 1'), ('augment.low_resolution', '1e999', 'a number from 1'),
    ('data.phantom', '{}', 'a group: name one of config.data.phantom.train')])
def test_what_was_typed_wrong_gets_the_right_spelling(name, typed, message):
    with pytest.raises(InputError, match=message):
        read_typed(name, typed)


@pytest.mark.parametrize('base, fields, message', [
    ('default', {'data.size': (32, 32, 32)}, r'data.size is \(32, 32, 32\): .*coco have 2 sides; give .*=128,128'),
    ('brats3d', {'augment.flip': (True, True)}, r'augment.flip is \(True, True\): .*nifti have 3 axes'),
    ('default', {'model.encoder_blocks': (2, 2)}, 'model.encoder_blocks = .*give 4 whole'),
    ('default', {'model.decoder_blocks': (1, 1, 1, 1)}, 'model.decoder_blocks = .*give 3 whole'),
    ('default', {'model.deep_supervision': 3}, 'deep_supervision = 3: 4 levels have 2'),
    ('default', {'data.size': (4, 4)}, 'features .* more than config.data.size'),
    ('default', {'optimizer.warmup': 1000}, 'warmup is 1000: .*less than config.train.steps = 1000'),
    ('default', {'optimizer.accumulate': 1001}, 'accumulate is 1001'),
    ('default', {'optimizer.name': 'adamv'}, "'adamv', which is no optimiser"),
    ('default', {'optimizer.arguments': (('decay', 1.0),)}, "unexpected keyword argument 'decay'"),
    ('default', {'optimizer.arguments': (('weight_decay', 'x'),)}, 'arguments is .*cannot be used'),
    ('default', {'data.split': (0.5, 0.5, 0.5)}, 'add up to 1.5'), ('default', {'data.folds': 1}, 'folds is 1'),
    ('default', {'data.folds': 3, 'data.fold': 3}, 'fold is 3: of config.data.folds = 3'),
    ('default', {'data.folds': 3, 'data.split_file': 'a.json'}, 'folds is 3: config.data.split_file'),
    ('default', {'data.channels': 4}, 'channels is 4: coco has 1 or 3'), ('brats', {'data.channels': 3}, 'has 4'),
    ('default', {'data.names': ('a',)}, r'names is .*as many as config.data.categories = \(\)'),
    ('brats', {'data.categories': (1, 2)}, r'regions names category ids \[4\]'),
    ('default', {'train.steps_per_dispatch': 3}, 'steps_per_dispatch is 3, which must divide'),
    *[('default', {'train.seeds': (1, 2), f'train.{name}': value}, f'train.{name} is {value}: config.train.seeds')
      for name, value in (('resident', True), ('steps_per_dispatch', 2), ('fsdp', 2), ('spatial', 2))],
    ('default', {'train.spatial': 3}, 'spatial is 3: must divide'), ('default', {'augment.scale': (2, 1)}, 'lowest'),
    ('default', {'evaluation.lesions': 'GLI'}, "lesions is 'GLI': counts lesions from a size in mm³ on"),
    ('phantom', {'evaluation.modality_subsets': True}, 'modality_subsets is True: is for volumes only'),
    ('coco', {'data.spacing': (1, 1, 1)}, 'spacing is .*: is for volumes only')])
def test_fields_that_do_not_go_together_are_refused_before_any_work(base, fields, message, tmp_path):
    config = build({**flat(CONFIGS[base]()), **fields})
    with pytest.raises(InputError, match=f'config.*{message}'):
        start.start(config, tmp_path / 'w')
    assert not list(tmp_path.iterdir())


def test_options_of_volumes_are_taken_for_volumes():
    fields = {'evaluation.lesions': 'MET', 'evaluation.modality_subsets': True}
    config_check.check_config(build({**flat(brats3d.get_config()), **fields}))


def test_a_config_of_code_is_checked_by_the_same_table_and_written_in_one_way():
    config = default.get_config()
    config.loss.terms = ('dice', 1)  # what the command line would read as one pair
    config_check.check_config(config)
    assert config.loss.terms == (('dice', 1.0),)
    config.augment.scale = (1, 1)
    with config.unlocked():
        config.train.stepz = 3
    with pytest.raises(InputError, match='config.train.stepz: no such field'):
        config_check.check_config(config)
    with config.unlocked():
        del config.train.stepz, config.augment.blur
    with pytest.raises(InputError, match='config.augment.blur is missing'):
        config_check.check_config(config)


def test_a_saved_config_goes_through_the_same_table_and_names_its_file(tmp_path):
    workdir.save_config(tmp_path, default.get_config())
    path = tmp_path / 'config.json'
    saved = json.loads(path.read_text())
    saved['train']['input_timeout'], saved['train']['of_old'] = 5, 1  # JSON of others: 5 for 5.0
    path.write_text(json.dumps(saved))
    found = workdir.load_config(tmp_path)
    assert isinstance(found.train.input_timeout, float) and 'of_old' not in found.train
    for section, field, value in (('loss', 'terms', [['dcie', 1.0]]), ('train', 'steps', None), ('data', 'size', 32)):
        path.write_text(json.dumps({**saved, section: {**saved[section], field: value}}))
        with pytest.raises(InputError, match=f'config.json: config.{section}.{field} is '):
            workdir.load_config(tmp_path)
