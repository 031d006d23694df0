"""The form of convolution for CPUs against XLA's own: values and both gradients."""
import jax
import numpy as np
import pytest
from jax import lax

from unet_jax.model import convolution
from unet_jax.model.convolution import by_planes, convolve

LAYOUT = ('NXYZC', 'XYZIO', 'NXYZC')


@pytest.mark.parametrize('shape', [(2, 8, 10, 6, 3), (1, 7, 9, 5, 2), (2, 1, 4, 4, 1)])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('side', [3, 5])
@pytest.mark.parametrize('few', [0, 8])
def test_planes_give_the_convolution_and_its_gradients(monkeypatch, shape, stride, side, few):
    monkeypatch.setattr(convolution, 'FEW', few)
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(*(side,) * 3, shape[-1], 4)).astype(np.float32)

    def plain(x, kernel):
        return lax.conv_general_dilated(x, kernel, (stride,) * 3, [(side // 2,) * 2] * 3, dimension_numbers=LAYOUT)

    expected, pull = jax.vjp(plain, x, kernel)
    found, pull_found = jax.vjp(lambda x, kernel: by_planes(x, kernel, stride), x, kernel)
    direction = rng.normal(size=expected.shape).astype(np.float32)
    for a, b in zip((found, *pull_found(direction)), (expected, *pull(direction)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('shape, kernel, layout', [((1, 8, 8, 2), (3, 3, 2, 4), ('NHWC', 'HWIO', 'NHWC')),
                                                   ((1, 4, 4, 4, 2), (1, 1, 1, 2, 4), LAYOUT)])
def test_two_dimensions_and_kernels_of_one_voxel_are_xla_s_own(shape, kernel, layout):
    def one(x, w):
        return convolve(x, w, (1,) * (len(shape) - 2), 'SAME', dimension_numbers=layout)

    program = jax.make_jaxpr(one)(np.ones(shape, np.float32), np.ones(kernel, np.float32))
    assert [e.primitive.name for e in program.eqns] == ['conv_general_dilated']


@pytest.mark.parametrize('shape, features', [((2, 8, 10, 3), 4), ((3, 7, 5, 6), 2), ((1, 12, 4, 4), 4)])
@pytest.mark.parametrize('side', [3, 5])
@pytest.mark.parametrize('chunk', [1, 3000, 1 << 20])
def test_the_gradient_of_a_kernel_is_that_matrix_product(monkeypatch, shape, features, side, chunk):
    monkeypatch.setattr(convolution, 'CHUNK', chunk)
    rng = np.random.default_rng(1)
    x, g = (rng.normal(size=(*shape[:-1], n)).astype(np.float32) for n in (shape[-1], features))
    kernel = rng.normal(size=(side, side, shape[-1], features)).astype(np.float32)
    expected, pull = jax.vjp(convolution.plain, x, kernel)
    np.testing.assert_allclose(convolution.kernel_gradient(x, g, side), pull(g)[1], rtol=1e-4, atol=1e-4)
    found, pull_found = jax.vjp(convolution.with_fast_gradient, x, kernel)
    np.testing.assert_array_equal(found, expected)
    for a, b in zip(pull_found(g), pull(g), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_large_images_take_the_matrix_product_on_old_jax_alone(monkeypatch):
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    images = np.ones((1, 8, 8, 2), np.float32), np.ones((3, 3, 2, 4), np.float32)
    for version, worth, expected in (((0, 10, 2), 0, True), ((0, 10, 2), 1e9, False), ((0, 12, 0), 0, False)):
        monkeypatch.setattr(jax, '__version_info__', version)
        monkeypatch.setattr(convolution, 'WORTH', worth)
        program = str(jax.make_jaxpr(lambda x, k: convolution.convolve_images(x, k, 1))(*images))
        assert ('custom_vjp' in program) == expected
