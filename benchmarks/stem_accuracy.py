"""What a stem costs in accuracy: the network at full resolution against those with a stem, at equal steps.

    python benchmarks/stem_accuracy.py --br35h=DIR --cases=DIR,DIR     # about 8 minutes on two quiet cores
    python benchmarks/stem_accuracy.py --steps=2 --size=64             # to see that it works

Three tasks, each trained, evaluated and scored as main.py does, with the same seed, batches and steps:
- phantom: made-up slices of 240² in the layout of Kaggle's, whose enhancing rims are 2 to 10 pixels thin;
- br35h: a COCO folder at 240² (left out without --br35h);
- heart: BraTS cases (folders of NIfTI files) learnt by heart and scored on themselves (left out without --cases).

The full-resolution network has features 8-16-32-64 (heart: 8-16-32). A stem of 2 takes the place of its finest level
with twice the channels, so that depth and coarsest grid are the same; that of 4 takes two. Widths are those that two
cores can train in a minute; the question is what pixels as channels lose, not how good a large network is.
"""
import argparse
import importlib
import shutil
import tempfile
import time
from pathlib import Path

import common

VARIANTS = {'full resolution': (1, (8, 16, 32, 64)), 'stem 2': (2, (32, 64, 128)), 'stem 4': (4, (64, 128))}
ONCE = {'spatial_probability': 0.0, 'intensity_probability': 0.0}


def phantom(config, options, folder: Path) -> None:
    from unet_jax.phantom import write_brats_h5
    root = write_brats_h5(folder / 'data', volumes=12, shape=(12, options.size, options.size))
    config.data.update({'root': str(root), 'empty_slices': 0.3})
    config.train.update({'steps': options.steps, 'batch_size': 4})


def br35h(config, options, folder: Path) -> None:
    config.data.root = options.br35h
    config.train.update({'steps': options.steps, 'batch_size': 4})


def heart(config, options, folder: Path) -> None:
    root = folder / 'data'
    for case in options.cases.split(','):
        shutil.copytree(case, root / Path(case).name, dirs_exist_ok=True)
    side = min(64, options.size)
    config.data.update({'root': str(root), 'size': (side,) * 3, 'split': (1.0, 0.0, 0.0), 'foreground': 0.6})
    config.augment.update({**ONCE, 'flip': (False,) * 3})
    config.train.update({'steps': options.steps, 'batch_size': 2, 'validate': 'train'})


TASKS = {'phantom': ('brats', phantom), 'br35h': ('coco', br35h), 'heart': ('brats3d', heart)}


def setting(task: str, variant: str, options, folder: Path):
    """The config of a task with the network of a variant."""
    name, fill = TASKS[task]
    config = importlib.import_module(f'configs.{name}').get_config(*(['small'] if task == 'heart' else []))
    stem, features = VARIANTS[variant]
    features = features[:-1] if task == 'heart' and len(features) > 2 else features  # 64³: one level less
    levels = len(features)
    with config.unlocked():
        if task != 'heart':
            config.data.size = (options.size,) * 2
        fill(config, options, folder)
        config.model.update({'stem': stem, 'features': features, 'encoder_blocks': (1,) * levels,
                             'decoder_blocks': (1,) * (levels - 1), 'deep_supervision': 0, 'block': 'plain'})
        config.optimizer.update({'learning_rate': 3e-3, 'warmup': max(1, options.steps // 20), 'ema': 0.95})
        config.train.update({'log_every': options.steps, 'evaluate_every': options.steps,
                             'checkpoint_every': options.steps})
        config.evaluation.update({'batch_size': 4, 'flips': False, 'pictures': 0, 'lesions': ''})
    return config.lock()


def score(task: str, variant: str, options, folder: Path) -> list[list]:
    """A row a region: Dice of the cases that have it with its interval, and the seconds of the training."""
    from unet_jax.evaluation import summary
    from unet_jax.modes import start, train
    work = folder / variant.replace(' ', '_')
    config = setting(task, variant, options, folder)
    start.start(config, work)
    begun = time.perf_counter()
    train.train(config, work)
    seconds = time.perf_counter() - begun
    subset = 'train' if task == 'heart' else 'test'
    found = summary.read_summary(work / 'evaluation' / subset)['regions']
    rows = []
    for region, values in found.items():
        dice = values['dice'].get('with_region', values['dice'])
        rows.append([task, variant, region, dice['mean'], dice['low'], dice['high'], dice['n'], seconds])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--br35h', default='', help='a COCO folder with train, valid and test')
    parser.add_argument('--cases', default='', help='folders of BraTS cases, with commas')
    parser.add_argument('--steps', type=int, default=240)
    parser.add_argument('--size', type=int, default=240)
    parser.add_argument('--tasks', default=','.join(TASKS))
    parser.add_argument('--variants', default=','.join(VARIANTS))
    parser.add_argument('--results', type=Path, default=common.RESULTS)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for task in options.tasks.split(','):
            if task == 'br35h' and not options.br35h or task == 'heart' and not options.cases:
                continue
            folder = Path(temporary) / task
            folder.mkdir()
            for variant in options.variants.split(','):
                rows += score(task, variant, options, folder)
    common.report('stem_accuracy', 'Accuracy with and without a stem', [
        f'{options.steps} steps each, one run each, the same seed; Dice of the cases that have the region, its 95 % '
        'bootstrap interval over cases.',
        common.table(['task', 'network', 'region', 'Dice', 'low', 'high', 'cases', 'seconds, all'], rows)],
        results=options.results)


if __name__ == '__main__':
    main()
