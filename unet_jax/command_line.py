"""What the command line takes: flags, fields of the config and inputs. Parses and dispatches, nothing more."""
import errno
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from unet_jax import shipped, signals
from unet_jax.config import FIELDS, build, check_name, flat, read_typed
from unet_jax.errors import InputError
from unet_jax.fields import truth
from unet_jax.formats import inputs, recognise
from unet_jax.workdir import default_folder, load_config

flags.DEFINE_enum('mode', 'train', ['annotate', 'train', 'evaluate', 'predict', 'compare', 'plan', 'export', 'report'],
                  'What to do.')
flags.DEFINE_string('workdir', None, 'Where everything is written; runs/<config>-<data set> by default. To '
                    'evaluate and predict also a model file, which --mode=export writes.')
flags.DEFINE_string('subset', 'test', 'evaluate, compare, report: which subset.')
flags.DEFINE_string('checkpoint', 'best', "evaluate, predict: 'best', 'latest', a step; best,400 averages.")
flags.DEFINE_list('ensemble', [], 'evaluate, predict: more work directories or model files, to average with.')
flags.DEFINE_list('other', [], 'compare, evaluate: the work directories, evaluated before, to compare --workdir with.')
flags.DEFINE_multi_string('input', [], 'predict: images, HDF5 slices, NIfTI files or cases, or folders of them; "*" '
                          'and lists with commas too, and what stands on the command line without a flag.')
flags.DEFINE_string('output', None, 'predict: the folder for masks and overlays; <workdir>/predictions by default. '
                    'evaluate: the folder for all results. export: the model file; <workdir>/model.zip by default.')
flags.DEFINE_boolean('report', False, 'predict: also a page for each case.')
flags.DEFINE_float('memory', None, 'plan: GB that each device may use; all that it has by default.')
flags.DEFINE_list('target', [], 'plan: devices that need not be here, such as v5e:4x4,v5p:2x2x1,h100:8.')
flags.DEFINE_list('allow_changes', [], 'train: fields in which a run that goes on may differ, as train.steps.')
flags.DEFINE_boolean('distributed', None, 'One of several processes; found out under SLURM, Kubernetes and Cloud TPU.')
# fields of the config are taken from the command line here, by its table, so ml_collections is shown none
config_flags.DEFINE_config_file('config', None, 'A file, or a shipped config by its name; a work directory has its '
                                'own, saved, config.', sys_argv=[])
FLAGS = flags.FLAGS
OVERRIDE = re.compile(r'--?(no)?config\.([^=]+)(?:=(.*))?', re.DOTALL)


def parse(argv: list[str]) -> list[str]:
    """absl's flags, and what stands without a flag; without --config it is the one that --workdir holds.

    Paths may begin with ~, which a shell leaves alone behind `=`. Raises InputError for what nobody would use.
    """
    rest, typed = take_fields(FLAGS.read_flags_from_files(argv, force_gnu=True))
    FLAGS.set_gnu_getopt()  # flags may stand behind inputs
    extra = FLAGS(find_config(rest))[1:]
    for name in ('workdir', 'output'):
        if FLAGS[name].value:
            FLAGS[name].value = expand(FLAGS[name].value, name)
    for name in ('ensemble', 'other'):
        FLAGS[name].value = [expand(path, name) for path in FLAGS[name].value if path]
    given = FLAGS.config is not None
    if not given and FLAGS.workdir is None:
        raise InputError('name what to run: --config=configs/phantom.py needs no data, '
                         '--workdir=DIR goes on with a run')
    config = FLAGS.config if given else load_config(run_of(Path(FLAGS.workdir)))
    values = flat(config)  # a config file that cannot be read says so only when it is looked into
    FLAGS['config'].value = build({**values, **{name: read_typed(name, value) for name, value in typed.items()}})
    if FLAGS.workdir is None:
        named = config_flags.get_config_filename(FLAGS['config'])
        FLAGS.workdir = str(default_folder(named, root=FLAGS.config.data.root))
    if extra and FLAGS.mode != 'predict':
        raise InputError(f'{" ".join(extra)}: stands without a flag, and --mode={FLAGS.mode} takes no files; a value '
                         'belongs to its flag, as in --workdir=DIR, without spaces about the =')
    if FLAGS.input and FLAGS.mode != 'predict':
        raise InputError(f'--input={FLAGS.input[0]}: is for --mode=predict, and the mode is {FLAGS.mode}')
    if FLAGS.target and FLAGS.mode != 'plan':
        raise InputError(f'--target={",".join(FLAGS.target)}: is for --mode=plan, and the mode is {FLAGS.mode}')
    return [argv[0], *map(str, inputs.existing([*FLAGS.input, *extra]))] if FLAGS.mode == 'predict' else argv[:1]


def run_of(folder: Path) -> Path:
    """The work directory that --workdir names: for --mode=compare also by one of the results in it."""
    inside = FLAGS.mode == 'compare' and folder.parent.name in ('ensembles', 'interim')
    return folder.parent.parent if inside else folder


