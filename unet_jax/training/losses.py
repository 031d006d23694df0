"""Losses on logits, written so that padding counts for nothing and large logits stay finite.

Shapes: logits (B, *S, K), target (B, *S, K) bool or float, 0 or 1, valid (B,) nonzero for samples that count. With
'sigmoid' the K channels are the R regions, which may overlap. With 'softmax' K = R + 1, background first, and each
pixel belongs to one channel (`exclusive` makes such targets). Every loss is the mean over valid samples, 0 for a batch
without any.
"""
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from unet_jax.errors import InputError

SMOOTH = 1.0  # pixels, added to numerator and denominator of Dice: an empty target asks for an empty prediction


def exclusive(target: jax.Array, order: Sequence[int] = ()) -> jax.Array:
    """Region masks (B, *S, R) -> one-hot float32 (B, *S, R + 1), background first; of the regions of a pixel the one
    that comes last in `order` wins (their own order by default).

    With the outer ones first (`labels.outer_first`) nested regions (WT ⊃ TC ⊃ ET) become the shells between them.
    """
    order = np.asarray(order or range(target.shape[-1]))
    rank = np.argsort(order) + 1
    last = jnp.max((target > 0) * rank, axis=-1)  # 0 in the background
    return jax.nn.one_hot(jnp.asarray([0, *(order + 1)])[last], target.shape[-1] + 1)


def coarsen(target: jax.Array, block: Sequence[int]) -> jax.Array:
    """(B, *S, R) -> (B, *⌈S / block⌉, R) float32: the maximum of each block with these sides, so that no lesion
    vanishes."""
    window = (1, *block, 1)
    padding = [(0, 0), *((0, -s % side) for s, side in zip(target.shape[1:-1], block, strict=True)), (0, 0)]
    return jax.lax.reduce_window(target.astype(jnp.float32), 0.0, jax.lax.max, window, window, padding)


def cross_entropy(logits: jax.Array, target: jax.Array, valid: jax.Array, *, activation: str,
                  weights: Sequence[float] = ()) -> jax.Array:
    """Mean over pixels: binary per region, and then over regions (sigmoid), or categorical (softmax).

    weights: of each region, () for all alike; see `weighted`.
    """
    return over_valid(weighted(pixel_entropy(logits, target, valid, activation), target, weights, activation), valid)


def focal(logits: jax.Array, target: jax.Array, valid: jax.Array, *, activation: str, gamma: float,
          weights: Sequence[float] = ()) -> jax.Array:
    """(1 − p_t)^γ · −log p_t (Lin et al. 2017, eq. 4), α being `weights`; γ = 0 is cross-entropy."""
    entropy = pixel_entropy(logits, target, valid, activation)
    # p_t = exp(−entropy); the floor keeps the power's gradient finite at p_t = 1 where γ < 1
    loss = jnp.maximum(-jnp.expm1(-entropy), 1e-7) ** gamma * entropy
    return over_valid(weighted(loss, target, weights, activation), valid)


def weighted(loss: jax.Array, target: jax.Array, weights: Sequence[float], activation: str) -> jax.Array:
    """The loss of pixels times the weight of its region, (B, *S, R), or of the true channel, (B, *S) for softmax,
    whose background has weight 1. Weights of regions count by their share of their mean, so all alike are none."""
    if not weights:
        return loss
    weight = jnp.asarray(weights, jnp.float32) / float(np.mean(weights))
    if activation == 'sigmoid':
        return loss * weight
    return loss * (target[..., 0] + target[..., 1:] @ weight)


def dice(logits: jax.Array, target: jax.Array, valid: jax.Array, *, activation: str, batch: bool = False) -> jax.Array:
    """1 − (2 Σpt + s) / (Σp + Σt + s), s = SMOOTH, mean over samples and regions; without softmax's background.

    Milletari et al. 2016, section 3, with plain instead of squared terms below the line, as in Isensee et al. 2021
    (nnU-Net). `batch`: the sums run over the whole batch as if it were one image.
    """
    return tversky(logits, target, valid, activation=activation, weights=(0.5, 0.5), batch=batch)


def tversky(logits: jax.Array, target: jax.Array, valid: jax.Array, *, activation: str, weights: tuple[float, float],
            batch: bool = False) -> jax.Array:
    """1 − TP / (TP + α FP + β FN), (α, β) = `weights` (Salehi et al. 2017, eq. 4); (½, ½) is Dice.

    SMOOTH / 2 is added above and below the line. Sums, regions and `batch` as for `dice`.
    """
    p, t = probabilities(logits, valid, activation), kept(target, valid)
    if activation == 'softmax':
        p, t = p[..., 1:], t[..., 1:]
    hit, predicted, true = (image_sums(x, batch) for x in (p * t, p, t))
    alpha, beta = weights
    index = (hit + SMOOTH / 2) / (hit + alpha * (predicted - hit) + beta * (true - hit) + SMOOTH / 2)
    return over_valid(1 - index, valid, batch)


