"""All that training carries from step to step."""
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """A frozen pytree. No random key and no iterator: both follow from the seed and the step."""
    step: jax.Array  # () int32, batches seen
    params: Any
    ema_params: Any  # the average that is evaluated; equal to params where config.optimizer.ema is 0
    opt_state: Any


def create(params: Any, optimizer: optax.GradientTransformation) -> State:
    """The state before the first step."""
    return State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimizer.init(params))
