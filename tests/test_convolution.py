"""The form of convolution for CPUs against XLA's own: values and both gradients."""
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from configs.default import get_config
from unet_jax.model import convolution, unet
from unet_jax.model import convolution_cpu as cpu

LAYOUT = ('NXYZC', 'XYZIO', 'NXYZC')


def check(one, other, *arguments):
    """Values and gradients of two functions of float32 arrays."""
    expected, pull = jax.vjp(other, *arguments)
    found, pull_found = jax.vjp(one, *arguments)
    direction = np.random.default_rng(7).normal(size=expected.shape).astype(expected.dtype)
    for a, b in zip((found, *pull_found(direction)), (expected, *pull(direction)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('shape', [(2, 8, 10, 6, 3), (1, 7, 9, 5, 2), (2, 1, 4, 4, 1)])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('side', [3, 5])
@pytest.mark.parametrize('few', [0, 8])
def test_planes_give_the_convolution_and_its_gradients(monkeypatch, shape, stride, side, few):
    monkeypatch.setattr(cpu, 'FEW', few)
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(*(side,) * 3, shape[-1], 4)).astype(np.float32)

    def plain(x, kernel):
        return lax.conv_general_dilated(x, kernel, (stride,) * 3, [(side // 2,) * 2] * 3, dimension_numbers=LAYOUT)

    check(lambda x, kernel: cpu.by_planes(x, kernel, (stride,) * 3, cpu.on_one), plain, x, kernel)


@pytest.mark.parametrize('shape', [(2, 8, 4, 6, 3), (1, 7, 3, 5, 2), (2, 1, 4, 4, 1), (1, 2, 1, 1, 3)])
@pytest.mark.parametrize('wide', [1, 64])
def test_volumes_by_winograd_give_the_convolution_and_its_gradients(monkeypatch, shape, wide):
    """Also where the slices, wide enough, go the same way."""
    monkeypatch.setattr(cpu, 'FEW', 0)
    monkeypatch.setattr(cpu, 'WIDE', wide)
    rng = np.random.default_rng(2)
    x = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, shape[-1], 4)).astype(np.float32)

    def plain(x, kernel):
        return lax.conv_general_dilated(x, kernel, (1,) * 3, [(1, 1)] * 3, dimension_numbers=LAYOUT)

    def found(x, kernel):
        return convolution.ONE_CPU.convolve(x, kernel, (1,) * 3, 'SAME', dimension_numbers=LAYOUT)

    check(found, plain, x, kernel)
    products = str(jax.make_jaxpr(found)(x, kernel)).count('= conv_general_dilated')
    assert products == (16 if wide == 1 and np.prod(shape[:-1]) // 2 >= 16 else 4)


@pytest.mark.parametrize('shape', [(2, 8, 6, 64), (1, 15, 17, 64), (3, 1, 100, 65)])
@pytest.mark.parametrize('worth', [0, 1e12])
def test_wide_images_by_winograd_give_the_convolution_and_its_gradients(monkeypatch, shape, worth):
    """With and without the gradient of the kernel as a matrix product."""
    monkeypatch.setattr(cpu, 'WORTH', worth)
    rng = np.random.default_rng(3)
    x = rng.normal(size=shape).astype(np.float32)
    kernel = (0.1 * rng.normal(size=(3, 3, shape[-1], 64))).astype(np.float32)
    check(lambda x, kernel: cpu.on_one(x, kernel, (1, 1)), cpu.plain, x, kernel)
    few_pixels = np.prod(shape[:-1]) < 4 * 65
    program = str(jax.make_jaxpr(lambda x, k: cpu.on_one(x, k, (1, 1)))(x, kernel))
    assert program.count('= conv_general_dilated') == (1 if few_pixels else 4)


@pytest.mark.parametrize('shape, side, dtype', [((1, 32, 32, 64), 5, 'float32'), ((1, 32, 32, 63), 3, 'float32'),
                                                ((1, 32, 32, 64), 3, 'bfloat16')])
def test_other_sides_types_and_few_channels_do_without_winograd(monkeypatch, shape, side, dtype):
    monkeypatch.setattr(cpu, 'WORTH', 1e12)
    program = jax.make_jaxpr(lambda x, k: cpu.on_one(x, k, (1, 1)))(
        jnp.ones(shape, dtype), jnp.ones((side, side, shape[-1], 64), dtype))
    assert str(program).count('= conv_general_dilated') == 1


@pytest.mark.parametrize('sides', [(3, 3, 1), (1, 3, 3), (3, 1, 3)])
@pytest.mark.parametrize('strides', [(1, 1, 1), (2, 2, 1), (1, 2, 2)])
@pytest.mark.parametrize('few', [0, 8])
def test_kernels_and_strides_of_an_axis_of_their_own_give_the_convolution(monkeypatch, sides, strides, few):
    """Thick slices; also where kernels' gradients would go by the matrix product, which knows squares alone."""
    monkeypatch.setattr(cpu, 'FEW', few)
    monkeypatch.setattr(cpu, 'WORTH', 0)
    rng = np.random.default_rng(6)
    x = rng.normal(size=(2, 6, 7, 5, 3)).astype(np.float32)
    kernel = rng.normal(size=(*sides, 3, 4)).astype(np.float32)
    padding = [(side // 2, side // 2) for side in sides]

    def one(function):
        return lambda x, kernel: function(x, kernel, strides, padding, dimension_numbers=LAYOUT)

    check(one(convolution.ONE_CPU.convolve), one(lax.conv_general_dilated), x, kernel)


def test_the_product_and_its_gradients():
    rng = np.random.default_rng(4)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 4, 5), (5, 6)))
    check(cpu.product, lambda x, kernel: x @ kernel, x, kernel)
    half = jax.vjp(cpu.product, jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16))
    assert {y.dtype for y in (half[0], *half[1](half[0]))} == {jnp.dtype('bfloat16')}


@pytest.mark.parametrize('shape, kernel, layout', [((1, 8, 8, 2), (3, 3, 2, 4), ('NHWC', 'HWIO', 'NHWC')),
                                                   ((1, 4, 4, 4, 2), (1, 1, 1, 2, 4), LAYOUT)])
def test_on_several_cpus_two_dimensions_and_kernels_of_one_voxel_are_xla_s_own(shape, kernel, layout):
    def one(x, w):
        return convolution.CPUS.convolve(x, w, (1,) * (len(shape) - 2), 'SAME', dimension_numbers=layout)

    program = jax.make_jaxpr(one)(np.ones(shape, np.float32), np.ones(kernel, np.float32))
    assert [e.primitive.name for e in program.eqns] == ['conv_general_dilated']


@pytest.mark.parametrize('shape, features', [((2, 8, 10, 3), 4), ((3, 7, 5, 6), 2), ((1, 12, 4, 4), 4)])
@pytest.mark.parametrize('side', [3, 5])
@pytest.mark.parametrize('chunk', [1, 3000, 1 << 20])
def test_the_gradient_of_a_kernel_is_that_matrix_product(monkeypatch, shape, features, side, chunk):
    monkeypatch.setattr(cpu, 'CHUNK', chunk)
    rng = np.random.default_rng(1)
    x, g = (rng.normal(size=(*shape[:-1], n)).astype(np.float32) for n in (shape[-1], features))
    kernel = rng.normal(size=(side, side, shape[-1], features)).astype(np.float32)
    expected, pull = jax.vjp(cpu.plain, x, kernel)
    np.testing.assert_allclose(cpu.kernel_gradient(x, g, side), pull(g)[1], rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(cpu, 'WORTH', 0)
    monkeypatch.setattr(jax, '__version_info__', (0, 10, 2))
    found, pull_found = jax.vjp(cpu.alone, x, kernel)
    np.testing.assert_array_equal(found, expected)
    for a, b in zip(pull_found(g), pull(g), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_large_images_take_the_matrix_product_on_old_jax_alone(monkeypatch):
    images = np.ones((1, 8, 8, 2), np.float32), np.ones((3, 3, 2, 4), np.float32)
    for version, worth, expected in (((0, 10, 2), 0, True), ((0, 10, 2), 1e9, False), ((0, 12, 0), 0, False)):
        monkeypatch.setattr(jax, '__version_info__', version)
        monkeypatch.setattr(cpu, 'WORTH', worth)
        gradient = jax.grad(lambda k: cpu.on_one(images[0], k, (1, 1)).sum())
        assert ('scan' in str(jax.make_jaxpr(gradient)(images[1]))) == expected


@pytest.mark.parametrize('platform, count, name', [('tpu', 1, 'TPU'), ('cuda', 8, 'XLA'), ('rocm', 1, 'XLA'),
                                                   ('cpu', 1, 'ONE_CPU'), ('cpu', 8, 'CPUS')])
def test_the_form_is_that_of_the_devices_a_program_is_for(platform, count, name):
    """Not of this process, which has eight CPUs."""
    devices = [SimpleNamespace(platform=platform)] * count
    assert convolution.form(devices) is getattr(convolution, name)
    assert unet.for_devices(unet.build(get_config().model, 1), devices).form is getattr(convolution, name)


@pytest.mark.parametrize('spatial, fields', [
    ((16, 16), {'features': (64, 64)}), ((8, 8, 4), {}), ((8, 4, 8), {'downsample': 'max'}),
    ((8, 8, 3), {'strides': ((2, 2, 1), (2, 3, 1)), 'kernels': ((3, 3, 1), (3, 5, 3))})])
def test_the_accelerators_network_is_that_of_cpus_in_values_and_gradients(monkeypatch, spatial, fields):
    """Strides, kernels of one voxel and up-sampling among them; the CPU's own forms are taken wherever they can be."""
    monkeypatch.setattr(cpu, 'WORTH', 0)
    config = get_config().model
    with config.unlocked():
        config.update({'features': (10, 12), 'encoder_blocks': (1, 3), 'decoder_blocks': (1,), 'block': 'residual'}
                      | fields)
    module = unet.build(config, 2)
    params = unet.init(module, jax.random.key(0), spatial, 9)
    image = np.random.default_rng(5).normal(size=(2, *spatial, 9)).astype(np.float32)
    found = []
    for form in (convolution.XLA, convolution.TPU, convolution.ONE_CPU, convolution.CPUS):
        one = module.clone(form=form)
        loss = jax.value_and_grad(lambda params, x, m=one: jnp.square(unet.apply(m, params, x) - 1).mean(), (0, 1))
        programs = str(jax.make_jaxpr(loss)(params, image))
        squares = all(len(set(kernel[-2:])) == 1 for kernel in module.kernels)  # the chunks are for those
        by_chunks = form is convolution.ONE_CPU and squares and jax.__version_info__ < (0, 11)
        assert ('scan' in programs) == (by_chunks or form is convolution.TPU)
        found.append(jax.tree.leaves(jax.jit(loss)(params, image)))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())
