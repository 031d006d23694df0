import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from unet_jax.errors import InputError
from unet_jax.training import losses

NAMES = ('dice', 'cross_entropy', 'focal', 'tversky', 'generalised_dice')
TERMS = tuple((name, 1.0) for name in NAMES)
ONE = jnp.ones(1)


def config(activation='sigmoid', terms=TERMS, **fields):
    return FrozenConfigDict({'activation': activation, 'terms': terms, 'batch_dice': False, 'focal_gamma': 2.0,
                             'tversky': (0.3, 0.7), 'class_weights': (), **fields})


total = jax.jit(losses.total, static_argnums=0)  # → value, terms
gradient_of = jax.jit(jax.value_and_grad(losses.total, argnums=1, has_aux=True), static_argnums=0)


def example(seed=0, batch=3, spatial=(5, 6), regions=2, channels=2):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (batch, *spatial, channels)).astype(np.float32)
    return logits, rng.random((batch, *spatial, regions)) < 0.3, np.ones(batch, np.float32)


def logit(p):
    return jnp.log(p) - jnp.log1p(-jnp.asarray(p))


def reference(name, logits, target, activation, batch=False, gamma=2.0, weights=(0.3, 0.7)):
    """Float64 numpy, sample by sample and region by region, from the formulas of the papers."""
    z = logits.astype(np.float64)
    if activation == 'softmax':
        label = np.zeros(target.shape[:-1], int)
        for r in range(target.shape[-1]):
            label[target[..., r]] = r + 1
        t = np.eye(target.shape[-1] + 1)[label]
        p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        true = (p * t).sum(-1)
    else:
        t, p = target.astype(np.float64), 1 / (1 + np.exp(-z))
        true = np.where(target, p, 1 - p)
    if name in ('cross_entropy', 'focal'):
        return np.mean((1 - true) ** (gamma if name == 'focal' else 0) * -np.log(true))
    pairs = [(p.reshape(-1, p.shape[-1]), t.reshape(-1, t.shape[-1]))] if batch else [
        (a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])) for a, b in zip(p, t, strict=True)]
    found = []
    for a, b in pairs:
        if name == 'generalised_dice':
            w = 1 / np.maximum(b.sum(0), 1) ** 2
            w /= w.max()
            found.append(1 - (2 * (w * (a * b).sum(0)).sum() + 1) / ((w * (a + b).sum(0)).sum() + 1))
            continue
        for k in range(activation == 'softmax', a.shape[1]):
            tp, fp, fn = (a[:, k] * b[:, k]).sum(), (a[:, k] * (1 - b[:, k])).sum(), ((1 - a[:, k]) * b[:, k]).sum()
            if name == 'dice':
                found.append(1 - (2 * tp + 1) / (2 * tp + fp + fn + 1))
            else:
                found.append(1 - (tp + 0.5) / (tp + weights[0] * fp + weights[1] * fn + 0.5))
    return np.mean(found)


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
@pytest.mark.parametrize('batch_dice', [False, True])
def test_every_term_agrees_with_the_float64_formula(activation, batch_dice):
    logits, target, valid = example(channels=2 + (activation == 'softmax'))
    for name, value in total(config(activation, batch_dice=batch_dice), logits, target, valid)[1].items():
        wanted = reference(name, logits, target, activation, batch_dice)
        np.testing.assert_allclose(value, wanted, rtol=1e-5, err_msg=name)


def test_dice_by_hand():
    logits = logit(jnp.array([0.5, 0.25, 0.75, 0.5])).reshape(1, 2, 2, 1)
    target = jnp.array([True, True, False, False]).reshape(1, 2, 2, 1)
    value = losses.dice(logits, target, ONE, activation='sigmoid')
    assert value == pytest.approx(1 - (2 * 0.75 + 1) / (2 + 2 + 1))


def test_tversky_by_hand():
    logits = logit(jnp.array([0.5, 0.25, 0.75, 0.5])).reshape(1, 2, 2, 1)
    target = jnp.array([True, True, False, False]).reshape(1, 2, 2, 1)
    value = losses.tversky(logits, target, ONE, activation='sigmoid', weights=(0.2, 0.8))
    assert value == pytest.approx(1 - (0.75 + 0.5) / (0.75 + 0.2 * 1.25 + 0.8 * 1.25 + 0.5))


def test_generalised_dice_by_hand():
    """Two regions of one and two pixels: weights 1 and 1/4."""
    p = jnp.array([[0.5, 0.5], [0.0, 1.0], [0.0, 0.5]]).clip(1e-7, 1 - 1e-7).reshape(1, 3, 1, 2)
    target = jnp.array([[1, 0], [0, 1], [0, 1]]).reshape(1, 3, 1, 2)
    hit, both = 0.5 + 0.25 * 1.5, 1.5 + 0.25 * 4
    value = losses.generalised_dice(logit(p), target, ONE, activation='sigmoid')
    assert value == pytest.approx(1 - (2 * hit + 1) / (both + 1), abs=1e-5)


