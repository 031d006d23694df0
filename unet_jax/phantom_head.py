"""Made-up heads with brain tumours, each a pure function of its seed.

They look like MRI (folded cortex, ventricles, scalp, bias field, Rician noise) so that the whole program can be tried
and tested where no patient's data is. Nothing learned from them says anything about patients.
"""
import numpy as np
import scipy  # its parts are loaded when first used: training begins without them

VERSION = 1  # raised whenever a seed gives another picture
MODALITIES = ('flair', 't1', 't1ce', 't2')
NCR, ED, ET = 1, 2, 4  # necrotic core, oedema, enhancing tumour: the label values of BraTS 2018-21

# Grey values, white matter in T1 about 0.75, by modality in the order above; after the usual look of each sequence.
TISSUES = {
    'air': (0.01, 0.01, 0.01, 0.01), 'bone': (0.08, 0.10, 0.10, 0.06), 'scalp': (0.62, 0.95, 1.00, 0.60),
    'fluid': (0.12, 0.20, 0.20, 1.00), 'grey': (0.56, 0.52, 0.55, 0.60), 'white': (0.45, 0.75, 0.78, 0.42),
    'deep': (0.52, 0.60, 0.63, 0.50), 'old lesion': (0.85, 0.55, 0.57, 0.75),
    'necrosis': (0.36, 0.33, 0.35, 0.86), 'oedema': (0.86, 0.52, 0.54, 0.85), 'enhancing': (0.74, 0.55, 1.25, 0.70),
}
AIR, BONE, SCALP, FLUID, GREY, WHITE, DEEP, LESION, NECROSIS, OEDEMA, ENHANCING = range(len(TISSUES))


def volume(seed: int, shape: tuple[int, int, int] = (48, 96, 96), *, skull: bool = False, tumour: bool = True
           ) -> tuple[np.ndarray, np.ndarray]:
    """(image (D, H, W, 4) float32, label (D, H, W) uint8 in {0, 1, 2, 4}) of one head.

    Axes run feet to crown, face to neck, right to left. Channels are FLAIR, T1, T1ce, T2, white matter in T1 about
    0.75; without `skull` everything outside the brain is exactly 0, as in BraTS.
    """
    rng = np.random.default_rng([VERSION, seed])
    axes = [np.linspace(-1, 1, n) for n in shape]
    return _draw(rng, axes, skull=skull, tumour=tumour)


def slice_(seed: int, size: int = 128, *, skull: bool = True, tumour: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """(image (H, W, 4) float32, label (H, W) uint8) of one axial slice of a head, in a few milliseconds."""
    rng = np.random.default_rng([VERSION, seed])
    side = np.linspace(-1, 1, size)
    image, label = _draw(rng, [rng.uniform(-0.1, 0.4, 1), side, side], skull=skull, tumour=tumour)
    return image[0], label[0]


def _field(rng: np.random.Generator, axes: list[np.ndarray], scale: float) -> np.ndarray:
    """Smooth Gaussian noise (D, H, W) of unit variance and correlation length `scale`, in units of `axes`."""
    places = [(axis - axis.min()) / scale + 3 for axis in axes]  # in knots; six of them matter to a point
    field = rng.standard_normal([int(p.max()) + 4 for p in places])
    for axis, place in enumerate(places):
        knots = place.astype(int) + np.arange(-2, 4)[:, None]  # (6, n)
        weights = np.exp(-0.5 * (place - knots) ** 2)
        weights /= np.sqrt((weights ** 2).sum(0))
        column = [1] * axis + [-1] + [1] * (len(axes) - axis - 1)
        field = sum(np.take(field, k, axis) * w.reshape(column) for k, w in zip(knots, weights, strict=True))
    return field


def _draw(rng, axes, *, skull, tumour):
    z, y, x = np.meshgrid(*axes, indexing='ij')
    lesions = _lesions(rng, axes, z, y, x) if tumour else []
    for centre, radius, _ in lesions:  # mass effect: what lies around a tumour is pushed away from it
        offset = [u - c for u, c in zip((z, y, x), centre, strict=True)]
        push = 0.55 * np.exp(-sum(o ** 2 for o in offset) / (2 * (1.3 * radius) ** 2))
        z, y, x = (u - push * o for u, o in zip((z, y, x), offset, strict=True))
    tissue, brain, ventricles = _anatomy(rng, axes, z, y, x, skull=skull)
    label = _label(rng, axes, lesions, brain & ~ventricles)
    for value, kind in ((ED, OEDEMA), (NCR, NECROSIS), (ET, ENHANCING)):
        tissue[label == value] = kind
    return _scan(rng, axes, tissue, brain, skull=skull), label


def _lesions(rng, axes, z, y, x) -> list[tuple[tuple[float, float, float], float, np.ndarray]]:
    """One tumour, at times two: (centre (z, y, x), radius, distance (D, H, W) from the centre in radii, bent)."""
    lesions = []
    for _ in range(1 + (rng.random() < 0.12)):
        radius, angle, out = rng.uniform(0.16, 0.34), rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.5)
        level = axes[0][0] if len(axes[0]) == 1 else rng.uniform(-0.2, 0.35)
        centre = (level, 0.75 * out * np.sin(angle), out * np.cos(angle))
        distance = np.sqrt(sum((u - c) ** 2 for u, c in zip((z, y, x), centre, strict=True))) / radius
        bend = 0.2 * _field(rng, axes, 0.55 * radius) + 0.07 * _field(rng, axes, 0.15 * radius)
        lesions.append((centre, radius, distance + bend))
    return lesions


