"""From a fingerprint and a device to a plan: what each field of the config shall be, and why, one decision a line.

`decide` is a pure function. What the user has set stays, and what follows from it follows. Memory is not guessed here:
`memory.fit` compiles the step, and changes what does not fit.
"""
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from unet_jax import formats
from unet_jax.config import FIELDS, flat
from unet_jax.planning import topology
from unet_jax.planning.decision import Decision, Device
from unet_jax.planning.fingerprint import median
from unet_jax.planning.learning import MIRROR, augmentation, budget, loss, optimisation
from unet_jax.training import sharding

BLOCKS = 3  # of the stem across the smallest tumours: of two, half of one's border is lost (lgg: 7.8 pixels at 128)
UNLIKE = 1.0  # standard deviations of an image by which patients differ, from which on each has a scale of its own
# Share of a device's memory that is planned for. Of a computer's: a step takes 1.06 to 1.17 times what is assigned
# (benchmarks/results/planned_memory-2026-11-25-2-cores-of-amd-epyc.md), and the compiler and samples live there too.
RESERVE = {'cpu': 0.5, 'gpu': 0.9, 'tpu': 0.9}


def device(memory: float | None = None) -> Device:
    """Of this process's devices; memory: bytes of each, by default what is there."""
    first = jax.local_devices()[0]
    kind = {'cpu': 'cpu', 'tpu': 'tpu'}.get(first.platform, 'gpu')
    limit = memory or sharding.device_memory() * RESERVE[kind]
    return Device(kind, first.device_kind, len(jax.devices()), limit)


def given(config: ConfigDict) -> dict[str, Any]:
    """The fields that a config sets to other values than the defaults: the user's, which a plan leaves alone."""
    return {name: value for name, value in flat(config).items() if not is_default(name, value)}


def is_default(name: str, value: Any) -> bool:
    """Whether it is the default, or its first entry once an axis (`recognise.resolve`)."""
    default = FIELDS[name].default
    return value == default or name in ('data.size', 'augment.flip') and tuple(value) == default[:1] * len(value)


def decide(config: ConfigDict, found: dict[str, Any], on: Device, *, scale: float = 1.0) -> list[Decision]:
    """The decisions for the data of fingerprint `found`, a settled config and a device.

    scale: how much less memory than usual a step may take, at the expense first of the batch, then of the size.
    """
    fixed = given(config)
    plan = volumes if found['kind'] == 'volume' else images
    decided = [*plan(found, on, fixed, scale), *always(found, on)]
    left = [d._replace(changes={n: v for n, v in d.changes.items() if n not in fixed}) for d in decided]
    return [d for d in left if d.changes]


def changes(decided: list[Decision]) -> dict[str, Any]:
    return {name: value for decision in decided for name, value in decision.changes.items()}


def applied(config: ConfigDict, decided: list[Decision]) -> ConfigDict:
    """A copy of `config` with the decisions in it."""
    result = config.copy_and_resolve_references()
    with result.ignore_type(), result.unlocked():
        for name, value in changes(decided).items():
            *sections, last = name.split('.')
            section = result
            for part in sections:
                section = section[part]
            section[last] = value
    return result.lock()


