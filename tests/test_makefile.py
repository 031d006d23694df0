"""make notices an environment that another Python made."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).resolve().parents[1] / 'Makefile'


@pytest.mark.skipif(not shutil.which('make'), reason='needs make')
def test_an_environment_of_another_python_is_named_with_the_ways_out(tmp_path):
    python = tmp_path / '.venv/bin/python'
    python.parent.mkdir(parents=True)

    def make(goal, version):
        python.write_text(f'#!/bin/sh\necho {version}\n')
        python.chmod(0o755)
        outside = {k: v for k, v in os.environ.items() if k not in ('MAKEFLAGS', 'MAKEOVERRIDES', 'VENV')}
        return subprocess.run(['make', '-n', '-f', MAKEFILE, goal, f'PYTHON={sys.executable}'], cwd=tmp_path,
                              env=outside, capture_output=True, text=True)

    here = '{}.{}'.format(*sys.version_info)
    assert f'.venv holds Python 3.9, not {here}: make clean' in make('test', '3.9').stderr
    assert 'holds Python' not in make('test', here).stderr
    assert make('clean', '3.9').returncode == 0
