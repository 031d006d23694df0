"""What docs/ tells users to type exists."""
import re
from pathlib import Path

import pytest

from configs.default import get_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / 'docs').glob('*.md'))


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_field_flag_and_file_that_a_page_names_is_there(page):
    text = page.read_text(encoding='utf-8')
    fields = set(re.findall(r'config\.((?:[a-z_]+\.)*[a-z_]+)(?==|`|\b)', text))
    fields = {field for field in fields if not field.endswith('.py')}
    assert fields
    for field in fields:
        value = get_config()
        for part in field.split('.'):
            assert part in value, field
            value = value[part]
    flags = set(re.findall(r"DEFINE_\w+\('(\w+)'", (ROOT / 'main.py').read_text(encoding='utf-8')))
    commands = ' '.join(re.findall(r'python[^\n]* main\.py[^`]*?(?:\n\n|```|`|\n[^ ])', text))
    named = set(re.findall(r'--(\w+)', commands)) - {'config'}
    assert named and named <= flags, named - flags
    for path in re.findall(r'(?:configs|unet_jax)/[\w/]+\.py', text):
        assert (ROOT / path).exists(), path


def test_launch_files_start_as_many_samples_as_devices():
    """The batch size of each example divides by its devices."""
    text = (ROOT / 'docs' / 'scaling.md').read_text(encoding='utf-8')
    slurm, tpu, kubernetes = (text.split(f'\n## {name}')[1].split('\n## ')[0] for name in ('SLURM', 'Cloud', 'Kube'))
    nodes, gpus = (int(re.search(rf'#SBATCH --{name}=(\d+)', slurm)[1]) for name in ('nodes', 'gpus-per-node'))
    devices = {slurm: nodes * gpus, tpu: int(re.search(r'v5litepod-(\d+)', tpu)[1]),
               kubernetes: int(re.search(r'completions: (\d+)', kubernetes)[1]) *
               int(re.search(r'nvidia.com/gpu: (\d+)', kubernetes)[1])}
    for part, count in devices.items():
        for use in ('train', 'evaluation'):
            assert int(re.search(rf'--config\.{use}\.batch_size=(\d+)', part)[1]) % count == 0
