"""How well, after equal time: ours against MONAI's U-Net, patient by patient, on any set of images.

    python benchmarks/accuracy.py --root=DIR                                # folds by patient, ten minutes each
    python benchmarks/accuracy.py --root=DIR --folds=0 --minutes=6          # the set's own subsets
    python benchmarks/accuracy.py --root=DIR --config=configs/coco.py --format=coco --set=train.batch_size=16

Ours is what `main.py --config.train.minutes=10` does: plan, compilation, training, choosing the best checkpoint and
its evaluation are all within the minutes, only decoding the images is apart. The peer trains for the whole of them,
and its prediction is apart. Both see the same images, decoded once to the same size, and are scored on the same test
patients by the same code: slices stacked to a volume, and image by image. They take turns, and every other fold
begins with the other one. MONAI (accuracy_monai.py): UNet with 16 to 256 channels and two residual units, Dice of the
batch + cross-entropy, flips, turns, zoom, brightness, batches of 16, a rate that falls to 0 at the end, bfloat16
where the processor has instructions for it; mirrored inputs are averaged where ours are. A share of the training
patients is held back for choosing our best checkpoint, and neither trains on it. The table and its numbers go to
results/accuracy-<set>.md and .json.
"""
import contextlib
import importlib.util
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np

NAMES = {'here': 'unet_jax', 'monai': "MONAI's U-Net"}
PER_CASE = 'volume Dice'  # of sets without slices, where an image is a case, Dice


def cpu_seconds() -> float:
    """Of this process and those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def read_config(path: str, fields: list[str]):
    """The config of a file, with 'section.name=value' put in. Raises what a bad file or field raises."""
    from unet_jax.config import build, flat, read_typed
    spec = importlib.util.spec_from_file_location('accuracy_config', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    given = {name: read_typed(name, value) for name, _, value in (field.partition('=') for field in fields)}
    return build(flat(module.get_config()) | given)


def patients_of(frame, folds: int, fold: int, valid: float, seed: int) -> dict[str, list[str]]:
    """{'train', 'valid', 'test'}: the cases of each; test is one of `folds` by group, valid a share of the rest."""
    from unet_jax.annotations import split
    rows = frame.drop_duplicates('path')
    strata = rows.category_id.notna().astype(float)
    number = split.k_folds(rows.group, folds, seed=seed, strata=strata)
    rest = rows[number != fold]
    part = split.by_group(rest.group, (1 - valid, valid, 0), seed, strata=strata[number != fold])
    found = {name: sorted(set(rest.case[part == name])) for name in ('train', 'valid')}
    return found | {'test': sorted(set(rows.case[number == fold]))}


def jax_worker(arguments) -> None:
    from absl import logging as absl_logging

    from unet_jax import experiment as experiments
    from unet_jax import workdir
    from unet_jax.formats import recognise
    from unet_jax.modes import auto, image_kind, start, train
    absl_logging.set_verbosity(absl_logging.WARNING)
    held = {}

    def open_fold(folder: str, fold: int):
        """The plan of a fold, its samples for us and, as arrays, for the peer."""
        home, config = Path(folder) / f'fold_{fold}', read_config(arguments.config, arguments.set)
        with config.unlocked():
            config.data.update({'root': arguments.root, 'format': arguments.format, 'cache': f'{folder}/cache'})
        config = recognise.resolve(config)
        with config.unlocked():
            home.mkdir(parents=True, exist_ok=True)
            if arguments.folds:
                config.data.split = (1.0, 0.0, 0.0)
                cases = patients_of(experiments.read_frame(config), arguments.folds, fold, arguments.valid,
                                    config.data.split_seed)
                (home / 'split.json').write_text(json.dumps(cases))
                config.data.split_file = str(home / 'split.json')
        start.start(config, home)
        begun = time.perf_counter()
        frame = experiments.read_frame(config)
        config = auto.planned(config, home, frame) if config.train.plan else experiments.settle(config, frame)
        planning = time.perf_counter() - begun
        one = experiments.create(config)
        rows = image_kind.rows(one, frame)
        for subset in ('train', 'test'):
            part = image_kind.cases.by_case(rows[rows.subset == subset].reset_index(drop=True))
            samples = image_kind.open_samples(one, part)
            own = slice(None) if samples.near is None else samples.near[:, samples.near.shape[1] // 2]
            np.savez(home / f'{subset}.npz', image=samples.image[own], label=targets(one, samples.label[own]))
        held.update(config=config, home=home, rows=rows, planning=planning)
        return {'cases': {name: int(part.case.nunique()) for name, part in frame.groupby('subset')},
                'images': {name: int(part.path.nunique()) for name, part in frame.groupby('subset')},
                'stacked': bool(frame.slice.notna().any()), 'flips': bool(config.evaluation.flips),
                'size': list(config.data.size)}

    def run(seconds: float):
        """Trains and is scored within so many seconds, of which planning took some; says what it took."""
        config, home = held['config'].copy_and_resolve_references(), held['home'] / 'run'
        with config.unlocked():
            config.train.minutes = max(seconds - held['planning'], 1.0) / 60
        begun, used = time.perf_counter(), cpu_seconds()
        train.train(config, home)
        took = {'seconds': time.perf_counter() - begun + held['planning'], 'cpu': cpu_seconds() - used}
        fixed = json.loads((home / 'time.json').read_text())
        return took | {'planning': held['planning'], 'compiling': 2 * fixed['compile'],
                       'steps': workdir.load_config(home).train.steps}

    def scores(probabilities: str | None):
        """[{case, region, dice, present}] and the same of images: of our masks, or of (N, H, W, R) probabilities."""
        config, home = held['config'], held['home']
        if probabilities is None:
            return tables(home / 'run' / 'evaluation' / 'test')
        return score(experiments.create(config), held['rows'], np.load(probabilities, mmap_mode='r'))

    common.serve({'open': open_fold, 'run': run, 'scores': scores})


def targets(one, label: np.ndarray) -> np.ndarray:
    """Bit sets (N, H, W) -> uint8 (N, H, W, R) of the regions."""
    from unet_jax.annotations import labels
    return labels.region_masks(label, one.region_bits).astype(np.uint8)


def score(one, rows, probability: np.ndarray) -> dict:
    """What `tables` gives, of probabilities at the network's size, by the code that scores ours."""
    import pandas as pd

    from unet_jax.annotations import labels
    from unet_jax.evaluation import cases
    from unet_jax.pipeline import decode
    rows = cases.by_case(rows[rows.subset == 'test'].reset_index(drop=True))

    def arrays():
        for k, row in enumerate(rows.itertuples()):
            enlarged = decode.extract(probability[k].astype(np.float32), height=row.height, width=row.width)
            bits = labels.from_probabilities(enlarged, threshold=one.config.evaluation.threshold, regions=one.regions,
                                             classes=one.classes)
            yield k, (decode.decode_label(row, one.settings), bits)

    lines, images = [], []
    for case in cases.stack(rows, arrays()):
        lines += cases.score(one, case)
        images += cases.score_images(one, case)
    return plain(pd.DataFrame(lines), pd.DataFrame(images))


