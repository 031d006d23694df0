"""The learning-rate schedule and the optax chain of a config."""
import inspect
from collections.abc import Sequence
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from unet_jax.errors import InputError


def learning_rate(config: ConfigDict, steps: int) -> optax.Schedule:
    """`config.optimizer.schedule` over `steps` batches: a linear warm-up, then the decay towards 0.

    Counted in updates (`accumulate` batches each), which is what optax hands a schedule. Of w updates of warm-up,
    number t = 0, 1 … has (t + 1) / w of the highest rate; of the n after them, number t has the decay's share at
    t / n, so that none has a rate of 0. 'polynomial' is (1 − t / n)^power, nnU-Net's (Isensee et al. 2021); 'cosine'
    is Loshchilov and Hutter 2017.
    """
    updates = max(1, steps // config.accumulate)
    warmup = min(config.warmup // config.accumulate, updates - 1)
    decay = {
        'cosine': lambda n: optax.cosine_decay_schedule(config.learning_rate, n),
        'polynomial': lambda n: optax.polynomial_schedule(config.learning_rate, 0.0, config.power, n),
        'constant': lambda n: optax.constant_schedule(config.learning_rate),
    }
    if config.schedule not in decay:
        raise InputError(f'config.optimizer.schedule is {config.schedule!r}; choose one of {sorted(decay)}')

    def ramp(update):
        return config.learning_rate * (update + 1) / max(warmup, 1)

    return optax.join_schedules([ramp, decay[config.schedule](updates - warmup)], [warmup])


def updates(opt_state: optax.OptState, otherwise: int | jax.Array) -> int | jax.Array:
    """How many updates a schedule has counted, which skipped ones are not among; `otherwise` where no optimiser
    counts."""
    def of_schedule(path, _) -> bool:
        return getattr(path[-1], 'tuple_name', '') == 'ScaleByScheduleState'

    found = optax.tree.get_all_with_path(opt_state, 'count', filtering=of_schedule)
    return found[0][1] if found else otherwise


def kernels(params: Any) -> Any:
    """True for the leaves that weight decay acts on: kernels, the only ones with more than one axis. Pulled towards 0,
    a norm's scale would switch off its channel, and a bias costs no smoothness."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def scale_parts(factors: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    """The updates of each parameter times the factor of its part, (part, factor), which is as if its learning rate
    was: optimisers multiply by that last."""
    def update(updates, state, params=None):
        return jax.tree_util.tree_map_with_path(lambda path, x: x * factor_of(path, factors), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def factor_of(path: tuple, factors: Sequence[tuple[str, float]]) -> float:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return next((factor for part, factor in factors if name.startswith(part)), 1.0)


def check_factors(factors: Sequence[tuple[str, float]], params: Any) -> None:
    """Raises InputError for a part that no parameter of the tree `params` belongs to."""
    names = [jax.tree_util.keystr(path, simple=True, separator='/')
             for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for part, _ in factors:
        if not any(name.startswith(part) for name in names):
            parts = ', '.join(dict.fromkeys(name.partition('/')[0] for name in names))
            raise InputError(f'config.optimizer.factors names {part!r}, with which no parameter begins; there are '
                             f'{parts}')


def create(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """Clipping, then the optimiser that `config.name` names in optax, over `config.accumulate` batches an update.

    Where the optimiser can be told what to decay (all but novograd), those are the `kernels`. Raises InputError for a
    name or an argument that optax does not know, and for `steps` whose last batches would not make up an update.
    """
    left = steps % config.accumulate
    if left:
        nearest = [n for n in (steps - left, steps - left + config.accumulate) if n]
        raise InputError(f'config.train.steps is {steps}, which config.optimizer.accumulate = {config.accumulate} '
                         f'does not divide: the last {left} would change nothing. Set config.train.steps to '
                         f'{" or ".join(map(str, nearest))}')
    factory = getattr(optax, config.name, None)
    known = inspect.signature(factory).parameters if callable(factory) else {}
    if 'learning_rate' not in known:
        raise InputError(f'config.optimizer.name is {config.name!r}, which is no optimiser of optax; '
                         "common ones: 'adamw', 'sgd', 'adam', 'lion', 'nadamw'")
    arguments = {name: kernels for name in ('mask', 'weight_decay_mask') if name in known} | dict(config.arguments)
    try:
        optimizer = factory(learning_rate=learning_rate(config, steps), **arguments)
    except TypeError as error:
        raise InputError(f'config.optimizer.arguments is {dict(config.arguments)}: optax.{config.name} says: {error}. '
                         f'It takes {[p for p in known if p != "learning_rate"]}') from error
    if config.factors:
        optimizer = optax.chain(optimizer, scale_parts(config.factors))
    if config.clip:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip), optimizer)
    if config.accumulate > 1:
        optimizer = optax.MultiSteps(optimizer, config.accumulate).gradient_transformation()
    return optimizer
