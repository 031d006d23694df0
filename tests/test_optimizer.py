"""Schedules and optimisers: values by hand, and the errors for names that optax does not know."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.default import get_config
from unet_jax.errors import InputError
from unet_jax.model import unet
from unet_jax.training import optimizer


def options(**fields):
    config = get_config().optimizer
    with config.unlocked():
        config.update({'learning_rate': 0.1, 'warmup': 10, **fields})
    return config


@pytest.mark.parametrize('schedule, halfway, last', [
    ('cosine', 0.05, 0.1 * (1 + np.cos(np.pi * 0.99)) / 2), ('polynomial', 0.1 * 0.5 ** 0.9, 0.1 * 0.01 ** 0.9),
    ('constant', 0.1, 0.1)])
def test_the_rate_warms_up_linearly_then_decays_and_no_update_has_none(schedule, halfway, last):
    rate = optimizer.learning_rate(options(schedule=schedule), steps=110)
    assert [float(rate(update)) for update in (0, 4, 9, 10)] == pytest.approx([0.01, 0.05, 0.1, 0.1])
    assert float(rate(60)) == pytest.approx(halfway, rel=1e-5)
    assert float(rate(109)) == pytest.approx(last, rel=1e-3)


def test_the_first_update_moves_the_parameters():
    transform, params = optimizer.create(options(name='sgd', arguments=(), clip=0.0), 100), {'w': jnp.ones(2)}
    assert transform.update(params, transform.init(params))[0]['w'].tolist() == pytest.approx([-0.01, -0.01])


def test_accumulation_counts_updates_not_batches():
    rate = optimizer.learning_rate(options(accumulate=4, warmup=40), steps=440)
    assert float(rate(9)) == pytest.approx(0.1) and float(rate(60)) == pytest.approx(0.05, rel=1e-5)


@pytest.mark.parametrize('steps, wanted', [(10, '8 or 12'), (3, '4'), (8, None)])
def test_batches_that_would_make_up_no_update_are_refused_with_the_nearest_numbers(steps, wanted):
    if wanted is None:
        optimizer.create(options(accumulate=4), steps)
        return
    with pytest.raises(InputError, match=f'steps is {steps}.*accumulate = 4.*Set config.train.steps to {wanted}$'):
        optimizer.create(options(accumulate=4), steps)


@pytest.fixture(scope='module')
def params():
    """Of a small network with attention gates, all of them ones, so that no bias is 0."""
    model = get_config().model
    with model.unlocked():
        model.update({'features': (2, 4), 'encoder_blocks': (1, 1), 'decoder_blocks': (1,), 'attention_gates': True})
    shapes = jax.eval_shape(lambda key: unet.init(unet.build(model, 1), key, (8, 8), 1), jax.random.key(0))
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)


@pytest.mark.parametrize('name, argument', [('adamw', 'weight_decay'), ('lion', 'weight_decay'),
                                            ('adafactor', 'weight_decay_rate')])
def test_without_a_gradient_decay_moves_the_kernels_of_a_network_and_nothing_else(params, name, argument):
    """One update with a rate of 0.1 takes a share of decay of every kernel: of adamw and lion 0.1 · 0.5."""
    transform = optimizer.create(options(name=name, arguments=((argument, 0.5),), schedule='constant', warmup=0), 10)
    still = jax.tree.map(np.zeros_like, params)
    change = jax.jit(lambda params: transform.update(still, transform.init(params), params)[0])(params)
    for (path, moved), before in zip(jax.tree.leaves_with_path(change), jax.tree.leaves(params), strict=True):
        assert np.all(np.asarray(moved) != 0) == np.any(np.asarray(moved) != 0) == (path[-1].key == 'kernel'), path
        if path[-1].key == 'kernel' and name in ('adamw', 'lion'):
            np.testing.assert_allclose(moved, -0.05 * before, rtol=1e-5)


def test_accumulated_batches_update_once_with_their_mean_gradient():
    plain = options(name='sgd', arguments=(), clip=0.0, schedule='constant', warmup=0)
    params = {'w': jnp.zeros(2)}
    twice, once = (optimizer.create(options(**{**plain.to_dict(), 'accumulate': n}), 100) for n in (2, 1))
    state, moved = twice.init(params), params
    for gradient in (jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])):
        updates, state = twice.update({'w': gradient}, state, moved)
        moved = optax.apply_updates(moved, updates)
    updates, _ = once.update({'w': jnp.array([0.5, 0.5])}, once.init(params), params)
    assert jnp.allclose(moved['w'], optax.apply_updates(params, updates)['w'])


def test_nesterov_momentum_is_an_argument_of_sgd():
    transform = optimizer.create(options(name='sgd', arguments=(('momentum', 0.9), ('nesterov', True)), clip=0.0,
                                         schedule='constant', warmup=0), 10)
    params = {'w': jnp.zeros(1)}
    updates, _ = transform.update({'w': jnp.ones(1)}, transform.init(params), params)
    assert float(updates['w'][0]) == pytest.approx(-0.1 * 1.9)  # lr (g + 0.9 g) in the first step


def test_the_gradient_is_clipped_to_its_global_norm():
    transform = optimizer.create(options(name='sgd', arguments=(), clip=1.0, schedule='constant', warmup=0), 10)
    params = {'w': jnp.zeros(2)}
    updates, _ = transform.update({'w': jnp.array([30.0, 40.0])}, transform.init(params), params)
    assert updates['w'].tolist() == pytest.approx([-0.06, -0.08])


@pytest.mark.parametrize('fields, message', [({'name': 'adamm'}, "'adamm', which is no optimiser"),
                                             ({'arguments': (('momentun', 1),)}, 'momentun'),
                                             ({'schedule': 'linear'}, "'linear'; choose one of")])
def test_unknown_names_are_refused_with_the_choices(fields, message):
    with pytest.raises(InputError, match=message):
        optimizer.create(options(**fields), 10)


@pytest.mark.parametrize('fields', [{}, {'clip': 0.0}, {'accumulate': 2}, {'name': 'sgd', 'arguments': ()},
                                    {'name': 'adafactor', 'arguments': ()}], ids=str)
def test_the_optimisers_own_count_of_updates_is_found(fields):
    transform, params = optimizer.create(options(**fields), 100), {'w': jnp.ones(2)}
    state = transform.init(params)
    for _ in range(4):
        state = transform.update(params, state, params)[1]
    assert int(optimizer.updates(state, otherwise=-1)) == 4 // fields.get('accumulate', 1)
    assert optimizer.updates(optax.identity().init(params), otherwise=7) == 7
