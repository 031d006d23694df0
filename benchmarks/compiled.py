"""What the steps of the shipped configs cost on accelerators that are not there, by compiling for them.

    make compiled                                        # all, in an environment of its own; hours on two cores
    python benchmarks/compiled.py --configs brats --targets v5e:1x1,h100:1

Writes results/compiled.md, a section a config; those that are not asked for stay as they are. Nothing is run: what the
figures are is said above the table (unet_jax/compiled/table.py). A device has the batch of the config; many devices
have so many times as much. Volumes have four sequences.
"""
import argparse
import datetime
import importlib
import re
import sys

import common

NAMES = ('phantom', 'coco', 'brats', 'brats3d:small', 'brats3d')
TARGETS = 'v5e:1x1,v5e:4x4,v5p:1x1x1,v5p:2x2x2,v6e:1x1,v6e:4x4,h100:1,h100:8,h200:1,h200:8'
REGIONS = (('WT', (1, 2, 3), 2), ('TC', (1, 3), 1), ('ET', (3,), 3))


def experiment(name: str, devices: int):
    """That of configs/<name>.py with its batch on every one of `devices`, and made-up categories where it has none."""
    from unet_jax.experiment import create
    file, _, variant = name.partition(':')
    config = importlib.import_module(f'configs.{file}').get_config(*filter(None, [variant]))
    with config.unlocked():
        if not config.data.categories:
            volumes = len(config.data.size) == 3
            config.data.update({'categories': (1, 2, 3) if volumes else (1,), 'channels': 4 if volumes else 1,
                                'regions': REGIONS if volumes else (('tumour', (1,), 1),)})
        config.train.batch_size *= devices
        config.evaluation.batch_size *= devices
    return create(config.lock())


def sections(text: str) -> dict[str, str]:
    """{config: its section} of what an earlier run wrote."""
    parts = re.split(r'^## (\S+)\n', text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2]))


def section(name: str, costs: list, table) -> str:
    """Commit, table and places of the steps of a config."""
    about = f'{datetime.date.today().isoformat()}, commit {common.commit()}, {common.versions()}'
    return '\n\n'.join([about, common.table(table.COLUMNS, [table.row(one) for one in costs]),
                        '\n'.join(f'- {table.places(one)}' for one in costs if one.largest is not None)]) + '\n\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--configs', default=','.join(NAMES))
    parser.add_argument('--targets', default=TARGETS)
    parser.add_argument('--steps', default='train,predict')
    options = parser.parse_args()
    from unet_jax.compiled import cost, table, targets
    targets.start_on_cpu()
    path = common.RESULTS / 'compiled.md'
    found = sections(path.read_text(encoding='utf-8')) if path.exists() else {}
    for name in options.configs.split(','):
        costs = []
        for target in map(targets.read, options.targets.split(',')):
            devices = targets.devices(target)
            for step in options.steps.split(','):
                print(name, target.name, step, file=sys.stderr, flush=True)
                costs.append(cost.of_step(experiment(name, len(devices)), target, step,
                                          largest=len(devices) == 1 and step == 'train'))
        found[name] = section(name, costs, table)
        path.write_text(f'# Compiled for devices that were not there\n\n{table.WORDS}\n\n' + ''.join(
            f'## {key}\n{found[key]}' for key in [*NAMES, *sorted(found.keys() - {*NAMES})] if key in found),
            encoding='utf-8')
    print(path.read_text(encoding='utf-8'))


if __name__ == '__main__':
    main()
