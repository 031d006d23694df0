"""The training step: augmentation, forward, loss, gradient, update and metrics, compiled as one program."""
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from unet_jax.annotations import labels
from unet_jax.model import unet
from unet_jax.training import augment, losses, space
from unet_jax.training.optimizer import updates
from unet_jax.training.state import State

Metrics = dict[str, jax.Array]


def is_picture(image: jax.Array) -> bool:
    """Whether an image as it came over the wire is a picture (uint8, where 0 is black) and not a volume or an HDF5
    slice (float16, where 0 in every channel is outside the brain)."""
    return image.dtype == jnp.uint8


def see(image: jax.Array, config: ConfigDict, scale: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
    """`normalise` as config.data says, each of neighbouring slices (*S, n · C) by itself, so that a slice looks alike
    wherever it is seen. scale: (2, C), the patient's, where that is asked for."""
    standardise, count = config.data.standardise, 1 + 2 * config.data.neighbours
    if count == 1:
        return normalise(image, bool(standardise), scale)
    apart = image.reshape(*image.shape[:-1], count, -1)
    found, black = jax.vmap(lambda one: normalise(one, bool(standardise), scale), -2, (-2, 0))(apart)
    return found.reshape(image.shape), None if black is None else black.reshape(-1)


def normalise(image: jax.Array, standardise: bool, scale: jax.Array | None = None
              ) -> tuple[jax.Array, jax.Array | None]:
    """(*S, C) as it came over the wire -> (float32, what black became (C,), None where 0 is outside the brain).

    uint8 becomes 0..1, float16 stays. If asked, each channel then gets mean 0 and standard deviation 1 over what
    counts (a constant: 0): the inside, where there is an outside, which stays 0; of a picture all but black rows and
    columns along its edges, such as those that fit it into the network's size, which thus change nothing. scale:
    mean and standard deviation (2, C) to take instead, those of all images of a patient.
    """
    picture, counts = is_picture(image), None
    if standardise and scale is None:
        counts = within_edges(image != 0) if picture else jnp.any(image != 0, -1, keepdims=True)
    image = image.astype(jnp.float32) / 255 if picture else image.astype(jnp.float32)
    black = jnp.zeros(image.shape[-1]) if picture else None
    if not standardise:
        return image, black
    mean, deviation = augment.mean_and_deviation(image, counts) if scale is None else scale
    factor = 1 / jnp.maximum(deviation, 1e-5 * (1 + jnp.abs(mean)))  # below it the deviation is rounding
    if picture:
        return (image - mean) * factor, (-mean * factor).reshape(-1)
    return jnp.where(counts, (image - mean) * factor, 0), None


def within_edges(lit: jax.Array) -> jax.Array:
    """(*S, C) bool -> (*S, 1) bool: the smallest box, along the axes, around all that is set; all if nothing is."""
    box = True
    for axis in range(lit.ndim - 1):
        line = lit.any(tuple(a for a in range(lit.ndim) if a != axis))
        pixel = jnp.arange(len(line))
        inside = (pixel >= jnp.argmax(line)) & (pixel < len(line) - jnp.argmax(line[::-1]))
        box &= jnp.expand_dims(inside, [a for a in range(lit.ndim) if a != axis])
    return jnp.broadcast_to(box, (*lit.shape[:-1], 1))


def prepare(batch: dict, config: ConfigDict, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A batch as it came over the wire -> (image (B, *S, C) float32, label (B, *S) bit sets): standardised, then
    augmented under `key`, so that the network sees what augmentation did, and *S is config.data.size.

    Each sample's randomness comes from its visit, its running number in the stream, so it depends neither on the
    other samples of the batch nor on the device it lands on.
    """
    size, cut = tuple(config.data.size), space.cut_size(config) if 'spacing' in batch else None

    def one(image, label, visit, spacing, scale):
        image, black = see(image, config, scale)
        return augment.augment(jax.random.fold_in(key, visit), image, label, config.augment, size=size,
                               cut=cut, spacing=spacing, black=black)

    return jax.vmap(one)(batch['image'], batch['label'], batch['visit'], batch.get('spacing'), batch.get('scale'))


def forward(config: ConfigDict, module, params, image: jax.Array) -> list[jax.Array]:
    """The logits (B, *S, K) of every head, finest first."""
    if config.model.deep_supervision:
        return unet.apply_deep(module, params, image)
    return [unet.apply(module, params, image)]


def make_train_step(config: ConfigDict, module, optimizer: optax.GradientTransformation, region_bits: tuple[int, ...],
                    schedule: optax.Schedule, place: Callable = lambda x: x
                    ) -> Callable[[State, dict], tuple[State, Metrics]]:
    """The pure function (state, batch) -> (state, metrics); `region_bits` are the bit sets of the regions.

    A third argument, the seed of the augmentation, is config.seed unless runs of several seeds share the program.
    `place` says where augmented images and labels lie, which the compiler loses track of in the augmentation.
    Metrics are scalars: loss, its terms, gradient_norm, learning_rate (that of the update, by the optimiser's own
    count) and `finite`, 1 where the loss and the gradient are; where they are not, only the step counts on.
    """
    decay, accumulate = config.optimizer.ema, config.optimizer.accumulate
    factors = unet.coarsening(config.model, len(config.data.size))

    def train_step(state: State, batch: dict, seed: int | jax.Array = config.seed) -> tuple[State, Metrics]:
        image, label = prepare(batch, config, jax.random.fold_in(jax.random.key(0), seed))
        image, target = place(image), labels.region_masks(place(label), region_bits)

        def objective(params):
            return losses.total(config.loss, forward(config, module, params, image), target, batch['valid'],
                                labels.outer_first(region_bits), factors)

        (loss, terms), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
        norm = optax.global_norm(gradient)
        change, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, change)
        done = updates(state.opt_state, state.step // accumulate)
        moved = updates(opt_state, (state.step + 1) // accumulate) > done  # else the batch was only accumulated
        share = jnp.where(moved, 1 - ema_decay(decay, done), 0.0)
        ema = optax.incremental_update(params, state.ema_params, share) if decay else params
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), (params, ema, opt_state),
                            (state.params, state.ema_params, state.opt_state))
        metrics = {'loss': loss, **{f'loss/{name}': term for name, term in terms.items()}, 'gradient_norm': norm,
                   'learning_rate': schedule(done),
                   'finite': finite.astype(jnp.float32)}
        return State(state.step + 1, *kept), metrics

    return train_step


def ema_decay(decay: float, done: jax.Array) -> jax.Array:
    """`decay`, less after few updates, to forget the initial weights: min(d, (1 + t) / (10 + t)), t updates before."""
    return jnp.minimum(decay, (1.0 + done) / (10.0 + done))


def make_predict_step(config: ConfigDict, module, region_bits: tuple[int, ...]) -> Callable[[dict, dict], jax.Array]:
    """The pure function (params, batch) -> probabilities (B, *S, R) float32 of the regions.

    With `config.evaluation.flips` the mean over all mirrorings of the axes in `config.augment.flip`, in a loop around
    one network: of volumes there are eight.
    """
    axes = [(False, True) if on and config.evaluation.flips else (False,) for on in config.augment.flip]
    views = list(itertools.product(*axes))

    def predict_step(params, batch: dict) -> jax.Array:
        image = jax.vmap(lambda x, scale: see(x, config, scale)[0])(batch['image'], batch.get('scale'))

        def add(total, mirrored):
            found = probabilities(config, unet.apply(module, params, flip(image, mirrored)), region_bits)
            return total + flip(found, mirrored), None

        total = jnp.zeros((*image.shape[:-1], len(region_bits)))
        return jax.lax.scan(add, total, jnp.asarray(views))[0] / len(views)

    def flip(array: jax.Array, mirrored: jax.Array) -> jax.Array:
        return jax.vmap(space.flip, in_axes=(0, None))(array, mirrored)

    return predict_step


def probabilities(config: ConfigDict, logits: jax.Array, region_bits: tuple[int, ...]) -> jax.Array:
    """(…, R) logits of a sigmoid, or (…, 1 + R) of a softmax with the background first -> (…, R) of the regions.

    A softmax's channel stands for the innermost region of a pixel (`losses.exclusive`), so a region's probability is
    the sum over the regions inside it, itself included.
    """
    if config.loss.activation == 'sigmoid':
        return jax.nn.sigmoid(logits)
    inside = np.array([[inner & outer == inner for outer in region_bits] for inner in region_bits], np.float32)
    return jax.nn.softmax(logits)[..., 1:] @ inside