def take_fields(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(the command line without --config.FIELD=VALUE, {FIELD: VALUE}); of a field that is given twice the last.

    As of other flags the value may be the next argument, and a field that is true or false may be switched by
    --config.FIELD and --noconfig.FIELD alone.
    """
    rest, found, parts = [], {}, iter(argv)
    for part in parts:
        match = OVERRIDE.fullmatch(part)
        if part == '--':
            return [*rest, part, *parts], found
        if not match:
            rest.append(part)
            continue
        negated, name, value = match.groups()
        check_name(name)
        switch = FIELDS[name].kind is truth
        if negated and (not switch or value is not None):
            raise InputError(f'{part}: only a field that is True or False can be switched off so')
        if value is None:
            value = str(not negated) if switch else next(parts, None)
        if value is None:
            raise InputError(f'{part}: its value is missing')
        found[name] = value
    return rest, found


def expand(path: str, flag: str) -> str:
    """A path with the home folder in place of ~. Raises InputError for ~NAME of a user that there is not."""
    found = os.path.expanduser(path)
    if found.startswith('~') and not os.path.exists(found):
        raise InputError(f'--{flag}={path}: no home folder is known for {path.partition("/")[0]}; write out the path')
    return found


def find_config(argv: Sequence[str]) -> list[str]:
    """The command line with the file that --config means (`shipped.find`), which absl opens at once."""
    found, parts = [], iter(argv)
    for part in parts:
        flag, equals, value = part.partition('=')
        if part == '--':
            return [*found, part, *parts]
        if flag in ('--config', '-config') and (value := value if equals else next(parts, '')):
            path, told = shipped.find(expand(value, 'config'))
            print(told, end='\n' if told else '')
            part = f'--config={path}'
        found.append(part)
    return found


def main(argv: list[str]) -> None:
    absl_logging.set_verbosity(absl_logging.WARNING)  # orbax reports every file it touches
    # jax starts once the flags are good; a mode is loaded by itself, as scipy.stats and matplotlib take a second
    from unet_jax.modes import start
    from unet_jax.training import processes
    if FLAGS.target:
        from unet_jax.compiled import targets
        targets.start_on_cpu()
    told: list[str] = []
    config, folder = recognise.resolve(FLAGS.config, told.append), Path(FLAGS.workdir)
    with signals.raised():
        start.start(config, folder, distributed=FLAGS.distributed, mode=FLAGS.mode, output=FLAGS.output)
        with processes.among_peers():
            processes.by_the_first(lambda: print(*told, sep='\n', end='\n' * bool(told)), 'recognise')
            run_mode(config, folder, tuple(argv[1:]))


def run_mode(config: ConfigDict, folder: Path, sources: tuple[str, ...]) -> None:
    """Of several processes all come here; those modes that one can do alone are left to the first."""
    from unet_jax.training import processes
    if FLAGS.mode == 'annotate':
        from unet_jax.modes import annotate
        processes.by_the_first(lambda: annotate.annotate(config, folder), 'annotate')
    elif FLAGS.mode == 'train':
        from unet_jax.modes import train
        train.train(config, folder, allow=tuple(FLAGS.allow_changes))
    elif FLAGS.mode == 'evaluate':
        from unet_jax.modes import evaluate
        evaluate.evaluate(config, folder, subset=FLAGS.subset, which=FLAGS.checkpoint, ensemble=FLAGS.ensemble,
                          output=FLAGS.output, other=FLAGS.other)
    elif FLAGS.mode == 'plan':
        from unet_jax.modes import plan
        plan.plan(config, folder, memory=FLAGS.memory, targets=FLAGS.target)
    elif FLAGS.mode == 'export':
        from unet_jax.modes import export
        export.export(config, folder, output=FLAGS.output, which=FLAGS.checkpoint)
    elif FLAGS.mode == 'report':
        from unet_jax.modes import report
        processes.by_the_first(lambda: report.report(config, folder, subset=FLAGS.subset), 'report')
    elif FLAGS.mode == 'compare':
        from unet_jax.modes import compare
        processes.by_the_first(lambda: compare.compare(folder, FLAGS.other, subset=FLAGS.subset), 'compare')
    else:
        from unet_jax.modes import predict
        predict.predict(config, folder, sources=sources, output=FLAGS.output, which=FLAGS.checkpoint,
                        ensemble=FLAGS.ensemble, report=FLAGS.report)


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


def run() -> None:
    """The whole program, from sys.argv to its exit status."""
    logging.basicConfig(format='%(message)s')
    for flag in FLAGS.get_key_flags_for_module(sys.modules[__name__]):
        FLAGS.register_key_flag_for_module(sys.argv[0], flag)  # so that --help of main.py shows them
    app.run(lambda argv: explain(main, argv), flags_parser=lambda argv: explain(parse, argv))
