"""Training that starts from other parameters: what is taken, what is not, and that it goes on bit for bit."""
import json
import signal

import jax
import numpy as np
import optax
import pandas as pd
import pytest
from test_ensembles import begin, rows
from test_together import tiny

from configs import brats3d
from unet_jax import workdir
from unet_jax.errors import InputError
from unet_jax.experiment import create, init_params
from unet_jax.inference import members, model_file, transfer
from unet_jax.modes import fine_tune
from unet_jax.modes.evaluate import evaluate
from unet_jax.modes.export import export
from unet_jax.modes.train import train
from unet_jax.training import checkpoint, optimizer

DATA = {'train': ['a', 'b', 'd', 'e'], 'valid': ['c'], 'test': ['t0']}


def experiment_of(modalities=('flair', 't1', 't1ce', 't2'), regions=('WT', 'TC', 'ET'), features=(4, 8), seed=0,
                  activation='sigmoid'):
    config, paint = brats3d.get_config('small'), {'WT': (('WT', (1, 2, 4), 2)), 'TC': ('TC', (1, 4), 1),
                                                  'ET': ('ET', (4,), 4), 'cyst': ('cyst', (1,), 1)}
    with config.unlocked():
        config.seed, config.loss.activation = seed, activation
        config.data.update({'size': (16, 16, 16), 'modalities': modalities, 'channels': len(modalities),
                            'categories': (1, 2, 4), 'names': ('a', 'b', 'c'),
                            'regions': tuple(paint[name] for name in regions)})
        config.model.update({'features': features, 'stem': 2, 'encoder_blocks': (1,) * len(features),
                             'decoder_blocks': (1,) * (len(features) - 1), 'deep_supervision': 0})
    return create(config.lock())


def source_of(experiment):
    config = experiment.config
    return transfer.Source(model_file.flatten(init_params(experiment)), transfer.sequences(config),
                           transfer.outputs(config))


def test_the_same_network_is_taken_whole():
    source = source_of(experiment_of())
    found, table = transfer.adapt(source, experiment_of(seed=1), init_params(experiment_of(seed=1)))
    assert set(table.what) == {'taken'} and all(np.array_equal(found[name], source.params[name]) for name in found)


def test_channels_follow_their_sequences_and_heads_their_regions():
    """With a stem: positions in a block are the slow part of an axis, channels the fast one."""
    source = source_of(experiment_of())
    target = experiment_of(('t2', 'flair'), ('ET', 'WT'), seed=1)
    fresh = model_file.flatten(init_params(target))
    found, table = transfer.adapt(source, target, init_params(target))
    rows = table.set_index('parameter')
    name = 'encoder_0_block_0/first/conv/kernel'
    theirs, ours = (x.reshape(3, 3, 3, 8, -1, 4) for x in (source.params[name], found[name]))
    assert np.array_equal(ours[..., 0, :], theirs[..., 3, :]) and np.array_equal(ours[..., 1, :], theirs[..., 0, :])
    for name in ('head_0/kernel', 'head_0/bias'):
        theirs, ours = (x.reshape(-1, 8, count) for x, count in ((source.params[name], 3), (found[name], 2)))
        assert np.array_equal(ours, theirs[..., [2, 0]]) and rows.what[name] == 'adapted'
    others = rows[rows.what == 'taken']
    assert len(others) == len(rows) - 4 or len(others) == len(rows) - 3
    assert rows.how['head_0/kernel'] == 'regions: ET, WT as there' and not np.array_equal(
        found['up_0/dense/kernel'], fresh['up_0/dense/kernel'])


