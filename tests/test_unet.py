import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.signal import correlate

from unet_jax.errors import InputError
from unet_jax.model import unet


def config(**fields):
    return ConfigDict({
        'features': (4, 6, 8), 'encoder_blocks': (1, 1, 1), 'decoder_blocks': (1, 1), 'block': 'plain',
        'norm': 'instance', 'groups': 2, 'activation': 'leaky_relu', 'downsample': 'conv', 'stem': 1,
        'strides': (), 'kernels': (), 'attention_gates': False, 'deep_supervision': 0, 'dtype': 'float32',
        'remat': False} | fields)


def network(spatial, channels=2, seed=0, **fields):
    """→ module, params with every bias and scale away from its initial value."""
    module = unet.build(config(**fields), 3)
    params = unet.init(module, jax.random.key(seed), spatial, channels)
    rng = np.random.default_rng(seed)
    return module, jax.tree.map(lambda x: x + (x.ndim == 1) * np.float32(rng.normal(0, 0.3, x.shape)), params)


def picture(spatial, batch=2, channels=2, seed=1):
    return np.random.default_rng(seed).normal(0, 1, (batch, *spatial, channels)).astype(np.float32)


apply = jax.jit(unet.apply, static_argnums=0)
apply_deep = jax.jit(unet.apply_deep, static_argnums=0)


# The reference: one image (*S, C) at a time, float64, written from the definitions with loops.