def _anatomy(rng, axes, z, y, x, *, skull) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tissue (D, H, W) index into TISSUES, brain (D, H, W) bool, its ventricles (D, H, W) bool)."""
    long, wide, tilt = rng.uniform(0.80, 0.88), rng.uniform(0.64, 0.72), rng.uniform(-0.06, 0.06)
    y, x = y + tilt * x, x - tilt * y
    z, y, x = (u + 0.02 * _field(rng, axes, 0.35) for u in (z, y, x))
    radius = np.sqrt((z / 0.95) ** 2 + np.abs(y / long) ** 2.2 + np.abs(x / wide) ** 2.2)
    brain = radius < 1
    folds, depth = np.abs(_field(rng, axes, 0.055)), np.clip((radius - 0.62) / 0.38, 0, 1)
    tissue = np.where(folds < 0.16 + 0.85 * depth ** 2, GREY, WHITE)
    tissue[(folds < 0.26 * depth) | (radius > 0.965)] = FLUID  # sulci
    tissue[(np.abs(x) < 0.012) & (radius > 0.5)] = FLUID  # between the hemispheres

    side, width = np.abs(x), rng.uniform(0.035, 0.075)
    horn = np.sqrt(np.clip(1 - (y / 0.36) ** 2 - ((z - 0.1) / 0.35) ** 2, 0, None))
    tissue[((side / 0.24) ** 2 + ((y - 0.08) / 0.2) ** 2 + (z / 0.25) ** 2 < 1)] = DEEP
    tissue[(side > 0.13) & (side < 0.15) & (np.abs(y - 0.08) < 0.16) & (np.abs(z) < 0.25)] = WHITE  # a capsule
    ventricles = np.abs(side - 0.06 - 0.9 * y ** 2) < width * horn
    tissue[ventricles] = FLUID
    spots = (_field(rng, axes, 0.035) > rng.uniform(2.5, 3.6)) & (radius < 0.75) & (tissue == WHITE)
    tissue[spots] = LESION  # of small vessels: as bright as oedema in FLAIR, and no tumour

    tissue[~brain] = AIR
    if skull:
        shell = radius + 0.01 * _field(rng, axes, 0.2)
        thick = rng.uniform(0.05, 0.09)
        tissue[(shell >= 1.0) & (shell < 1.03)] = FLUID
        tissue[(shell >= 1.03) & (shell < 1.03 + thick)] = BONE
        tissue[(shell >= 1.03 + thick) & (shell < 1.10 + 1.3 * thick)] = SCALP
    return tissue, brain, ventricles


def _label(rng, axes, lesions, room) -> np.ndarray:
    """(D, H, W) uint8: oedema around a core whose rim enhances, inside `room` only."""
    label = np.zeros(room.shape, np.uint8)
    for _, radius, distance in lesions:
        core = distance + 0.18 * _field(rng, axes, 0.4 * radius)
        share, rim = rng.uniform(0.45, 0.68), rng.uniform(0.12, 0.26)
        label[room & (distance < 1)] = ED
        label[room & (core < share)] = ET
        label[room & (core < share - rim)] = NCR
    whole = scipy.ndimage.binary_opening(label > 0, np.ones((1, 3, 3)))  # no threads of a single pixel
    parts, count = scipy.ndimage.label(whole)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    whole &= (sizes >= 0.002 * room[0].size)[parts]  # nor specks: under 33 pixels of 128²
    return np.where(whole, label, 0).astype(np.uint8)


def _scan(rng, axes, tissue, brain, *, skull) -> np.ndarray:
    """(D, H, W, 4) float32: what a scanner makes of the tissues."""
    table = np.asarray(list(TISSUES.values()))
    table = table * rng.uniform(0.92, 1.08, table.shape)  # (tissues, 4)
    table[OEDEMA] += rng.uniform(0, 0.5) * (table[GREY] - table[OEDEMA])  # from glaring to hardly seen
    bias = np.exp(0.14 * _field(rng, axes, 0.6))
    grain = 1 + 0.05 * _field(rng, axes, 0.045)
    noise = rng.uniform(0.015, 0.04)
    sigma = 0.0045 * tissue.shape[-1]  # partial volume: about half a pixel of 128
    channels = []
    for values in table.T:
        signal = scipy.ndimage.gaussian_filter(values[tissue], (0 if len(axes[0]) == 1 else sigma, sigma, sigma))
        signal = signal * bias * grain
        real, imaginary = noise * rng.standard_normal((2, *tissue.shape))
        channels.append(np.hypot(signal + real, imaginary))  # the magnitude of a complex signal is Rician
    image = np.stack(channels, -1).astype(np.float32)
    return image if skull else np.where(brain[..., None], image, np.float32(0))
