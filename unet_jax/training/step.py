"""The training step: augmentation, forward, loss, gradient, update and metrics, compiled as one program."""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from unet_jax.annotations import labels
from unet_jax.model import unet
from unet_jax.training import augment, losses
from unet_jax.training.optimizer import updates
from unet_jax.training.state import State

Metrics = dict[str, jax.Array]


def normalise(image: jax.Array, standardise: bool) -> jax.Array:
    """(*S, C) -> float32; each channel to mean 0 and standard deviation 1 over the image if asked (a constant: 0)."""
    image = image.astype(jnp.float32)
    if not standardise:
        return image
    axes = tuple(range(image.ndim - 1))
    centred = image - image.mean(axes)
    return centred / jnp.maximum(jnp.sqrt(jnp.square(centred).mean(axes)), 1e-6)


def to_float(image: jax.Array) -> jax.Array:
    """uint8 to 0..1, float16 as it is; float32 comes back."""
    return image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image.astype(jnp.float32)


def prepare(batch: dict, config: ConfigDict, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """A batch as it came over the wire -> (image (B, *S, C) float32, label (B, *S) bit sets), augmented under `key`.

    Each sample's randomness comes from its visit, its running number in the stream, so it depends neither on the
    other samples of the batch nor on the device it lands on.
    """
    def one(image, label, visit):
        image = to_float(image)
        if key is not None:
            image, label = augment.augment(jax.random.fold_in(key, visit), image, label, config.augment)
        return normalise(image, config.data.standardise), label

    return jax.vmap(one)(batch['image'], batch['label'], batch['visit'])


def forward(config: ConfigDict, module, params, image: jax.Array) -> list[jax.Array]:
    """The logits (B, *S, K) of every head, finest first."""
    if config.model.deep_supervision:
        return unet.apply_deep(module, params, image)
    return [unet.apply(module, params, image)]


def make_train_step(config: ConfigDict, module, optimizer: optax.GradientTransformation, of: tuple[int, ...],
                    schedule: optax.Schedule, place: Callable = lambda x: x
                    ) -> Callable[[State, dict], tuple[State, Metrics]]:
    """The pure function (state, batch) -> (state, metrics); `of` are the bit sets of the regions.

    A third argument, the seed of the augmentation, is config.seed unless runs of several seeds share the program.
    `place` says where augmented images and labels lie, which the compiler loses track of in the augmentation.
    Metrics are scalars: loss, its terms, gradient_norm, learning_rate (that of the update, by the optimiser's own
    count) and `finite`, 1 where the loss and the gradient are; where they are not, only the step counts on.
    """
    decay, accumulate = config.optimizer.ema, config.optimizer.accumulate

    def train_step(state: State, batch: dict, seed: int | jax.Array = config.seed) -> tuple[State, Metrics]:
        image, label = prepare(batch, config, jax.random.fold_in(jax.random.key(0), seed))
        image, target = place(image), labels.region_masks(place(label), of)

        def objective(params):
            return losses.total(config.loss, forward(config, module, params, image), target, batch['valid'])

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


def make_predict_step(config: ConfigDict, module, of: tuple[int, ...]) -> Callable[[dict, dict], jax.Array]:
    """The pure function (params, batch) -> probabilities (B, *S, R) float32 of the regions.

    With `config.evaluation.flips` the mean over all mirrorings of the axes in `config.augment.flip`.
    """
    def predict_step(params, batch: dict) -> jax.Array:
        image = jax.vmap(lambda x: normalise(to_float(x), config.data.standardise))(batch['image'])
        axes = [a + 1 for a, on in enumerate(config.augment.flip) if on] if config.evaluation.flips else []
        views = [()]
        for axis in axes:
            views += [(*view, axis) for view in views]
        logits = [jnp.flip(unet.apply(module, params, jnp.flip(image, view)), view) for view in views]
        return sum(probabilities(config, z, of) for z in logits) / len(views)

    return predict_step


def probabilities(config: ConfigDict, logits: jax.Array, of: tuple[int, ...]) -> jax.Array:
    """(…, R) logits of a sigmoid, or (…, 1 + R) of a softmax with the background first -> (…, R) of the regions.

    A softmax's channel stands for the innermost region of a pixel (`losses.exclusive`), so a region's probability is
    the sum over the regions inside it, itself included.
    """
    if config.loss.activation == 'sigmoid':
        return jax.nn.sigmoid(logits)
    inside = np.array([[inner & outer == inner for outer in of] for inner in of], np.float32)
    return jax.nn.softmax(logits)[..., 1:] @ inside
