"""Schedules and optimisers: values by hand, and the errors for names that optax does not know."""
import jax.numpy as jnp
import optax
import pytest

from configs.default import get_config
from unet_jax.errors import InputError
from unet_jax.training import optimizer


def options(**fields):
    config = get_config().optimizer
    with config.unlocked():
        config.update({'learning_rate': 0.1, 'warmup': 10, **fields})
    return config


@pytest.mark.parametrize('schedule, halfway', [('cosine', 0.05), ('polynomial', 0.1 * 0.5 ** 0.9), ('constant', 0.1)])
def test_the_rate_warms_up_linearly_then_decays(schedule, halfway):
    rate = optimizer.learning_rate(options(schedule=schedule), steps=110)
    assert [float(rate(step)) for step in (0, 5, 10)] == pytest.approx([0, 0.05, 0.1])
    assert float(rate(60)) == pytest.approx(halfway, rel=1e-5)
    assert float(rate(110)) == pytest.approx(0.1 if schedule == 'constant' else 0, abs=1e-6)


def test_accumulation_counts_updates_not_batches():
    rate = optimizer.learning_rate(options(accumulate=4, warmup=40), steps=440)
    assert float(rate(10)) == pytest.approx(0.1) and float(rate(110)) == pytest.approx(0, abs=1e-6)


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
    assert int(optimizer.updates(state)) == 4 // fields.get('accumulate', 1)
    assert optimizer.updates(optax.identity().init(params)) is None