def test_unknown_sequences_become_the_mean_and_unknown_regions_stay_fresh():
    source = source_of(experiment_of(('flair', 't1'), ('WT',), activation='softmax'))
    target = experiment_of(('flair', 't1ce'), ('cyst', 'WT'), seed=1, activation='softmax')
    fresh = model_file.flatten(init_params(target))
    found, table = transfer.adapt(source, target, init_params(target))
    name = 'encoder_0_block_0/first/conv/kernel'
    theirs, ours = (x.reshape(3, 3, 3, 8, 2, 4) for x in (source.params[name], found[name]))
    assert np.array_equal(ours[..., 0, :], theirs[..., 0, :]) and np.allclose(ours[..., 1, :], theirs.mean(-2))
    name = 'head_0/kernel'
    ours, theirs, begun = (x.reshape(4, 8, -1) for x in (found[name], source.params[name], fresh[name]))
    assert np.array_equal(ours[..., 0], theirs[..., 0]) and np.array_equal(ours[..., 2], theirs[..., 1])
    assert np.array_equal(ours[..., 1], begun[..., 1])
    rows = table.set_index('parameter')
    assert rows.how[name] == 'regions: background, WT as there; cyst fresh'
    assert rows.from_source[name] == round(2 / 3 * rows.numbers[name])
    assert 'sequences: flair as there; t1ce the mean of flair, t1' in transfer.text(table)


def test_under_half_is_an_error_that_names_the_largest():
    target = experiment_of(features=(4, 16))
    with pytest.raises(InputError, match=r'only \d+% of the parameters could be taken.*encoder_1_block_0.*has shape'):
        transfer.adapt(source_of(experiment_of()), target, init_params(target))


def test_factors_scale_the_steps_of_their_parts_alone_and_none_leaves_the_optimiser_as_it_was():
    config = tiny(0).optimizer
    parts = 'encoder_0_block_0', 'encoder_1_block_0', 'head_0'
    params = {name: {'kernel': np.ones((2, 2), np.float32)} for name in parts}
    grads = jax.tree.map(np.ones_like, params)

    def steps(factors):
        with config.unlocked():
            config.factors = factors
        made = optimizer.create(config, 8)
        begun = made.init(params)
        return begun, model_file.flatten(made.update(grads, begun, params)[0])

    (plain_state, plain), (_, scaled) = steps(()), steps((('encoder_0', 0.0), ('encoder', 0.5)))
    for name, step in plain.items():
        factor = 0 if name.startswith('encoder_0') else 0.5 if name.startswith('encoder') else 1
        assert np.allclose(scaled[name], factor * step) and np.any(step)
    like = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lambda n: 0.1, mask=optimizer.kernels))
    assert jax.tree.structure(plain_state) == jax.tree.structure(like.init(params))
    with pytest.raises(InputError, match="names 'encodr', .*there are encoder_0_block_0, encoder_1_block_0, head_0"):
        optimizer.check_factors((('encodr', 0.1),), params)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """(folder of everything, a run of four steps, the same as a model file)."""
    place = tmp_path_factory.mktemp('source')
    begin(place / 'run', place / 'set', rows('train', ['a']) + rows('valid', ['c']), seed=3)
    config = workdir.load_config(place / 'run')
    with config.unlocked():
        config.optimizer.factors = (('head', 0.5),)
    export(config, place / 'run', output=f'{place}/model.zip', which='best')
    return place


def tuned(place, folder, init_from, seed=0):
    """The config of a run on four images that starts from `init_from`, with a data set of its own."""
    root = folder.parent / 'data'
    if not root.exists():
        made = [row for subset, cases in DATA.items() for row in rows(subset, cases)]
        begin(folder.parent / 'unused', root, made)
        images = [{'id': k, 'file_name': row['path'], 'width': 16, 'height': 16} for k, row in enumerate(made)]
        (root / 'all.json').write_text(json.dumps({
            'images': images, 'categories': [{'id': 1, 'name': 'tumour'}],
            'annotations': [{'id': k, 'image_id': k, 'category_id': 1, 'area': 49, 'bbox': [2, 2, 7, 7], 'iscrowd': 0,
                             'segmentation': row['segmentation']} for k, row in enumerate(made)]}))
        (root / 'split.json').write_text(json.dumps({s: [f'{c}.png' for c in cases] for s, cases in DATA.items()}))
    config = tiny(seed, batch_size=8, steps=4)
    config.data.update({'root': str(root), 'split_file': str(root / 'split.json'), 'cache': str(folder.parent / 'c')})
    config.evaluation.update({'batch_size': 8, 'pictures': 0})
    config.train.init_from = str(init_from)
    return config