def tables(folder: Path) -> dict:
    """{'cases', 'images'} of an evaluation; images is that of cases where nothing is stacked."""
    import pandas as pd
    path = folder / 'images.csv'
    return plain(pd.read_csv(folder / 'cases.csv', dtype={'case': str}),
                 pd.read_csv(path, dtype={'case': str}) if path.exists() else pd.DataFrame())


def plain(cases, images) -> dict:
    def listed(table):
        return [{'case': row.case, 'region': row.region, 'dice': None if row.dice != row.dice else float(row.dice),
                 'present': bool(row.tp + row.fn), 'tp': int(row.tp), 'fp': int(row.fp), 'fn': int(row.fn)}
                for row in table.itertuples()]
    return {'cases': listed(cases), 'images': listed(images if len(images) else cases)}


def monai_worker() -> None:
    import accuracy_monai
    common.serve({'run': accuracy_monai.run})


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument('--root', required=True, help='the folder of the set')
    parser.add_argument('--format', default='auto', help='config.data.format')
    parser.add_argument('--config', default=str(common.ROOT / 'configs' / 'auto.py'), help='of ours')
    parser.add_argument('--set', action='append', default=[], help='FIELD=VALUE of our config, several times')
    parser.add_argument('--folds', type=int, default=4, help='by patient; 0 takes the subsets of the set')
    parser.add_argument('--first', type=int, default=0, help='as many folds are run; 0 is all')
    parser.add_argument('--valid', type=float, default=0.1, help='share of the training patients, for choosing')
    parser.add_argument('--minutes', type=float, default=10.0, help='for each and fold')
    arguments = parser.parse_args()
    arguments.root = os.path.abspath(arguments.root)
    if arguments.worker:
        return jax_worker(arguments) if arguments.worker == 'here' else monai_worker()
    os.environ['JAX_PLATFORMS'] = 'cpu'  # the peer is timed there too
    given = [part for part in sys.argv[1:] if not part.startswith('--results')]
    folder, found = tempfile.mkdtemp(prefix='accuracy-'), []
    try:
        with contextlib.ExitStack() as stack:
            workers = {name: stack.enter_context(common.Worker(__file__, name, *given)) for name in NAMES}
            for fold in range(arguments.first or max(1, arguments.folds)):
                found.append(one_fold(workers, folder, fold, arguments.minutes * 60))
                said = ', '.join(f'{name} {mean(found[-1]["scores"][name]["cases"]):.3f}' for name in NAMES)
                print(f'fold {fold + 1}: {said}', file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write(arguments, found)


def one_fold(workers, folder: str, fold: int, seconds: float) -> dict:
    """What both reached and took in a fold; every other one begins with the peer."""
    about, took, scores = workers['here'].ask('open', folder=folder, fold=fold), {}, {}
    home = f'{folder}/fold_{fold}'
    for name in list(NAMES)[::-1 if fold % 2 else 1]:
        more = {} if name == 'here' else {'folder': home, 'flips': about['flips'], 'seed': fold}
        took[name] = workers[name].ask('run', seconds=seconds, **more)
    for name in NAMES:
        scores[name] = workers['here'].ask('scores', probabilities=took[name].pop('probabilities', None))
    return {'fold': fold, **about, 'took': took, 'scores': scores}


def mean(lines: list[dict]) -> float:
    """Of those that have the region, as a case without it on both sides would be 1."""
    return float(np.mean([line['dice'] for line in lines if line['present'] and line['dice'] is not None] or [np.nan]))


def pooled(lines: list[dict]) -> float:
    tp, fp, fn = (sum(line[key] for line in lines) for key in ('tp', 'fp', 'fn'))
    return 2 * tp / max(1, 2 * tp + fp + fn)


def write(arguments, found: list[dict]) -> Path:
    """The tables of all folds, and every number as JSON."""
    what = PER_CASE if found[0]['stacked'] else 'Dice'
    regions = list(dict.fromkeys(line['region'] for line in found[0]['scores']['here']['cases']))
    rows, lines, totals = [], {name: {'cases': [], 'images': []} for name in NAMES}, []
    for one in found:
        for name in NAMES:
            for kind in lines[name]:
                lines[name][kind] += one['scores'][name][kind]
    several = [region for region in regions] if len(regions) > 1 else ['']
    for region in several:
        mine = {name: {kind: [line for line in part if not region or line['region'] == region]
                       for kind, part in lines[name].items()} for name in NAMES}
        every = [(line['dice'] for line in mine[name]['images'] if line['dice'] is not None) for name in NAMES]
        head = f'{region}: ' if region else ''
        totals += [[f'{head}mean {what} of the cases that have it', *(mean(mine[n]['cases']) for n in NAMES)],
                   [f'{head}pooled Dice', *(pooled(mine[n]['cases']) for n in NAMES)],
                   [f'{head}mean over images that have it', *(mean(mine[n]['images']) for n in NAMES)],
                   [f'{head}mean over all images', *(float(np.mean(list(part))) for part in every)]]
    if found[0]['stacked']:
        for one in found:
            here, peer = (one['scores'][name]['cases'] for name in NAMES)
            rows += [[line['case'], one['fold'] + 1, line['region'], line['dice'], other['dice']]
                     for line, other in zip(here, peer, strict=True)]
    took = [[one['fold'] + 1, *(one['took'][name][key] for name in NAMES for key in ('steps', 'seconds', 'cpu')),
             *(one['took']['here'][part] for part in ('planning', 'compiling'))] for one in found]
    name = Path(arguments.root).name
    cases = ', '.join(f'{number} to {use}' for use, number in found[0]['cases'].items())
    size = '×'.join(map(str, found[0]['size']))
    parts = [f'{name}, {len(found)} of {max(1, arguments.folds)} folds by patient ({cases} in the first) at {size}, '
             f'{arguments.minutes:g} minutes each. Ours: {Path(arguments.config).name} '
             f'{" ".join(arguments.set)}'.rstrip() + '.',
             common.table(['', *NAMES.values()], totals),
             *([f'{what[0].upper()}{what[1:]} of every test patient:\n\n' + common.table(
                 ['patient', 'fold', 'region', *NAMES.values()], rows)] if rows else []),
             'What it took, in seconds:\n\n' + common.table(
                 ['fold', 'our steps', 'seconds', 'of processor', "MONAI's steps", 'seconds', 'of processor',
                  'of ours planning', 'of ours compiling, about'], took),
             f'MONAI in {"bfloat16" if found[0]["took"]["monai"]["bfloat16"] else "float32"}, '
             f'{found[0]["took"]["monai"]["parameters"]:,} parameters. A mean leaves out cases without the region on '
             'either side only where it says so.']
    path = common.report('accuracy', 'Accuracy after equal time', parts, results=arguments.results, variant=name,
                         dated=False)
    path.with_suffix('.json').write_text(json.dumps({'minutes': arguments.minutes, 'config': arguments.config,
                                                     'set': arguments.set, 'folds': found}, indent=1) + '\n')
    return path


if __name__ == '__main__':
    main()
