"""docs/tour.ipynb is executed as Jupyter does, and has no outputs stored in it."""
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from test_main import environment

ROOT = Path(__file__).resolve().parents[1]


def test_the_tour_trains_looks_and_predicts(tmp_path, monkeypatch):
    """With the settings of test_main.py, whose compiled programs it finds."""
    for name, value in (environment(tmp_path / 'cache') | {'PYTHONPATH': str(ROOT)}).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(ROOT / 'docs/tour.ipynb', as_version=4)
    assert not any(cell.get('outputs') for cell in notebook.cells)
    NotebookClient(notebook, timeout=240, resources={'metadata': {'path': str(tmp_path)}}).execute()
    assert (tmp_path / 'masks/tumour.png').exists() and (tmp_path / 'runs/tour/report.html').exists()
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    told = ''.join(output.get('text', '') for output in outputs)
    assert 'left' in told and 'IProgress' not in told and 'Warning' not in told  # bars, in text without ipywidgets
    assert any('image/png' in output.get('data', {}) for output in outputs)
