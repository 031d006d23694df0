"""unet_jax on the command line: python main.py --config=configs/phantom.py. Parses and dispatches, nothing more."""
from unet_jax import huge_pages

if __name__ == '__main__':
    huge_pages.restart()  # before anything large is imported

import errno
import logging
import sys
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from unet_jax import signals
from unet_jax.errors import InputError
from unet_jax.workdir import load_config

flags.DEFINE_enum('mode', 'train', ['annotate', 'train', 'evaluate', 'predict', 'compare', 'plan'], 'What to do.')
flags.DEFINE_string('workdir', None, 'Where everything is written; runs/<name of the config> by default.')
flags.DEFINE_string('subset', 'test', 'evaluate, compare: which subset.')
flags.DEFINE_string('checkpoint', 'best', "evaluate, predict: 'best', 'latest', a step; best,400 averages.")
flags.DEFINE_list('ensemble', [], 'evaluate, predict: more work directories, such as other folds, to average with.')
flags.DEFINE_string('other', None, 'compare: the work directory to compare --workdir with; both evaluated before.')
flags.DEFINE_string('input', None, 'predict: an image, an HDF5 slice, a NIfTI file or case, or a folder of them.')
flags.DEFINE_string('output', None, 'predict: the folder for masks and overlays; <workdir>/predictions by default.')
flags.DEFINE_float('memory', None, 'plan: GB that each device may use; all that it has by default.')
flags.DEFINE_list('allow_changes', [], 'train: fields in which a run that goes on may differ, as train.steps.')
flags.DEFINE_boolean('distributed', None, 'One of several processes; found out under SLURM, Kubernetes and Cloud TPU.')
config_flags.DEFINE_config_file('config', None, 'A file of configs/; a work directory has its own, saved, config.')
FLAGS = flags.FLAGS


def parse(argv: list[str]) -> list[str]:
    """absl's flags; without --config it is the one that --workdir holds."""
    given = {}  # both --name=value and --name value
    for part, following in zip(argv, [*argv[1:], '']):
        if part.startswith('-'):
            name, equals, value = part.lstrip('-').partition('=')
            given[name] = value if equals else following
    if 'config' not in given and 'workdir' in given:
        load_config(Path(given['workdir']))  # its own message where there is none
        saved = Path(__file__).parent / 'configs' / 'saved.py'
        argv = [argv[0], f'--config={saved}:{given["workdir"]}', *argv[1:]]
    rest = FLAGS(argv)
    if FLAGS.config is None:
        raise InputError('name what to run: --config=configs/phantom.py needs no data, '
                         '--workdir=DIR goes on with a run')
    _ = FLAGS.config.seed  # a config file that cannot be read says so only when it is looked into
    if FLAGS.workdir is None:
        FLAGS.workdir = str(Path('runs') / Path(given['config'].partition(':')[0]).stem)
    return rest


def main(_: list[str]) -> None:
    absl_logging.set_verbosity(absl_logging.WARNING)  # orbax reports every file it touches
    # jax starts once the flags are good; a mode is loaded by itself, as scipy.stats and matplotlib take a second
    from unet_jax.modes import start
    from unet_jax.training import sharding
    config, folder = FLAGS.config, Path(FLAGS.workdir)
    with signals.raised():
        start.start(config, folder, distributed=FLAGS.distributed)
        with sharding.among_peers():
            run_mode(config, folder)


def run_mode(config, folder: Path) -> None:
    """Of several processes all come here; those modes that one can do alone are left to the first."""
    from unet_jax.training import sharding
    if FLAGS.mode == 'annotate':
        from unet_jax.modes import annotate
        sharding.by_the_first(lambda: annotate.annotate(config, folder), 'annotate')
    elif FLAGS.mode == 'train':
        from unet_jax.modes import train
        train.train(config, folder, allow=tuple(FLAGS.allow_changes))
    elif FLAGS.mode == 'evaluate':
        from unet_jax.modes import evaluate
        evaluate.evaluate(config, folder, subset=FLAGS.subset, which=FLAGS.checkpoint, ensemble=FLAGS.ensemble)
    elif FLAGS.mode == 'plan':
        from unet_jax.modes import plan
        plan.plan(config, memory=FLAGS.memory)
    elif FLAGS.mode == 'compare':
        from unet_jax.modes import compare
        sharding.by_the_first(lambda: compare.compare(folder, FLAGS.other, subset=FLAGS.subset), 'compare')
    else:
        from unet_jax.modes import predict
        predict.predict(config, folder, source=FLAGS.input, output=FLAGS.output, which=FLAGS.checkpoint,
                        ensemble=FLAGS.ensemble)


def explain(run, argument) -> object:
    """`run(argument)`, with a message and exit status 2 instead of a traceback for what the user can mend."""
    try:
        return run(argument)
    except signals.Interrupted as told:
        signals.leave(str(told), 0)
    except KeyboardInterrupt:
        signals.leave('interrupted', 130, sys.stderr)
    except (InputError, flags.Error) as error:
        message = str(error)
        if 'Traceback' in message:  # of a config file that cannot be read: its last line says why
            message = f'{message.splitlines()[0]} {message.strip().splitlines()[-1].strip()}'
    except (KeyError, AttributeError, OSError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if run is not parse and not full:
            raise
        message = f'the disk is full: {error}. Make room, then run the same command again: training goes on from ' \
            'the newest checkpoint' if full else f'--config: {error}' if isinstance(error, OSError) else \
            'no such config field: ' + str(error.args[0]).replace('\\n', '; ').replace('\n', '; ')
    print(f'error: {message}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
    logging.basicConfig(format='%(message)s')
    app.run(lambda argv: explain(main, argv), flags_parser=lambda argv: explain(parse, argv))
