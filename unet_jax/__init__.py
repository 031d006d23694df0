"""unet_jax as a library: what docs/api.md shows. Nothing is imported before it is used."""
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unet_jax.api import Found, Predictor, annotate, evaluate, get_config, load, train
    from unet_jax.errors import InputError

__all__ = ['Found', 'InputError', 'Predictor', 'annotate', 'evaluate', 'get_config', 'load', 'train']


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    if name == 'InputError':
        from unet_jax.errors import InputError
        return InputError
    from unet_jax import api
    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
