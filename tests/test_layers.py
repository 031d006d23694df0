import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax.model import norm
from unet_jax.model.convolution import ONE_CPU, XLA
from unet_jax.model.layers import Normalise, UpSample, depth_to_space, pool, space_to_depth


def picture(spatial, batch=2, channels=2):
    return np.random.default_rng(0).normal(0, 1, (batch, *spatial, channels)).astype(np.float32)


@pytest.mark.parametrize('d', [2, 3])
@pytest.mark.parametrize('form', [XLA, ONE_CPU], ids=['XLA', 'CPU'])
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