def ref_conv(x, p, stride):
    kernel = np.asarray(p['kernel'], np.float64)
    x = np.pad(x, [(s // 2, s // 2) for s in kernel.shape[:-2]] + [(0, 0)])
    maps = [sum(correlate(x[..., c], kernel[..., c, f], 'valid', 'direct') for c in range(x.shape[-1]))
            for f in range(kernel.shape[-1])]
    y = np.stack(maps, -1)[tuple(slice(None, None, n) for n in stride)]
    return y + np.asarray(p.get('bias', 0.0), np.float64)


def ref_norm(x, p, groups):
    y = np.empty_like(x)
    size = x.shape[-1] // groups
    for g in range(groups):
        part = x[..., g * size:(g + 1) * size]
        y[..., g * size:(g + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    return y * np.asarray(p['scale'], np.float64) + np.asarray(p['bias'], np.float64)


def ref_unit(x, p, c, stride):
    y = ref_conv(x, p['conv'], stride)
    return y if c.norm == 'none' else ref_norm(y, p['norm'], c.groups if c.norm == 'group' else y.shape[-1])


def ref_act(x, c):
    return {'leaky_relu': np.where(x > 0, x, 0.01 * x), 'relu': np.maximum(x, 0), 'tanh': np.tanh(x),
            'silu': x / (1 + np.exp(-x))}[c.activation]


def ref_pool(x, reduce, sides):
    y = np.empty([s // n for s, n in zip(x.shape[:-1], sides, strict=True)] + [x.shape[-1]])
    for index in np.ndindex(*y.shape[:-1]):
        block = x[tuple(slice(n * i, n * i + n) for i, n in zip(index, sides, strict=True))]
        y[index] = reduce(block.reshape(-1, x.shape[-1]), 0)
    return y


def ref_block(x, p, c, stride):
    y = ref_act(ref_unit(x, p['first'], c, stride), c)
    if c.block == 'plain':
        return y
    once = (1,) * len(stride)
    y = ref_unit(y, p['second'], c, once)
    x = ref_pool(x, np.mean, stride)
    return ref_act(y + (ref_unit(x, p['skip'], c, once) if 'skip' in p else x), c)


def ref_blocks(x, params, name, count, c, stride):
    for k in range(count):
        x = ref_block(x, params[f'{name}_block_{k}'], c, stride if k == 0 else (1,) * len(stride))
    return x


def ref_up(y, block):
    """Every pixel becomes a block of these sides: its channels, in equal parts, go to the block's positions."""
    out = np.empty([s * n for s, n in zip(y.shape[:-1], block, strict=True)] + [y.shape[-1] // int(np.prod(block))])
    for k, offset in enumerate(np.ndindex(*block)):
        places = tuple(slice(o, None, n) for o, n in zip(offset, block, strict=True))
        out[places] = y[..., k * out.shape[-1]:(k + 1) * out.shape[-1]]
    return out


def ref_down(x, block):
    return np.concatenate([x[tuple(slice(o, None, n) for o, n in zip(offset, block, strict=True))]
                           for offset in np.ndindex(*block)], -1)


def ref_enlarged(x, axis, factor):
    """Linear interpolation to so many times the size, pixel centres at ½, beyond the outermost centres constant."""
    n = x.shape[axis]
    at = (np.arange(factor * n) + 0.5) / factor - 0.5
    return np.apply_along_axis(lambda line: np.interp(at, np.arange(n), line), axis, x)


def ref_gate(x, g, p, block):
    q = ref_down(x, block) @ np.asarray(p['skip']['kernel'], np.float64) + g @ p['gate']['kernel'] + p['gate']['bias']
    alpha = 1 / (1 + np.exp(-(np.maximum(q, 0) @ p['psi']['kernel'] + p['psi']['bias'])))
    for axis, factor in enumerate(block):
        alpha = ref_enlarged(alpha, axis, factor)
    return x * alpha


def ref_unet(image, params, c):
    last, size = len(c.features) - 1, image.shape[:-1]
    d = len(size)
    given = np.array(c.strides or ((1,) * d, *((2,) * d,) * last))
    strides, once, stem = list(map(tuple, given)), (1,) * d, tuple(c.stem * given[0])
    whole = c.stem * given.prod(0)
    x = np.pad(image.astype(np.float64), [(0, -s % n) for s, n in zip(size, whole, strict=True)] + [(0, 0)], 'edge')
    x = ref_down(x, stem)
    skips, logits = [], []
    for level in range(last + 1):
        stride = strides[level] if level and c.downsample == 'conv' else once
        x = ref_pool(x, np.max, strides[level]) if level and c.downsample == 'max' else x
        x = ref_blocks(x, params, f'encoder_{level}', c.encoder_blocks[level], c, stride)
        skips.append(x)
    for level in range(last - 1, -1, -1):
        skip = skips[level]
        if c.attention_gates:
            skip = ref_gate(skip, x, params[f'gate_{level}'], strides[level + 1])
        up = params[f'up_{level}']
        x = ref_up(x @ np.asarray(up['dense']['kernel'], np.float64), strides[level + 1]) + np.asarray(up['bias'])
        x = ref_blocks(np.concatenate([skip, x], -1), params, f'decoder_{level}', c.decoder_blocks[level], c, once)
        if level <= c.deep_supervision:
            head = params[f'head_{level}']
            y = ref_up(x @ np.asarray(head['kernel'], np.float64) + np.asarray(head['bias']), stem)
            factors = given[1:level + 1].prod(0)
            logits.insert(0, y[tuple(slice(int(np.ceil(s / n))) for s, n in zip(size, factors, strict=True))])
    return logits


@pytest.mark.parametrize('spatial, fields', [
    ((7, 10), {'encoder_blocks': (2, 1, 1), 'decoder_blocks': (1, 2)}),
    ((8, 12), {'block': 'residual', 'norm': 'group', 'activation': 'silu', 'encoder_blocks': (2, 1, 1)}),
    ((9, 6), {'norm': 'none', 'downsample': 'max', 'activation': 'relu'}),
    ((13, 18), {'block': 'residual', 'downsample': 'max', 'attention_gates': True, 'deep_supervision': 1, 'stem': 2}),
    ((5, 6, 7), {'activation': 'tanh', 'deep_supervision': 1}),
    ((6, 5, 9), {'features': (4, 6), 'encoder_blocks': (1, 1), 'decoder_blocks': (1,), 'block': 'residual',
                 'norm': 'group', 'attention_gates': True, 'stem': 2}),
    ((4, 6, 5), {'norm': 'none', 'downsample': 'max', 'block': 'residual'}),
    ((9, 6, 3), {'strides': ((1, 1, 1), (2, 2, 1), (3, 2, 2)), 'kernels': ((3, 3, 1), (5, 3, 1), (3, 3, 3)),
                 'deep_supervision': 1, 'attention_gates': True}),
    ((5, 12), {'strides': ((1, 2), (2, 3), (1, 2)), 'kernels': ((1, 3), (3, 3), (3, 1)), 'stem': 2,
               'block': 'residual'}),
    ((8, 9), {'strides': ((1, 1), (1, 2), (2, 1)), 'downsample': 'max', 'block': 'residual'})])
def test_the_network_agrees_with_a_float64_reference_weight_for_weight(spatial, fields):
    module, params = network(spatial, **fields)
    image = picture(spatial)
    found = apply_deep(module, params, image)
    for sample in range(len(image)):
        wanted = ref_unet(image[sample], params, config(**fields))
        assert len(found) == len(wanted) == 1 + fields.get('deep_supervision', 0)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a[sample], b, atol=1e-4)


@pytest.mark.parametrize('spatial', [(9, 6), (5, 6, 7)])
def test_strides_and_kernels_written_out_are_the_same_network_bit_for_bit(spatial):
    d, image = len(spatial), picture(spatial)
    found = []
    for fields in ({}, {'strides': ((1,) * d, (2,) * d, (2,) * d), 'kernels': ((3,) * d,) * 3}):
        module, params = network(spatial, deep_supervision=1, block='residual', **fields)
        found.append((params, apply_deep(module, params, image)))
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_the_published_unet_has_31030658_parameters():
    """Ronneberger et al. 2015, figure 1, with one input channel and two classes; each convolution has a bias."""
    def conv(k, a, b):
        return k * k * a * b + b

    widths = (64, 128, 256, 512, 1024)
    down = sum(conv(3, a, b) + conv(3, b, b) for a, b in zip((1, *widths), widths, strict=False))
    up = sum(conv(2, 2 * b, b) + conv(3, 2 * b, b) + conv(3, b, b) for b in widths[:-1])
    assert down + up + conv(1, 64, 2) == 31_030_658
    module = unet.build(config(features=widths, encoder_blocks=(2,) * 5, decoder_blocks=(2,) * 4, norm='none',
                               downsample='max', activation='relu'), 2)
    params = jax.eval_shape(lambda key: unet.init(module, key, (16, 16), 1), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(params)) == 31_030_658


@pytest.mark.parametrize('spatial', [(1, 1), (37, 23), (3, 5, 17)])
def test_any_size_comes_back_as_float32_logits_of_that_size(spatial):
    for dtype in ('float32', 'bfloat16'):
        module = unet.build(config(stem=2, deep_supervision=1, dtype=dtype), 3)
        params = jax.eval_shape(lambda k, m=module: unet.init(m, k, spatial, 1), jax.random.key(0))
        image = jax.ShapeDtypeStruct((2, *spatial, 1), jnp.float32)
        fine, coarse = jax.eval_shape(lambda p, x, m=module: unet.apply_deep(m, p, x), params, image)
        assert fine.shape == (2, *spatial, 3) and coarse.shape == (2, *((s + 1) // 2 for s in spatial), 3)
        assert fine.dtype == coarse.dtype == jnp.float32
        assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}


def test_odd_sizes_are_padded_by_the_edge_and_cut_again():
    module, params = network((13, 10))
    image = picture((13, 10))
    padded = np.pad(image, [(0, 0), (0, 3), (0, 2), (0, 0)], 'edge')
    np.testing.assert_allclose(apply(module, params, image), apply(module, params, padded)[:, :13, :10], atol=1e-5)


def test_apply_gives_the_finest_of_the_deep_logits():
    module, params = network((8, 8), deep_supervision=1)
    image = picture((8, 8))
    np.testing.assert_allclose(apply(module, params, image), apply_deep(module, params, image)[0], atol=1e-5)


def test_samples_do_not_see_each_other():
    module, params = network((16, 16), block='residual')
    image = picture((16, 16), batch=4)
    logits = np.asarray(apply(module, params, image))
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(apply(module, params, image[order]), logits[order], atol=1e-5)
    changed = image.copy()
    changed[1] = 1e3
    found = np.asarray(apply(module, params, changed))
    np.testing.assert_allclose(found[[0, 2, 3]], logits[[0, 2, 3]], atol=1e-5)
    assert np.abs(found[1] - logits[1]).max() > 1e-3


def test_without_norm_a_shift_by_the_coarsest_pixel_shifts_the_logits():
    module, params = network((64, 64), norm='none', activation='tanh', stem=2)
    image = picture((72, 64), batch=1)
    a, b = (apply(module, params, image[:, k:k + 64]) for k in (0, 8))  # 8 = stem · 2² rows
    scale = np.abs(a).max()
    np.testing.assert_allclose(a[:, 32:40, 24:40], b[:, 24:32, 24:40], atol=1e-5 * scale)
    assert np.abs(a[:, 32:40] - b[:, 32:40]).max() > 1e-2 * scale


def test_bfloat16_is_close_to_float32():
    module, params = network((16, 16))
    half = unet.build(config(dtype='bfloat16'), 3)
    image = picture((16, 16))
    full = apply(module, params, image)
    error = np.abs(apply(half, params, image) - full)
    assert 0 < error.max() < 0.05 * np.abs(full).max()


def test_remat_changes_neither_parameters_nor_gradients():
    image = picture((8, 8))
    found = []
    for remat in (False, True):
        module, params = network((8, 8), remat=remat, features=(4, 6), encoder_blocks=(1, 1), decoder_blocks=(1,))
        found.append(jax.jit(jax.grad(lambda p, m=module: jnp.square(unet.apply(m, p, image)).mean()))(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *found)


def test_initial_weights_have_he_variance_and_the_heads_are_small():
    module = unet.build(config(features=(32, 64, 64)), 3)
    params = unet.init(module, jax.random.key(0), (8, 8), 2)
    kernel = params['encoder_2_block_0']['first']['conv']['kernel']  # (3, 3, 64, 64): 36,864 numbers
    assert kernel.std() == pytest.approx(np.sqrt(2 / 1.0001 / (9 * 64)), rel=0.02)
    assert abs(kernel.mean()) < 4 * kernel.std() / np.sqrt(kernel.size)
    up = params['up_1']['dense']['kernel']
    assert up.std() == pytest.approx(np.sqrt(1 / 64), rel=0.02)
    assert params['head_0']['kernel'].std() == pytest.approx(0.01, rel=0.3)
    norm = params['encoder_0_block_0']['first']['norm']
    assert np.all(norm['scale'] == 1) and np.all(norm['bias'] == 0) and np.all(params['head_0']['bias'] == 0)


def test_the_key_decides_the_initial_weights():
    module = unet.build(config(), 3)
    a, b, c = (unet.init(module, jax.random.key(k), (8, 8), 2) for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    kernels = [x['encoder_0_block_0']['first']['conv']['kernel'] for x in (a, c)]
    assert np.all(kernels[0] != kernels[1])


@pytest.mark.parametrize('fields, message', [
    ({'features': ()}, 'features'), ({'features': (4, 0, 8)}, 'features'), ({'encoder_blocks': (1, 1)}, '3 whole'),
    ({'decoder_blocks': (1, 1, 1)}, 'decoder_blocks.*2 whole'), ({'block': 'dense'}, 'dense.*plain, residual'),
    ({'norm': 'batch'}, 'batch'), ({'norm': 'group', 'groups': 4}, 'divide'),
    ({'norm': 'group', 'groups': 0}, 'groups'), ({'activation': 'one_hot'}, 'one_hot'),
    ({'downsample': 'mean'}, 'mean'), ({'stem': 0}, 'stem'),
    ({'strides': ((1, 1), (2, 2))}, 'strides.*each of the 3 levels'), ({'kernels': ((3, 3),)}, 'kernels'),
    ({'deep_supervision': 2}, '1 coarser'), ({'dtype': 'float16'}, 'float16')])
def test_impossible_configs_are_refused_by_field_and_value(fields, message):
    with pytest.raises(InputError, match=message):
        unet.build(config(**fields), 3)


def test_a_network_without_outputs_or_with_a_flat_image_is_refused():
    with pytest.raises(InputError, match='0 output channels'):
        unet.build(config(), 0)
    module, params = network((8, 8))
    with pytest.raises(InputError, match=r'\(8, 8, 2\)'):
        unet.apply(module, params, np.zeros((8, 8, 2), np.float32))


@pytest.mark.parametrize('size, fields, learns', [
    ((4, 4), {}, False), ((4, 5), {}, True), ((4, 4), {'norm': 'group'}, True),
    ((4, 4), {'norm': 'group', 'groups': 2, 'features': (4, 6, 2)}, False)])
def test_a_deepest_level_of_one_pixel_learns_nothing_and_is_refused(size, fields, learns):
    """The gradient of its kernels is 0 exactly where `check_size` refuses."""
    module, params = network(size, **fields)
    image = picture(size)
    gradient = jax.jit(jax.grad(lambda p: jnp.square(unet.apply(module, p, image)).sum()))(params)
    kernel = gradient['encoder_2_block_0']['first']['conv']['kernel']
    assert bool(jnp.abs(kernel).max() > 1e-6) == learns
    if learns:
        unet.check_size(config(**fields), size)
        return
    with pytest.raises(InputError, match='config.data.size.*deepest of 3 levels is 4 times smaller, 1 × 1 pixel'):
        unet.check_size(config(**fields), size)


def test_the_size_of_the_deepest_level_counts_the_stem_and_all_axes():
    unet.check_size(config(stem=2), (8, 9))
    unet.check_size(config(norm='none'), (1, 1))
    for size, fields in (((8, 8), {'stem': 2}), ((3, 4, 2), {})):
        with pytest.raises(InputError, match='it learns nothing'):
            unet.check_size(config(**fields), size)