def generalised_dice(logits: jax.Array, target: jax.Array, valid: jax.Array, *, activation: str,
                     batch: bool = False) -> jax.Array:
    """1 − (2 Σ_k w_k Σpt + s) / (Σ_k w_k Σ(p + t) + s), w_k ∝ 1 / (Σt)² (Sudre et al. 2017, eq. 4).

    All channels take part, softmax's background too. A region without a pixel is weighted as if it had one; the
    weights are scaled so that the rarest region's is 1, and s = SMOOTH counts its pixels. One region: Dice.
    """
    p, t = probabilities(logits, valid, activation), kept(target, valid)
    hit, predicted, true = (image_sums(x, batch) for x in (p * t, p, t))
    size = jnp.maximum(true, 1)
    weight = (size.min(-1, keepdims=True) / size) ** 2
    index = (2 * (weight * hit).sum(-1) + SMOOTH) / ((weight * (predicted + true)).sum(-1) + SMOOTH)
    return over_valid(1 - index, valid, batch)


# name in config.loss.terms: (logits, target, valid, config.loss) -> the loss ()
LOSSES = {
    'cross_entropy': lambda z, t, v, c: cross_entropy(z, t, v, activation=c.activation, weights=c.class_weights),
    'focal': lambda z, t, v, c: focal(z, t, v, activation=c.activation, gamma=c.focal_gamma, weights=c.class_weights),
    'dice': lambda z, t, v, c: dice(z, t, v, activation=c.activation, batch=c.batch_dice),
    'tversky': lambda z, t, v, c: tversky(z, t, v, activation=c.activation, weights=c.tversky, batch=c.batch_dice),
    'generalised_dice': lambda z, t, v, c: generalised_dice(z, t, v, activation=c.activation, batch=c.batch_dice),
}


def total(config: ConfigDict, logits: jax.Array | Sequence[jax.Array], target: jax.Array, valid: jax.Array,
          order: Sequence[int] = (), factors: Sequence[tuple[int, ...]] = ()
          ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted sum of `config.terms` (config is config.loss), and each term by name, unweighted.

    target: region masks (B, *S, R); `order` as for `exclusive`. With a list of logits (deep supervision, finest first,
    head k of size ⌈S / factors[k]⌉, by default along each axis 2^k) the heads count 1, 1/2, 1/4 … over their sum, and
    the terms are those of the finest. Raises InputError for an unknown term or activation, and where the number of
    logits does not fit the regions.
    """
    heads = list(logits) if isinstance(logits, (list, tuple)) else [logits]
    check_loss(config, heads[0].shape[-1], target.shape[-1])
    values = []
    for k, head in enumerate(heads):
        goal = target if k == 0 else coarsen(target, factors[k] if factors else (2**k,) * (target.ndim - 2))
        goal = exclusive(goal, order) if config.activation == 'softmax' else goal
        values.append({name: LOSSES[name](head, goal, valid, config) for name, _ in config.terms})
    sums = [sum(weight * value[name] for name, weight in config.terms) for value in values]
    share = [2.0**-k for k in range(len(heads))]
    return sum(w * s for w, s in zip(share, sums, strict=True)) / sum(share), values[0]


def check_loss(config: ConfigDict, channels: int, regions: int) -> None:
    if config.activation not in ('sigmoid', 'softmax'):
        raise InputError(f'config.loss.activation = {config.activation!r}: choose sigmoid or softmax')
    names = [name for name, _ in config.terms]
    if not set(names) <= set(LOSSES) or not names or len(set(names)) < len(names):
        raise InputError(f'config.loss.terms = {config.terms}: give each once, as (name, weight), of '
                         + ', '.join(LOSSES))
    weights = tuple(config.class_weights)
    if len(weights) not in (0, regions):
        raise InputError(f'config.loss.class_weights = {weights}: give one for each of the {regions} regions, or () '
                         'for all alike')
    wanted = regions + (config.activation == 'softmax')
    if channels != wanted:
        raise InputError(f'{channels} logits a pixel for {regions} regions with config.loss.activation = '
                         f'{config.activation!r}: build the network with {wanted} output channels')


def kept(x: jax.Array, valid: jax.Array) -> jax.Array:
    """x (B, …) as float32, 0 in padding samples. A selection, not a product: no NaN and no gradient gets through."""
    return jnp.where(valid.reshape(-1, *(1,) * (x.ndim - 1)) > 0, x.astype(jnp.float32), 0.0)


def probabilities(logits: jax.Array, valid: jax.Array, activation: str) -> jax.Array:
    """(B, *S, K) -> (B, *S, K), 0 in padding samples."""
    z = kept(logits, valid)
    return kept(jax.nn.softmax(z) if activation == 'softmax' else jax.nn.sigmoid(z), valid)


def pixel_entropy(logits: jax.Array, target: jax.Array, valid: jax.Array, activation: str) -> jax.Array:
    """−log p of the true channel: (B, *S) for softmax, per region (B, *S, R) for sigmoid."""
    loss = optax.softmax_cross_entropy if activation == 'softmax' else optax.sigmoid_binary_cross_entropy
    return loss(kept(logits, valid), kept(target, valid))


def image_sums(x: jax.Array, batch: bool) -> jax.Array:
    """(B, *S, K) -> (B, K) sums over the pixels, or (1, K) over the batch too."""
    sums = x.sum(tuple(range(1, x.ndim - 1)))
    return sums.sum(0, keepdims=True) if batch else sums


def over_valid(x: jax.Array, valid: jax.Array, batch: bool = False) -> jax.Array:
    """(B, …) -> mean over the valid samples, 0 if there is none; with `batch` x is (1, …), of all of them at once."""
    weight = (valid > 0).astype(jnp.float32)
    weight = weight.max(keepdims=True) if batch else weight
    return (x.reshape(x.shape[0], -1).mean(1) * weight).sum() / jnp.maximum(weight.sum(), 1)
