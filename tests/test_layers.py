import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax.model import norm, norm_accelerator
from unet_jax.model.convolution import ONE_CPU, TPU, XLA
from unet_jax.model.expand import dense, depth_to_space, dilated, space_to_depth
from unet_jax.model.layers import Normalise, UpSample, pool


def picture(spatial, batch=2, channels=2):
    return np.random.default_rng(0).normal(0, 1, (batch, *spatial, channels)).astype(np.float32)


@pytest.mark.parametrize('d', [2, 3])
@pytest.mark.parametrize('form', [XLA, TPU, ONE_CPU], ids=['XLA', 'TPU', 'CPU'])
def test_up_sampling_is_the_transposed_convolution_of_stride_and_kernel_2(d, form):
    kernel = picture((2,) * d, batch=5, channels=3).transpose(*range(1, d + 1), 0, d + 1)  # (*2, 5, 3)
    bias = np.arange(3, dtype=np.float32)
    x = picture((3, 4, 2)[:d], channels=5)
    axes = 'N' + 'HWD'[:d] + 'C', 'HWD'[:d] + 'IO', 'N' + 'HWD'[:d] + 'C'
    mirrored = np.flip(kernel, range(d))  # lax.conv_transpose correlates; a transposed convolution mirrors
    wanted = jax.lax.conv_transpose(x, mirrored, (2,) * d, 'VALID', dimension_numbers=axes) + bias
    dense = np.moveaxis(kernel, -2, 0).reshape(5, -1)
    found = UpSample(3, jnp.dtype('float32'), form, (2,) * d).apply(
        {'params': {'dense': {'kernel': dense}, 'bias': bias}}, x)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_space_to_depth_and_back_is_the_identity():
    for spatial in ((4, 6), (2, 4, 6)):
        x = picture(spatial)
        blocks = space_to_depth(x, (2,) * len(spatial))
        assert blocks.shape == (2, *(s // 2 for s in spatial), 2 * 2 ** len(spatial))
        np.testing.assert_array_equal(depth_to_space(blocks, (2,) * len(spatial)), x)


def test_pooling_by_hand():
    x = np.arange(16.0).reshape(1, 4, 4, 1)
    assert pool(x, jnp.max, (2, 2))[0, ..., 0].tolist() == [[5, 7], [13, 15]]
    assert pool(x, jnp.mean, (2, 2))[0, ..., 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_norm_statistics_are_float32_under_bfloat16_and_survive_a_large_mean():
    x = picture((64, 64), batch=1, channels=4)
    module = Normalise(2)
    params = module.init(jax.random.key(0), x)
    far = module.apply(params, x + np.float32(1e4))
    np.testing.assert_allclose(far, module.apply(params, x + np.float32(1e4) - np.float32(1e4)), atol=2e-2)
    half = jnp.asarray(x + 8, jnp.bfloat16)
    found = module.apply(params, half)
    groups = np.asarray(half, np.float64).reshape(-1, 2, 2)  # (pixels, groups, channels of a group)
    wanted = (groups - groups.mean((0, 2), keepdims=True)) / groups.std((0, 2), keepdims=True)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64).reshape(-1, 2, 2), wanted, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize('groups', [None, 1, 2])
@pytest.mark.parametrize('spatial', [(6, 5), (4, 3, 2)])
def test_the_norm_s_gradient_is_that_of_its_forward_pass(groups, spatial):
    x = picture(spatial, batch=2, channels=4)
    scale, bias = np.float32([1.5, -0.5, 2, 1]), np.float32([0, 1, -1, 3])
    direction = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    _, pull = jax.vjp(lambda *given: norm.forward(*given, groups)[0], x, scale, bias)
    _, pull_found = jax.vjp(lambda *given: norm.normalise(*given, groups), x, scale, bias)
    for found, wanted in zip(pull_found(direction), pull(direction), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    half = jax.vjp(lambda x: norm.normalise(x, scale, bias, groups), jnp.bfloat16(x))[1](jnp.bfloat16(direction))[0]
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(half), pull(direction)[0], rtol=0.1, atol=0.1)


@pytest.mark.parametrize('groups', [None, 2])
@pytest.mark.parametrize('activation', ['leaky_relu', 'gelu', None])
@pytest.mark.parametrize('added', [False, True])
def test_the_norm_of_accelerators_is_that_of_cpus_with_its_sum_and_activation(groups, activation, added):
    """Values and all gradients in float32, and in bfloat16 as far as that has digits."""
    x, skip, direction = (np.random.default_rng(k).normal(size=(2, 6, 5, 4)).astype(np.float32) for k in range(3))
    given = [x + 3, np.float32([1.5, -0.5, 2, 1]), np.float32([0, 1, -1, 3]), skip if added else None]
    half = [None if a is None else jnp.bfloat16(a) if a.ndim > 1 else a for a in given]
    wanted, pull = jax.vjp(lambda *a: norm.and_activate(*a, groups, activation), *given)
    for inputs, off in ((given, 1e-4), (half, 0.1)):
        found, pull_found = jax.vjp(lambda *a: norm_accelerator.normalise(*a, groups, activation), *inputs)
        assert found.dtype == inputs[0].dtype
        np.testing.assert_allclose(np.float32(found), wanted, rtol=off, atol=off / 2)
        gradients = pull_found(jnp.asarray(direction, found.dtype))
        for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(pull(direction))):
            np.testing.assert_allclose(np.float32(one), other, rtol=off, atol=off)


def test_one_pass_over_bfloat16_keeps_the_variance_of_a_mean_far_from_0_and_of_a_constant():
    x = jnp.bfloat16(picture((64, 64), batch=1, channels=4) + 30)
    found = norm_accelerator.normalise(x, jnp.ones(4), jnp.zeros(4), None, None, None)
    wide = np.asarray(x, np.float64)
    wanted = (wide - wide.mean((1, 2))) / wide.std((1, 2))
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=2**-7, atol=2e-3)
    flat = norm_accelerator.normalise(jnp.full_like(x, 30), jnp.ones(4), jnp.zeros(4), None, None, None)
    assert np.abs(np.float32(flat)).max() < 1e-2


@pytest.mark.parametrize('block, spatial', [
    ((1, 1), (4, 3)), ((2, 2), (4, 3)), ((4, 4), (2, 3)), ((2, 2, 2), (2, 3, 4)), ((1, 2, 4), (4, 3, 2))])
def test_the_expanding_convolution_is_the_dense_layer_with_values_and_gradients(block, spatial):
    x, width = picture(spatial, channels=5), math.prod(block) * 3
    kernel, bias = np.random.default_rng(1).normal(size=(6, width)).astype(np.float32)[:5], np.ones(width, 'f4')
    larger = [s * n for s, n in zip(spatial, block)]
    direction = np.random.default_rng(3).normal(size=(2, *larger, 3)).astype(np.float32)
    wanted, pull = jax.vjp(lambda *a: dense(*a, block), x, kernel, bias)
    found, pull_found = jax.vjp(lambda *a: dilated(*a, block), x, kernel, bias)
    for one, other in zip((found, *pull_found(direction)), (wanted, *pull(direction))):
        np.testing.assert_allclose(one, other, atol=1e-4)
    np.testing.assert_allclose(dilated(x, kernel, None, block), dense(x, kernel, None, block), atol=1e-5)
