"""Builds wheel and sdist, installs each into an empty environment and tries them beside another project's configs/.

    python tests/try_package.py LOCK [FOLDER]    # make test-package; FOLDER keeps the environment

Takes the time of installing all requirements once; the sdist is installed over the wheel.
"""
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = ['--config.data.size=32,32', '--config.model.features=(8,16)', '--config.model.encoder_blocks=(1,1)',
        '--config.model.decoder_blocks=(1,)', '--config.train.steps=4', '--config.train.batch_size=4',
        '--config.optimizer.warmup=1', '--config.data.phantom.train=8', '--config.data.phantom.valid=2',
        '--config.data.phantom.test=2', '--config.data.phantom.size=64', '--config.evaluation.pictures=1']
FOUR_LINES = """
import unet_jax
predictor = unet_jax.load('runs/phantom')
found = predictor('runs/phantom/phantoms/test/phantom_0000.png')
print(found.save('mask.png'), found.masks['tumour'].shape)
"""


def run(*command, cwd: Path) -> None:
    print('$', *map(str, command), flush=True)
    around = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV')}
    subprocess.run(list(map(str, command)), cwd=cwd, check=True, env=around | {'JAX_PLATFORMS': 'cpu'})


def main(lock: str, folder: str) -> None:
    home = Path(folder)
    for name in ('build', 'empty'):
        venv.create(home / name, with_pip=True, clear=True)
    python, builder = (home / name / 'bin/python' for name in ('empty', 'build'))
    pip = ['-m', 'pip', 'install', '-q', '--disable-pip-version-check']
    run(builder, *pip, 'build', cwd=home)
    run(builder, '-m', 'build', '--outdir', home / 'dist', ROOT, cwd=home)  # the wheel is made from the sdist
    kinds = {path.suffix: path for path in (home / 'dist').iterdir()}
    for kind, more in (('.whl', ['-c', ROOT / lock]), ('.gz', ['--no-deps', '--force-reinstall'])):
        run(python, *pip, *more, kinds[kind], cwd=home)
        place = home / f'project{kind}'  # of someone else, with configs/ that must not be looked into
        (place / 'configs').mkdir(parents=True)
        for name in ('__init__', 'default', 'phantom'):
            (place / 'configs' / f'{name}.py').write_text('raise SystemExit("a foreign config was run")\n')
        run(home / 'empty/bin/unet_jax', '--config=phantom', *TINY, cwd=place)
        run(python, '-m', 'unet_jax', '--workdir=runs/phantom', '--mode=evaluate', '--subset=valid', cwd=place)
        run(home / 'empty/bin/unet_jax', '--workdir=runs/phantom', '--mode=predict', '--output=masks',
            'runs/phantom/phantoms/test', cwd=place)
        run(python, '-c', FOUR_LINES, cwd=place)
        assert (place / 'mask.png').read_bytes() == (place / 'masks/phantom_0000.png').read_bytes()
        print(f'{kinds[kind].name}: installed, trained, evaluated, predicted, the same bytes from the API', flush=True)


if __name__ == '__main__':
    if len(sys.argv) > 2:
        main(*sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(sys.argv[1], temporary)