def test_cross_entropy_and_focal_by_hand():
    logits = logit(jnp.array([0.9, 0.2])).reshape(1, 2, 1, 1)
    target = jnp.array([True, False]).reshape(1, 2, 1, 1)
    entropy = -np.log([0.9, 0.8])
    assert losses.cross_entropy(logits, target, ONE, activation='sigmoid') == pytest.approx(entropy.mean())
    value = losses.focal(logits, target, ONE, activation='sigmoid', gamma=2.0)
    assert value == pytest.approx((np.array([0.01, 0.04]) * entropy).mean(), rel=1e-5)


@pytest.mark.parametrize('name', ['cross_entropy', 'focal'])
def test_weights_of_regions_count_their_pixels_more(name):
    """Of two regions with weights 1 and 3 the second counts thrice; of softmax the background counts 1."""
    logits, target, valid = example()
    one = [total(config(terms=((name, 1.0),)), logits[..., k:k + 1], target[..., k:k + 1], valid)[0] for k in (0, 1)]
    both, _ = total(config(terms=((name, 1.0),), class_weights=(1.0, 3.0)), logits, target, valid)
    assert float(both) == pytest.approx(float(one[0] + 3 * one[1]) / 4, rel=1e-5)
    alike, _ = total(config(terms=((name, 1.0),), class_weights=(2.0, 2.0)), logits, target, valid)
    assert float(alike) == pytest.approx(float(sum(one)) / 2, rel=1e-5)
    logits = jnp.log(jnp.array([1.0, 2.0, 5.0])).reshape(1, 1, 1, 3)
    plain, weighted = (total(config('softmax', ((name, 1.0),), class_weights=w), logits,
                             jnp.array([0, 1]).reshape(1, 1, 1, 2), ONE)[0] for w in ((), (0.5, 1.5)))
    assert float(weighted) == pytest.approx(1.5 * float(plain), rel=1e-5)


def test_softmax_cross_entropy_by_hand():
    """Probabilities 1/8, 2/8, 5/8; a pixel of both regions belongs to the last."""
    logits = jnp.log(jnp.array([1.0, 2.0, 5.0])).reshape(1, 1, 1, 3)
    for target, p in (([0, 0], 1 / 8), ([1, 0], 2 / 8), ([0, 1], 5 / 8), ([1, 1], 5 / 8)):
        masks = jnp.array(target).reshape(1, 1, 1, 2)
        value, _ = total(config('softmax', (('cross_entropy', 1.0),)), logits, masks, ONE)
        assert value == pytest.approx(-np.log(p), rel=1e-5)


def test_focal_with_gamma_0_is_cross_entropy_and_tversky_with_halves_is_dice():
    _, terms = total(config(focal_gamma=0.0, tversky=(0.5, 0.5)), *example())
    assert terms['focal'] == pytest.approx(float(terms['cross_entropy']), rel=1e-6)
    assert terms['tversky'] == pytest.approx(float(terms['dice']), rel=1e-6)


def test_generalised_dice_of_one_region_is_dice():
    _, terms = total(config(), *example(regions=1, channels=1))
    assert terms['generalised_dice'] == pytest.approx(float(terms['dice']), rel=1e-6)


def test_exclusive_gives_a_pixel_to_the_last_region():
    target = jnp.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 1]], bool)
    assert losses.exclusive(target).argmax(-1).tolist() == [0, 1, 2, 3, 3]
    assert losses.exclusive(target).sum(-1).tolist() == [1] * 5


@pytest.mark.parametrize('spatial, activation, batch_dice', [
    ((5, 6), 'sigmoid', False), ((5, 6), 'sigmoid', True), ((5, 6), 'softmax', False), ((3, 4, 5), 'softmax', True)])
