"""The decisions of a plan on how to learn: loss, augmentation, optimiser and time."""
import numpy as np

from unet_jax.config import FIELDS
from unet_jax.planning.decision import Decision, Device

MIRROR = 0.5  # correlation with its mirror image from which on an axis is mirrored
RARE = 0.7  # share of images with a region, below which Dice is taken of the batch
SELDOM = 0.1  # of the commonest region's pixels: a region that has fewer weighs more in cross-entropy


def loss(found: dict) -> list[Decision]:
    """Dice and cross-entropy; of the batch where regions are often absent."""
    present = min((r['images'] for r in found['regions']), default=1.0)
    pixels = min((r['pixels'] for r in found['regions']), default=1.0)
    # of patches two thirds may show none; and the slices of a patient are scored as one volume
    batch = present < RARE or found['kind'] == 'volume' or found['stacked']
    why = (f'a region is in {100 * present:.0f} % of the {found["kind"]}s and {100 * pixels:.2g} % of the body; '
           + ('Dice image by image would teach to answer nothing' if batch else 'nearly every image shows it'))
    return [Decision({'loss.batch_dice': batch, 'loss.terms': (('dice', 1.0), ('cross_entropy', 1.0))}, why),
            *class_weights([r['pixels'] for r in found['regions']])]


def class_weights(pixels: list[float]) -> list[Decision]:
    """Where some region is rare beside another: by the root of its share; one without pixels as the rarest."""
    there = [n for n in pixels if n]
    if not there or min(there) >= SELDOM * max(there):
        return []
    weights = np.array([max(n, min(there)) for n in pixels]) ** -0.5
    return [Decision({'loss.class_weights': tuple(float(f'{w:.2g}') for w in weights / weights.mean())},
                     f'the rarest region has {100 * min(there) / max(there):.1g} % of the pixels of the commonest')]


def augmentation(found: dict) -> list[Decision]:
    flips = tuple(c >= MIRROR for c in found['mirror'])
    few = found['subsets'].get('train', found['images']) < 5000
    return [Decision({'augment.flip': flips}, 'an image resembles its mirror image by '
                     f'{", ".join(f"{c:.2f}" for c in found["mirror"])} (up-down, left-right); from {MIRROR} on '
                     'anatomy allows it'),
            Decision({'augment.rotation': 30.0, 'augment.spatial_probability': 0.9 if few else 0.5,
                      'augment.elastic': 2.0 if few else 0.0, 'augment.elastic_grid': 6,
                      'augment.intensity_probability': 0.2},
                     f'{found["subsets"].get("train", 0)} images to train on are '
                     f'{"few: each is turned, zoomed and bent nearly every time" if few else "many"}')]


def optimisation() -> list[Decision]:
    return [Decision({'optimizer.learning_rate': 3e-3, 'optimizer.arguments': (('weight_decay', 1e-2),)},
                     'AdamW with a cosine to 0; small networks with instance norm bear a high rate')]


def budget(minutes: float, on: Device, fixed: dict) -> list[Decision]:
    """How long to train, unless the user has said for how many steps."""
    if 'train.steps' in fixed:
        steps = fixed['train.steps']
        return [Decision({'optimizer.warmup': min(FIELDS['optimizer.warmup'].default, steps // 10)},
                         f'at most a tenth of {steps} steps')]
    if 'train.seeds' in fixed:
        return []
    return [Decision({'train.minutes': minutes}, f'a sensible wait on {on.count} × {on.name}, for training and '
                     'evaluation together; say --config.train.minutes=N for another, or set --config.train.steps')]
