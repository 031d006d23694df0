"""Fine-tuning on ten images against training from scratch on them, for equally many steps.

    python benchmarks/fine_tune.py                       # two to three minutes on two cores
    python benchmarks/fine_tune.py --steps=300 --seeds=5

A network learns phantoms, is exported, and goes on with ten phantoms of another kind, in which bright is dark: once
from the model file, once from random parameters, by the same config. Both are scored on the same test images, and
compared image by image (--mode=compare).
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import common
from PIL import Image, ImageOps

from unet_jax import phantom
from unet_jax.evaluation import comparison
from unet_jax.evaluation import summary as summaries

FIELDS = ('data.size=64,64', 'model.stem=2', 'model.features=(16,32,64)', 'evaluation.pictures=0',
          'evaluation.flips=False', 'train.log_every=1000', 'optimizer.warmup=10', 'optimizer.ema=0.95',
          'augment.intensity_probability=0')
TRAIN, TEST, SIZE = 10, 40, 64


def command(folder: Path, *words: str) -> None:
    """main.py with the work directory or model file `folder`."""
    done = subprocess.run([sys.executable, str(common.ROOT / 'main.py'), f'--workdir={folder}', *words],
                          capture_output=True, text=True, cwd=common.ROOT,
                          env={**os.environ, 'JAX_PLATFORMS': os.environ.get('JAX_PLATFORMS', 'cpu')})
    if done.returncode:
        raise SystemExit(f'{" ".join(words)}: {done.stderr[-2000:]}')


def train(folder: Path, root: Path, steps: int, *words: str) -> None:
    fields = (*FIELDS, f'train.steps={steps}', f'train.evaluate_every={steps}', f'train.checkpoint_every={steps}')
    command(folder, f'--config={common.ROOT / "configs/phantom.py"}', '--config.data.format=coco',
            f'--config.data.root={root}', *(f'--config.{field}' for field in fields), *words)


def inverted(root: Path) -> Path:
    """The phantoms in `root`, bright for dark."""
    for path in root.rglob('*.png'):
        with Image.open(path) as image:
            ImageOps.invert(image).save(path)
    return root


def dice(folder: Path) -> dict:
    return summaries.read_summary(folder / 'evaluation/test')['regions']['tumour']['dice']


def shown(entry: dict, name: str = 'mean') -> str:
    return f'{entry[name]:.3f} [{entry["low"]:.3f}, {entry["high"]:.3f}]'


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument('--source-steps', type=int, default=1200)
    parser.add_argument('--steps', type=int, default=150, help='of fine-tuning and from scratch alike')
    parser.add_argument('--seeds', type=int, default=2)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        first = phantom.write_coco(place / 'first', train=160, valid=10, test=TEST, size=SIZE)
        other = inverted(phantom.write_coco(place / 'other', train=TRAIN, valid=TRAIN, test=TEST, size=SIZE, seed=1))
        train(place / 'source', first, options.source_steps)
        command(place / 'source', '--mode=export', f'--output={place / "model.zip"}')
        command(place / 'model.zip', '--mode=evaluate', f'--config.data.root={other}',
                f'--output={place / "as_it_is"}')
        for seed in range(options.seeds):
            tuned, scratch = place / f'tuned_{seed}', place / f'scratch_{seed}'
            train(scratch, other, options.steps, f'--config.seed={seed}')
            train(tuned, other, options.steps, f'--config.seed={seed}', f'--config.train.init_from={place}/model.zip')
            found = comparison.compare({f.name: summaries.read_cases(f / 'evaluation/test') for f in (scratch, tuned)})
            pair = found['pairs'][0]['regions']['tumour']['dice']
            rows.append([seed, shown(dice(scratch)), shown(dice(tuned)), shown(pair, 'difference'),
                         f'{pair["p"]:.2g}', f'{pair["wins"]} / {pair["ties"]} / {pair["losses"]}'])
        cases = summaries.read_cases(place / 'as_it_is/evaluation/test')
        nothing = float((cases.tp + cases.fn == 0).mean())
        known = f'{shown(dice(place / "source"))} on {TEST} phantoms of its own kind, ' \
            f'{shown(dice(place / "as_it_is"))} on the other kind as it is'
    about = (f'Source: {options.source_steps} steps on 160 phantoms of {SIZE}×{SIZE}: Dice {known}. Then '
             f'{options.steps} steps of 8 on {TRAIN} phantoms in which bright is dark, scored on {TEST} others of '
             'that kind.')
    head = ['seed', 'from scratch', 'fine-tuned', 'difference', 'p', 'wins / ties / losses']
    notes = ('Mean Dice over images with its 95 % bootstrap interval; the difference and its p are of pairs of images.'
             f' To predict nothing gives {nothing:.3f}: 1 on images without a tumour, 0 on the others.')
    common.report('fine_tune', 'Fine-tuning on ten images', [about, common.table(head, rows), notes],
                  results=options.results)


if __name__ == '__main__':
    main()
