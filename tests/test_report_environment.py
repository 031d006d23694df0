"""Pictures come out the same whatever a notebook, a container or a matplotlibrc hands over."""
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DRAW = """
import os, sys
before = dict(os.environ)
from pathlib import Path
import numpy as np
from unet_jax.report import curves, overlays
image = np.linspace(0, 1, 64 * 64).reshape(64, 64)
figure = overlays.overlay(image, image[..., None] > 0.5, None, ('tumour',), title='a_case')
overlays.save(figure, Path(sys.argv[1]))
print(len(curves.svg(curves.curves([{'step': k, 'split': 'train', 'loss': 1 / k} for k in (1, 2)]))))
assert dict(os.environ) == before, 'what is started from here would see another environment'
print(sorted(name for name in sys.modules if name.startswith(('matplotlib.pyplot', 'matplotlib.backends.backend_'))))
"""


def draw(path, cwd, **environment):
    """(digest of the picture, what was printed)."""
    around = {name: value for name, value in os.environ.items() if not name.startswith(('MPL', 'XDG'))}
    done = subprocess.run([sys.executable, '-c', DRAW, path], cwd=cwd, capture_output=True, text=True,
                          env=around | {'PYTHONPATH': str(ROOT)} | environment)
    assert done.returncode == 0, done.stderr
    return hashlib.sha256(path.read_bytes()).hexdigest(), done.stdout, done.stderr


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """The picture as it is drawn where nothing is odd."""
    folder = tmp_path_factory.mktemp('drawn')
    return draw(folder / 'a.png', folder)


@pytest.mark.parametrize('backend', ['module://matplotlib_inline.backend_inline', 'module://absent', 'TkAgg', 'svg'])
def test_the_backend_of_a_notebook_changes_nothing(backend, drawn, tmp_path):
    assert draw(tmp_path / 'a.png', tmp_path, MPLBACKEND=backend) == drawn
    assert 'pyplot' not in drawn[1]


def test_a_matplotlibrc_changes_nothing(drawn, tmp_path):
    """Neither its fonts nor LaTeX, without which the report of a finished run could not be drawn."""
    (tmp_path / 'matplotlibrc').write_text('text.usetex: True\nfont.size: 30\nsavefig.facecolor: red\n'
                                           'backend: absent\nsavefig.bbox: tight\n')
    assert draw(tmp_path / 'a.png', tmp_path)[:2] == drawn[:2]


def test_a_home_that_cannot_be_written_makes_no_noise_but_ours(drawn, tmp_path):
    (tmp_path / 'file').touch()
    picture, _, said = draw(tmp_path / 'a.png', tmp_path, HOME=str(tmp_path / 'file'), TMPDIR=str(tmp_path))
    assert picture == drawn[0]
    assert f'The cache goes to {tmp_path}/unet_jax-{os.getuid()}' in said and said.count('\n') == 1