def weights(folder, step):
    like = init_params(create(workdir.load_config(folder)))
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return model_file.flatten(checkpoint.restore_params(folder / 'checkpoints', step, like, where))


def test_a_run_starts_from_a_model_file_or_a_run_and_goes_on_without_it(source, tmp_path, monkeypatch, capsys, caplog):
    """Killed before the first checkpoint and after it, the source gone: the same bits as a run from end to end."""
    begun = model_file.read(source / 'model.zip').params
    straight, broken = tmp_path / 'straight', tmp_path / 'broken'
    (tmp_path / 'copy.zip').write_bytes((source / 'model.zip').read_bytes())
    train(tuned(source, straight, source / 'run'), straight)
    assert 'Started from' in capsys.readouterr().out and 'was trained on or chosen by 1 of the cases' in caplog.text
    seal = workdir.load_config(straight).train.init_seal
    assert seal == model_file.params_digest(begun) == json.loads((straight / members.STARTED).read_text())['seal']
    table = pd.read_csv(straight / 'started_from.csv')
    assert set(table.what) == {'taken'} and table.numbers.sum() == table.from_source.sum()

    config = tuned(source, broken, tmp_path / 'copy.zip')
    saved = checkpoint.save
    monkeypatch.setattr(checkpoint, 'save', lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(config, broken)
    (tmp_path / 'copy.zip').unlink()

    def save_and_stop(*arguments, **options):
        saved(*arguments, **options)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(checkpoint, 'save', save_and_stop)
    train(config, broken)  # stops behind step 2
    assert checkpoint.steps(broken / 'checkpoints')[-1] < 4
    monkeypatch.setattr(checkpoint, 'save', saved)
    train(workdir.load_config(broken), broken)
    a, b = weights(straight, 4), weights(broken, 4)
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert np.abs(a['head_0/kernel'] - begun['head_0/kernel']).max() > 0
    name = 'encoder_1_block_0/first/conv/kernel'  # four steps of 1e-2 lead nowhere near other random numbers
    other = model_file.flatten(init_params(create(workdir.load_config(straight))))[name]
    assert np.abs(a[name] - begun[name]).max() < 0.1 < np.abs(other - begun[name]).max()
    evaluate(workdir.load_config(straight), straight, subset='test', which='best', other=[str(broken)])
    page = (straight / 'report.html').read_text()
    assert '<h2>Comparison</h2>' in page and f'a: {broken} (checkpoint' in page
    used = members.used_by(straight)
    assert model_file.name_digest('a.png') in set(used.case)  # of the source's, and of its own


def test_a_source_that_changed_or_is_none_is_refused_before_any_work(source, tmp_path):
    config = tuned(source, tmp_path / 'w', source / 'model.zip')
    with config.unlocked():
        config.train.init_seal = 'another'
    with pytest.raises(InputError, match='holds the parameters .*, not those of config.train.init_seal = another'):
        train(config, tmp_path / 'w')
    for place, message in ((tmp_path / 'nowhere', 'no such file, so .*nowhere is no work directory'),
                           (tmp_path / 'data/a.png', 'a.png: is no model file')):
        with pytest.raises(InputError, match=message):
            fine_tune.note_seal(tuned(source, tmp_path / 'w', place), tmp_path / 'w', resumed=False)
    assert not (tmp_path / 'w/config.json').exists() and not (tmp_path / 'w/checkpoints').exists()
