"""What a network that was trained with sequences left out finds with each of the 15 subsets of the four.

    python benchmarks/missing_sequences.py                  # about ten minutes on two busy cores
    python benchmarks/missing_sequences.py --kinds=slices

Trains configs/brats3d.py:small_missing on phantom volumes, and configs/brats.py:missing on phantom slices, smaller
than these configs are, and scores them on test volumes.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import pandas as pd

from unet_jax import phantom
from unet_jax.evaluation import summary as summaries

ALL = 'flair+t1+t1ce+t2'
SHARED = ('data.split=(0.6,0.1,0.3)', 'evaluation.pictures=0', 'train.log_every=100', 'augment.spatial_probability=0',
          'augment.intensity_probability=0')
FIELDS = {
    'volumes': ('data.size=48,48,24', 'model.features=(32,64,96)', 'model.encoder_blocks=(1,1,1)',
                'model.decoder_blocks=(1,1)', 'train.batch_size=4'),
    'slices': ('data.size=48,48', 'model.features=(16,32,64)', 'model.encoder_blocks=(2,2,2)',
               'model.decoder_blocks=(1,1)', 'train.batch_size=16', 'optimizer.learning_rate=3e-3',
               'optimizer.warmup=20', 'optimizer.ema=0.98')}
CONFIGS = {'volumes': 'brats3d.py:small_missing', 'slices': 'brats.py:missing'}


def made(kind: str, root: Path, count: int) -> Path:
    if kind == 'volumes':
        return phantom.write_nifti(root, cases=count, shape=(24, 48, 48))
    return phantom.write_brats_h5(root, volumes=count, shape=(12, 48, 48))


def scores(kind: str, place: Path, *, count: int, steps: int, dropout: float) -> pd.DataFrame:
    """modalities.csv of a run on `count` phantoms."""
    root, folder = made(kind, place / f'{kind}_set', count), place / kind
    fields = (*SHARED, *FIELDS[kind], f'data.root={root}', f'augment.modality_dropout={dropout}',
              *(f'train.{name}={steps}' for name in ('steps', 'evaluate_every', 'checkpoint_every')))
    done = subprocess.run([sys.executable, str(common.ROOT / 'main.py'), f'--workdir={folder}',
                           f'--config={common.ROOT / "configs" / CONFIGS[kind]}', *(f'--config.{f}' for f in fields)],
                          capture_output=True, text=True, cwd=common.ROOT,
                          env={**os.environ, 'JAX_PLATFORMS': os.environ.get('JAX_PLATFORMS', 'cpu')})
    if done.returncode:
        raise SystemExit(f'main.py ended with {done.returncode}: {done.stderr[-2000:]}')
    return pd.read_csv(folder / 'evaluation/test/modalities.csv')


def interval(values: pd.Series, groups: pd.Series) -> str:
    found = summaries.describe(values, groups, seed=0)
    return f'{found["mean"]:.3f} [{found["low"]:.3f}, {found["high"]:.3f}]'


def rows(found: pd.DataFrame) -> list[list[str]]:
    """Of each subset the mean Dice of each region, and what WT loses against all sequences, by case."""
    wide = found.pivot(index=['case', 'group'], columns=['modalities', 'region'], values='dice').reset_index()
    return [[name, *(interval(wide[name, region], wide['group']) for region in found.region.unique()),
             interval(wide[ALL, 'WT'] - wide[name, 'WT'], wide['group'])] for name in found.modalities.unique()]


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument('--kinds', nargs='+', choices=FIELDS, default=list(FIELDS))
    parser.add_argument('--count', type=int, default=60, help='phantoms; 0.6 of them to train on, 0.3 to test on')
    parser.add_argument('--steps', type=int, default=500)
    parser.add_argument('--dropout', type=float, default=0.5, help='probability of each sequence to be left out')
    options = parser.parse_args()
    parts = []
    with tempfile.TemporaryDirectory() as place:
        for kind in options.kinds:
            found = scores(kind, Path(place), count=options.count, steps=options.steps, dropout=options.dropout)
            head = ['sequences', *found.region.unique(), 'WT lost']
            parts += [f'## Phantom {kind}\n\n{options.steps} steps, each sequence left out with probability '
                      f'{options.dropout}; {found.case.nunique()} test volumes of 48×48.',
                      common.table(head, rows(found))]
    notes = ('Mean Dice over volumes with its 95 % bootstrap interval, and, of pairs, by how much WT is lower than '
             'with all four.')
    common.report('missing_sequences', 'Segmenting with some of the sequences', [*parts, notes],
                  results=options.results)


if __name__ == '__main__':
    main()
