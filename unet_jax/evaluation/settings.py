"""What config.evaluation may hold, checked before a run begins, not when it is scored hours later."""
import math

from ml_collections import ConfigDict

from unet_jax import formats
from unet_jax.errors import InputError
from unet_jax.evaluation.lesions import check_challenge
from unet_jax.evaluation.overlap import check_convention

LIMITS = {  # field: (what holds for a good value, what to give)
    'batch_size': (lambda v: v >= 1, 'a whole number from 1'),
    'threshold': (lambda v: 0 < v < 1, 'a probability between 0 and 1'),
    'tolerance': (lambda v: 0 <= v < math.inf, 'a distance in mm (pixels for images) from 0'),
    'overlap': (lambda v: 0 <= v < 1, 'a share of the window from 0 to under 1'),
    'pictures': (lambda v: v >= 0, 'a number from 0'),
}


def check(config: ConfigDict) -> None:
    """Raises InputError for a value that no evaluation takes, or that the format of the data has no use for."""
    settings = config.evaluation
    check_convention(settings.convention)
    for field, (good, wanted) in LIMITS.items():
        if not good(settings[field]):
            raise InputError(f'config.evaluation.{field} is {settings[field]}; give {wanted}')
    if settings.lesions:
        check_challenge(settings.lesions)
    form = formats.named(config.data.format)
    for field, good in (('lesions', form.stacked), ('postprocess', form.volumetric),
                        ('modality_subsets', form.volumetric)):
        if settings[field] and not good:
            raise InputError(f'config.evaluation.{field} is {settings[field]!r}, which is for volumes only; here '
                             f'config.data.format is {config.data.format!r}')
