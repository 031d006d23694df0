"""The learning-rate schedule and the optax chain of a config."""
import inspect

import jax
import optax
from ml_collections import ConfigDict

from unet_jax.errors import InputError


def learning_rate(config: ConfigDict, steps: int) -> optax.Schedule:
    """`config.optimizer.schedule` over `steps` batches: a linear warm-up from 0, then the decay to 0.

    Counted in updates (`accumulate` batches each), which is what optax hands a schedule. 'polynomial' is
    (1 − t)^power, nnU-Net's (Isensee et al. 2021); 'cosine' is Loshchilov and Hutter 2017.
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
    ramp = optax.linear_schedule(0.0, config.learning_rate, max(warmup, 1))
    return optax.join_schedules([ramp, decay[config.schedule](updates - warmup)], [warmup])


def updates(opt_state: optax.OptState) -> jax.Array | None:
    """How many updates a schedule has counted, which skipped ones are not among; None where no optimiser counts."""
    def of_schedule(path, _) -> bool:
        return getattr(path[-1], 'tuple_name', '') == 'ScaleByScheduleState'

    found = optax.tree.get_all_with_path(opt_state, 'count', filtering=of_schedule)
    return found[0][1] if found else None


def create(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    """Clipping, then the optimiser that `config.name` names in optax, over `config.accumulate` batches an update.

    Raises InputError for a name or an argument that optax does not know.
    """
    factory = getattr(optax, config.name, None)
    if not callable(factory) or 'learning_rate' not in inspect.signature(factory).parameters:
        raise InputError(f'config.optimizer.name is {config.name!r}, which is no optimiser of optax; '
                         "common ones: 'adamw', 'sgd', 'adam', 'lion', 'nadamw'")
    try:
        optimizer = factory(learning_rate=learning_rate(config, steps), **dict(config.arguments))
    except TypeError as error:
        raise InputError(f'config.optimizer.arguments is {dict(config.arguments)}: optax.{config.name} says: {error}. '
                         f'It takes {[p for p in inspect.signature(factory).parameters if p != "learning_rate"]}'
                         ) from error
    if config.clip:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip), optimizer)
    if config.accumulate > 1:
        optimizer = optax.MultiSteps(optimizer, config.accumulate).gradient_transformation()
    return optimizer
