"""Seconds to score a case of three regions, 240×240×155, by the rules of 2023-24 and of 2025, on one core.

    python benchmarks/scoring.py                                   # nested ellipsoids, one of many lesions
    python benchmarks/scoring.py --label=CASE_seg.nii.gz           # a case with labels 1, 2 and 4
"""
import time
from pathlib import Path

import common
import numpy as np

from unet_jax.evaluation import matched, measure

RULES = {'brats, lesions of GLI': dict(convention='brats', lesion='GLI'),
         'brats2025 and MET': dict(convention='brats2025', sizes=matched.Sizes())}
REGIONS = {'WT': (1, 2, 4), 'TC': (1, 4), 'ET': (4,)}


def made_up() -> np.ndarray:
    """Labels of a tumour in three shells, and of twenty small ones."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*map(np.arange, (240, 240, 155)), indexing='ij'), -1).astype(np.float32)
    label = np.zeros((240, 240, 155), np.uint8)
    for centre, radius in [((120, 100, 80), 35), *((rng.uniform(30, 125, 3), 4) for _ in range(20))]:
        distance = np.sqrt(((grid - np.float32(centre)) ** 2).sum(-1)) / radius
        for value, limit in ((2, 1.0), (4, 0.7), (1, 0.45)):
            label[distance < limit] = value
    return label


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument('--label', type=Path, help='a NIfTI of labels')
    arguments = parser.parse_args()
    if arguments.label:
        import nibabel
        label = np.asarray(nibabel.load(arguments.label).dataobj)
    else:
        label = made_up()
    predicted = np.roll(label, 2, 0)
    rows = []
    for name, rules in RULES.items():
        times = []
        for _ in range(arguments.rounds):
            start = time.process_time()
            for classes in REGIONS.values():
                measure.score(np.isin(label, classes), np.isin(predicted, classes), spacing=(1.0, 1.0, 1.0), **rules)
            times.append(time.process_time() - start)
        rows.append([f'WT, TC, ET: all metrics, {name}', common.median(times), min(times), max(times), len(times)])
    what = 'a real case' if arguments.label else 'a made-up case'
    common.report('scoring', 'Scoring a case', [common.table(
        [f'{what}, {"×".join(map(str, label.shape))}', 'seconds of processor, median', 'lowest', 'highest', 'runs'],
        rows)],
        results=arguments.results)


if __name__ == '__main__':
    main()