def test_padding_samples_change_neither_value_nor_gradient(spatial, activation, batch_dice):
    logits, target, _ = example(1, 4, spatial, channels=2 + (activation == 'softmax'))
    logits[2:] = np.nan
    valid = np.array([1, 1, 0, 0], np.int32)
    c = config(activation, batch_dice=batch_dice)
    (padded, _), gradient = gradient_of(c, logits, target, valid)
    (alone, _), wanted = gradient_of(c, logits[:2], target[:2], valid[:2])
    np.testing.assert_allclose(padded, alone, rtol=1e-6)
    np.testing.assert_allclose(gradient[:2], wanted, rtol=1e-5, atol=1e-9)
    assert not np.any(gradient[2:])


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
@pytest.mark.parametrize('batch_dice', [False, True])
def test_a_batch_of_padding_gives_0_and_no_gradient(activation, batch_dice):
    logits, target, valid = example(channels=2 + (activation == 'softmax'))
    (value, terms), gradient = gradient_of(config(activation, batch_dice=batch_dice), logits, target, 0 * valid)
    assert value == 0 and not np.any(gradient) and all(v == 0 for v in terms.values())


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
@pytest.mark.parametrize('gamma', [0.5, 2.0])
def test_large_logits_give_finite_values_and_gradients(activation, gamma):
    logits, target, valid = example(channels=2 + (activation == 'softmax'))
    (_, terms), gradient = gradient_of(config(activation, focal_gamma=gamma), 1e4 * logits, target, valid)
    assert np.all(np.isfinite(list(terms.values()))) and np.all(np.isfinite(gradient))


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
def test_a_perfect_prediction_costs_nothing_and_its_opposite_more_than_chance(activation):
    _, target, valid = example(channels=2)
    hot = losses.exclusive(target) if activation == 'softmax' else target
    right, wrong, chance = (total(config(activation), np.float32(k * (2.0 * hot - 1)), target, valid)[1]
                            for k in (50, -50, 0))
    for name in NAMES:
        assert right[name] < 1e-5 and wrong[name] > chance[name] > right[name], name


def test_an_empty_target_asks_for_an_empty_prediction():
    target = np.zeros((1, 8, 8, 1), bool)
    empty, full = (total(config(), np.full((1, 8, 8, 1), z, np.float32), target, ONE)[1] for z in (-20, 20))
    for name in ('dice', 'tversky', 'generalised_dice'):
        assert empty[name] < 1e-4 and full[name] > 0.95, name


def test_batch_dice_is_dice_of_the_samples_laid_side_by_side():
    logits, target, valid = example()
    side = losses.dice(np.concatenate(list(logits))[None], np.concatenate(list(target))[None], ONE,
                       activation='sigmoid')
    assert losses.dice(logits, target, valid, activation='sigmoid', batch=True) == pytest.approx(float(side), rel=1e-6)


def test_coarsen_takes_the_maximum_of_each_block_and_keeps_the_rest_at_the_edge():
    target = np.zeros((1, 5, 4, 1), bool)
    target[0, 1, 2] = target[0, 4, 0] = True
    assert losses.coarsen(target, (2, 2))[0, ..., 0].tolist() == [[0, 1], [0, 0], [1, 0]]
    assert losses.coarsen(np.ones((2, 7, 6, 5, 3), bool), (4, 4, 1)).shape == (2, 2, 2, 5, 3)


@pytest.mark.parametrize('activation', ['sigmoid', 'softmax'])
def test_deep_supervision_weighs_the_heads_by_halves(activation):
    c = config(activation, (('dice', 1.0), ('cross_entropy', 1.0)))
    _, target, valid = example(spatial=(7, 6))
    sizes = ((7, 6), (4, 3), (2, 2))
    heads = [example(k, spatial=s, channels=2 + (activation == 'softmax'))[0] for k, s in enumerate(sizes)]
    value, terms = total(c, heads, target, valid)
    each = [total(c, head, losses.coarsen(target, (2**k,) * 2) > 0, valid) for k, head in enumerate(heads)]
    assert value == pytest.approx(float((4 * each[0][0] + 2 * each[1][0] + each[2][0]) / 7), rel=1e-6)
    assert all(terms[name] == pytest.approx(float(each[0][1][name])) for name in ('dice', 'cross_entropy'))


def test_total_weighs_the_terms_and_reports_them_unweighted():
    logits, target, valid = example()
    value, terms = total(config(terms=(('dice', 2.0), ('cross_entropy', 0.5))), logits, target, valid)
    assert set(terms) == {'dice', 'cross_entropy'}
    assert value == pytest.approx(float(2 * terms['dice'] + 0.5 * terms['cross_entropy']))
    assert terms['dice'] == pytest.approx(reference('dice', logits, target, 'sigmoid'), rel=1e-5)


@pytest.mark.parametrize('fields, message', [
    ({'activation': 'tanh'}, 'tanh'), ({'terms': (('jaccard', 1.0),)}, 'jaccard'), ({'terms': ()}, 'terms'),
    ({'terms': (('dice', 1.0), ('dice', 2.0))}, 'once'), ({'activation': 'softmax'}, '3 output channels'),
    ({'class_weights': (1.0,)}, 'one for each of the 2 regions')])
def test_impossible_configs_are_refused(fields, message):
    logits, target, valid = example()
    with pytest.raises(InputError, match=message):
        losses.total(config(**fields), logits, target, valid)
