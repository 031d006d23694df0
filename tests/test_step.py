"""The train step: learns, skips what is not finite, gives every device and every batch the same result."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.default import get_config
from unet_jax.annotations import labels
from unet_jax.model import unet
from unet_jax.training import optimizer, sharding
from unet_jax.training import state as states
from unet_jax.training import step as steps

REGIONS = (labels.Region('tumour', (1,), 1),)


def tiny(**sections):
    """A small network and a short run; `sections` are {section: {field: value}}."""
    config = get_config()
    with config.unlocked():
        config.data.size = (16, 16)
        config.model.update({'features': (4, 8), 'encoder_blocks': (1, 1), 'decoder_blocks': (1,)})
        config.optimizer.update({'warmup': 0, 'learning_rate': 1e-2})
        for section, fields in sections.items():
            config[section].update(fields)
    return config


def build(config, devices=1, length=100):
    module = unet.build(config.model, 1)
    transform = optimizer.create(config.optimizer, length)
    step = steps.make_train_step(config, module, transform, (1,), optimizer.learning_rate(config.optimizer, length))
    mesh = sharding.create_mesh(jax.devices()[:devices])
    everywhere, split = sharding.replicated(mesh), sharding.split(mesh)
    state = states.create(unet.init(module, jax.random.key(0), (16, 16), 1), transform)
    return jax.jit(step, in_shardings=(everywhere, split), out_shardings=everywhere), state, mesh


def disks(count=8, start=0):
    """Images with a bright disk, which is the label."""
    rng = np.random.default_rng(1)
    centre = rng.uniform(4, 12, (count, 2))
    grid = np.stack(np.meshgrid(np.arange(16), np.arange(16), indexing='ij'), -1)
    label = (np.linalg.norm(grid[None] - centre[:, None, None], axis=-1) < 3.5).astype(np.uint8)
    image = np.uint8(60 + 120 * label + rng.integers(0, 40, label.shape))[..., None]
    return {'image': image, 'label': label, 'index': np.arange(count, dtype=np.int32),
            'visit': np.arange(start, start + count, dtype=np.uint32), 'valid': np.ones(count, np.float32)}


def test_the_loss_falls_and_the_average_follows_the_parameters():
    step, state, mesh = build(tiny())
    losses = []
    for k in range(30):
        state, metrics = step(state, sharding.put(disks(start=8 * k), mesh))
        losses.append(float(metrics['loss']))
    assert losses[-1] < 0.75 * losses[0] and int(state.step) == 30
    assert metrics['finite'] == 1 and float(metrics['gradient_norm']) > 0
    gap = max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (state.params, state.ema_params))))
    assert 0 < gap < 0.2


def test_the_average_is_taken_of_the_parameters_after_the_update():
    """By hand, with the decay (1 + t) / (10 + t) of the first updates: 1/10, then 2/11."""
    step, state, mesh = build(tiny())
    for share in (0.1, 2 / 11):
        after, _ = step(state, sharding.put(disks(), mesh))
        for old, new, average in zip(*map(jax.tree.leaves, (state.ema_params, after.params, after.ema_params)),
                                     strict=True):
            np.testing.assert_allclose(average, share * old + (1 - share) * new, rtol=1e-5, atol=1e-7)
        state = after


@pytest.mark.parametrize('fields', [{'name': 'sgd', 'arguments': (('momentum', 0.9),), 'learning_rate': 0.05}, {}],
                         ids=['sgd', 'adamw'])
def test_accumulated_batches_train_like_one_large_batch(fields):
    """Same samples, warm-up, schedule, averages; three updates, with the warm-up's end among them."""
    found = []
    for accumulate in (1, 2):
        size = 8 // accumulate
        step, state, mesh = build(tiny(optimizer={**fields, 'accumulate': accumulate, 'warmup': 2 * accumulate}),
                                  length=4 * accumulate)
        for k in range(3 * accumulate):
            whole = disks(start=8 * (k // accumulate))
            batch = {name: array[k % accumulate * size:][:size] for name, array in whole.items()}
            before, (state, metrics) = state, step(state, sharding.put(batch, mesh))
            if accumulate == 2 and k % 2 == 0:  # nothing moves, the average neither
                pair = (jax.tree.leaves((s.params, s.ema_params)) for s in (before, state))
                assert all(np.array_equal(one, other) for one, other in zip(*pair, strict=True))
        found.append((state.params, state.ema_params, metrics['learning_rate']))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-5)


def test_without_averaging_the_averaged_parameters_are_the_parameters():
    step, state, mesh = build(tiny(optimizer={'ema': 0.0}))
    state, _ = step(state, sharding.put(disks(), mesh))
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (state.params, state.ema_params))))