def divisible(count: int, on: Device) -> int:
    """The next number of samples that divides over the devices."""
    return -(-count // on.count) * on.count


def scaled(count: int, scale: float, on: Device) -> tuple[int, float]:
    """(so many samples times `scale`, but one a device at least; what is left of `scale` for the size)."""
    whole = divisible(count, on)
    fewer = max(on.count, int(whole * scale) // on.count * on.count)
    return fewer, min(1.0, scale * whole / fewer)


def images(found: dict, on: Device, fixed: dict, scale: float) -> list[Decision]:
    """Of single images and of slices."""
    take = fixed.get
    wanted, most = (8, 16) if on.kind == 'cpu' else (32, 64)
    share = max(found['positive'], 1e-3)
    usual = take('train.batch_size', min(most, 2 ** int(math.log2(wanted / min(1.0, share)))))
    batch, left = scaled(usual, scale, on)
    shape = median(found['shape'])
    longest = max(found['shape'][-1])
    limit = 128 if on.kind == 'cpu' else 256
    small = min([r['diameter'][0] for r in found['regions'] if r['diameter']], default=0.2)
    side = min(limit, math.ceil(longest / 16) * 16)
    if small * side < 2 * BLOCKS:
        side = min(2 * side, math.ceil(longest / 16) * 16)
    side = max(16, int(side * left ** 0.5) // 16 * 16)
    size = take('data.size', tuple(max(16, math.ceil(side * n / max(shape) / 16) * 16) for n in shape))
    across = small * max(size)
    stem = next((n for n in ((4, 2) if on.kind == 'cpu' else (2,)) if across >= BLOCKS * n and min(size) >= 16 * n), 1)
    stem = take('model.stem', stem)
    made = [
        Decision({'data.size': size}, f'the median image is {"×".join(f"{n:g}" for n in shape)}; the smallest tumours '
                 f'(5 %) are {100 * small:.0f} % of its side across, {across:.0f} pixels here' +
                 (', and a processor sees four times as many images at half the size'
                  if on.kind == 'cpu' and max(size) < max(shape) else '')),
        *channels(found),
        scale_of(found),
        *two_dimensional(size, stem, across, on, take)]
    kept = round(min(1.0, 2 * share / max(1 - share, 1e-6)), 2) if share < 0.2 else 1.0
    shown_now = share / (share + kept * (1 - share))
    made += [
        Decision({'train.batch_size': batch, 'data.empty_slices': kept},
                 f'{100 * share:.0f} % of the images show a tumour, so about {batch * shown_now:.0f} of a batch do' + (
                     f'; of those without, {100 * kept:.0f} % are kept' if kept < 1 else '')),
        *loss(found), *augmentation(found)]
    minutes = 10.0 if found['stacked'] else 6.0
    return [*made, *optimisation(), *budget(minutes if on.kind == 'cpu' else 30.0, on, fixed)]


def two_dimensional(size: tuple, stem: int, across: float, on: Device, take: Callable) -> list[Decision]:
    """Stem, levels, features and blocks of a network for images of `size`, in which small tumours are `across`."""
    levels = max(2, int(math.log2(max(1, min(size) / stem / topology.SMALLEST))) + 1)
    first, most = {'cpu': (8 * stem, 256), 'gpu': (32, 512), 'tpu': (128, 512)}[on.kind]
    features = take('model.features', tuple(min(first * 2 ** level, most) for level in range(min(levels, 7))))
    return [Decision({'model.stem': stem}, f'{across / stem:.1f} blocks of the stem across the smallest tumours; a '
                     'smaller network at full size would see fewer images in the same time'
                     if stem > 1 else 'the smallest tumours would be lost in larger blocks'),
            network(features, size, stem, on)]


def network(features: tuple, size: tuple, stem: int, on: Device) -> Decision:
    why = {'cpu': 'few channels where there are many pixels, as a processor pays for each',
           'gpu': 'twice as many a level',
           'tpu': 'channels fill the 128 lanes, below which they cost the same'}[on.kind]
    deepest = max(1, min(size) // stem // 2 ** (len(features) - 1))
    return Decision({'model.features': features, 'model.encoder_blocks': (2,) * len(features),
                     'model.decoder_blocks': (1,) * (len(features) - 1)},
                    f'{len(features)} levels leave {deepest} pixels a side at the deepest; {why}')


def scale_of(found: dict) -> Decision:
    """Whether images are standardised, each by itself or by patient."""
    if formats.named(found['format']).dtype != np.uint8:
        return Decision({'data.standardise': False}, 'the reader does, inside the brain')
    if not found['stacked']:
        return Decision({'data.standardise': True}, 'brightness of images differs by '
                        f'{max(found["intensities"]["apart"]):.1f} of their own standard deviation')
    apart = max(found['intensities']['patients_apart'])
    return Decision({'data.standardise': 'patient' if apart > UNLIKE else False},
                    'slices of a patient have one scale, which standardising each by itself would destroy; patients '
                    f'differ by {apart:.1f} of an image\'s standard deviation')


def channels(found: dict) -> list[Decision]:
    options = formats.named(found['format']).channels
    if len(options) < 2:
        return []
    many = found['colour'] > 0.1
    return [Decision({'data.channels': max(options) if many else min(options)},
                     f'{100 * found["colour"]:.0f} % of the images have channels that differ' +
                     ('' if many else ', the others are grey'))]


def volumes(found: dict, on: Device, fixed: dict, scale: float) -> list[Decision]:
    """Of volumes, trained on in patches."""
    take = fixed.get
    batch, left = scaled(take('train.batch_size', 2), scale, on)
    own, spacing, unlike = median(found['spacing']), take('data.spacing', ()), []
    low, high = found['spacing'][0], found['spacing'][-1]
    if not spacing and any(h > 1.05 * n for n, h in zip(low, high, strict=True)):
        spacing = tuple(float(f'{mm:.3g}') for mm in own)
        unlike = [f'voxels differ from {"×".join(f"{n:.3g}" for n in low)} to {"×".join(f"{n:.3g}" for n in high)} mm']
    used = spacing or tuple(own)
    edge, stem, levels = {'cpu': (64, 2, 4), 'gpu': (128, 1, 6), 'tpu': (128, 2, 5)}[on.kind]
    box = [max(1.0, n * mm / new) for n, mm, new in zip(found['box'][-1], own, used, strict=True)]
    size = take('data.size', topology.patch(box, used, edge ** 3 * left, multiple=32 if edge > 64 else 16))
    levels = len(fixed['model.features']) if 'model.features' in fixed else levels
    fields, depth = topology.written(topology.topology(size, used, levels, take('model.stem', stem)))
    width = {'cpu': (32, 64, 96, 128), 'gpu': (32, 64, 128, 256, 320, 320), 'tpu': (64, 128, 256, 320, 320)}[on.kind]
    features = take('model.features', width[:depth])
    blocks = tuple((1,) * len(features) if on.kind == 'cpu' else (1, 3, 4, 6, 6, 6)[:len(features)])
    return [
        Decision({'data.spacing': spacing}, unlike[0] + '; their median') if unlike else
        Decision({'data.spacing': ()}, f'all voxels are {"×".join(f"{mm:.3g}" for mm in own)} mm: none is resampled'),
        Decision({'data.orientation': take('data.orientation', 'LPS')}, 'left, back and up are the same axes in every '
                 'case'),
        Decision({'data.size': size}, f'95th percentile of the body\'s box is {"×".join(f"{n:.0f}" for n in box)} '
                 f'voxels of {"×".join(f"{mm:.3g}" for mm in used)} mm; about {edge}³ voxels are what a '
                 f'{on.kind.upper()} takes at once'),
        Decision({'data.standardise': False}, 'volumes are, inside the brain'),
        Decision(fields, 'axes are halved while their voxels are at most twice as long as the shortest'
                 + ('' if fields['model.strides'] == () else '; slices are thick, so pixels are halved first')),
        Decision({'model.features': features, 'model.encoder_blocks': blocks,
                  'model.decoder_blocks': (1,) * (len(features) - 1), 'model.block': 'residual',
                  'model.deep_supervision': max(0, min({'cpu': 1}.get(on.kind, 3), len(features) - 2))},
                 f'{len(features)} levels until {topology.SMALLEST} voxels a side are left'),
        Decision({'train.batch_size': batch}, 'two patches, as many as memory allows at this size'
                 if on.count == 1 else f'divides over {on.count} devices'),
        Decision({'data.foreground': 1 / 3}, 'a third of the patches are about a tumour voxel, every class alike'),
        *loss(found),
        Decision({'augment.flip': tuple(c >= MIRROR for c in found['mirror']), 'augment.rotation': 30.0,
                  'augment.scale': (0.7, 1.4), 'augment.shift': 0.0, 'augment.spatial_probability': 0.3},
                 f'a volume resembles its mirror image by {", ".join(f"{c:.2f}" for c in found["mirror"])} along '
                 'left, back and up'),
        *([Decision({'data.missing_modalities': True, 'augment.modality_dropout': 0.1},
                    f'cases lack {", ".join(found["missing"])}')] if found['missing'] else []),
        Decision({'optimizer.learning_rate': 3e-3 if on.kind == 'cpu' else 1e-3,
                  'optimizer.arguments': (('weight_decay', 1e-2),)}, 'AdamW; small networks bear a higher rate'),
        Decision({'evaluation.batch_size': batch}, 'as in training'),
        *budget(60.0 if on.kind == 'cpu' else 240.0, on, fixed)]


def always(found: dict, on: Device) -> list[Decision]:
    what = []
    if not found['subsets'].get('valid'):
        what.append(Decision({'train.validate': 'train'}, f'{found["cases"]} cases of {found["patients"]} patients or '
                             'sources leave none to validate on'))
    if found['kind'] == 'image':
        what.append(Decision({'evaluation.flips': True, 'evaluation.batch_size': divisible(16, on)},
                             'mirrored images are averaged where they are trained on'))
    return what


def hints(found: dict) -> list[str]:
    """What the user should look at, with the flag that mends it."""
    few = [] if found['subsets'].get('valid') else [
        f'{found["cases"]} cases of {found["patients"]} patients or sources leave none to validate on, so scores '
        + ('of the subset valid ' if found['subsets'].get('test') else '') + 'are of the cases trained on: they say '
        'how well those are learnt by heart, and nothing about others. Add cases, or, where there are subsets, '
        '--config.data.split_file=FILE.json']
    return few + [f'the classes {" and ".join(map(str, pair["ids"]))} {", ".join(pair["why"])}: are they one? Then '
            f"--config.data.regions=\"(('tumour',({','.join(map(str, pair['ids']))}),{pair['ids'][0]}),)\""
            for pair in found['alike']]