def test_a_sample_is_augmented_alike_wherever_it_lies_in_the_batch():
    config, batch = tiny(), disks()
    turned = {name: np.roll(array, 3, 0) for name, array in batch.items()}
    one, other = (np.asarray(steps.prepare(b, config, jax.random.key(0))[0]) for b in (batch, turned))
    assert np.array_equal(np.roll(one, 3, 0), other)


def test_a_non_finite_batch_changes_nothing_but_the_step():
    step, state, mesh = build(tiny(optimizer={'warmup': 10}))
    broken = disks() | {'image': np.full((8, 16, 16, 1), np.nan, np.float16)}
    after, metrics = step(state, sharding.put(broken, mesh))
    assert metrics['finite'] == 0 and int(after.step) == 1
    for before, now in zip(*(jax.tree.leaves((s.params, s.ema_params, s.opt_state)) for s in (state, after))):
        assert np.array_equal(before, now)
    metrics = step(after, sharding.put(broken, mesh))[1]
    assert float(metrics['learning_rate']) == pytest.approx(1e-3)  # a tenth: the warm-up waits for updates too


def test_a_gradient_that_is_not_finite_is_caught_where_the_loss_is(monkeypatch):
    """The square root of 0 has an infinite slope."""
    monkeypatch.setattr(steps.losses, 'total', lambda config, logits, *_: (jnp.sqrt(0 * logits[0].sum()), {}))
    step, state, mesh = build(tiny(augment={'spatial_probability': 0.0, 'intensity_probability': 0.0}))
    after, metrics = step(state, sharding.put(disks(), mesh))
    assert metrics['loss'] == 0 and metrics['finite'] == 0 and int(after.step) == 1
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (state.params, after.params))))


def test_padding_samples_do_not_count():
    step, state, mesh = build(tiny(augment={'spatial_probability': 0.0, 'intensity_probability': 0.0}))
    whole = disks(4)
    padded = {name: np.pad(array, [(0, 4)] + [(0, 0)] * (array.ndim - 1)) for name, array in whole.items()}
    a, b = (step(state, sharding.put(batch, mesh))[1]['loss'] for batch in (whole, padded))
    assert float(a) == pytest.approx(float(b), rel=1e-5)


def test_normalising_gives_mean_0_and_deviation_1_and_leaves_a_constant_at_0():
    image = jnp.asarray(np.random.default_rng(0).normal(5, 3, (16, 16, 2)))
    done, _ = steps.normalise(image, True)
    assert jnp.allclose(done.mean((0, 1)), 0, atol=1e-5) and jnp.allclose(done.std((0, 1)), 1, atol=1e-5)
    for shape in ((4, 4, 1), (37, 11, 1)):  # means of the second are rounded
        assert jnp.abs(steps.normalise(jnp.full(shape, 7.0), True)[0]).max() < 0.05
        assert jnp.abs(steps.normalise(jnp.full(shape, 77, jnp.uint8), True)[0]).max() < 0.05


@pytest.mark.parametrize('axes, flips, views', [(2, (True, False), 2), (3, (True, True, True), 8)])
def test_predicting_with_flips_is_the_mean_of_the_views_by_one_network(axes, flips, views):
    config = tiny(evaluation={'flips': True}, augment={'flip': flips})
    module = unet.build(config.model, 1)
    params = unet.init(module, jax.random.key(1), (8,) * axes, 1)
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, *(8,) * axes, 1)), jnp.float16)
    predict = jax.jit(steps.make_predict_step(config, module, (1,)))
    found, want = predict(params, {'image': image}), []
    for mirrored in itertools.product(*[(False, True) if on else (False,) for on in flips]):
        view = [a + 1 for a, on in enumerate(mirrored) if on]
        seen = jnp.flip(jax.vmap(lambda x: steps.normalise(x, True)[0])(image), view)
        want.append(jnp.flip(jax.nn.sigmoid(unet.apply(module, params, seen)), view))
    assert len(want) == views and np.ptp(want, axis=0).max() > 1e-3
    np.testing.assert_allclose(found, sum(want) / views, atol=1e-5)
    convolutions = predict.lower(params, {'image': image}).as_text()
    alone = jax.jit(steps.make_predict_step(tiny(augment={'flip': flips}), module, (1,)))
    assert len(convolutions) < 1.5 * len(alone.lower(params, {'image': image}).as_text())


def test_a_softmax_region_has_the_probability_of_all_that_lies_inside_it():
    config = tiny(loss={'activation': 'softmax'})
    logits = jnp.log(jnp.array([[1.0, 2.0, 3.0, 4.0]]))
    assert steps.probabilities(config, logits, (7, 5, 4))[0].tolist() == pytest.approx([0.9, 0.7, 0.4])
    assert steps.probabilities(config, logits, (1, 2, 4))[0].tolist() == pytest.approx([0.2, 0.3, 0.4])
