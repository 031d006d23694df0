"""What README, docs/ and benchmarks/NOTES.md tell users to type exists, and so does what they point to."""
import re
from pathlib import Path

import pytest

from configs.default import get_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')), ROOT / 'benchmarks' / 'NOTES.md']
MAIN = (ROOT / 'unet_jax' / 'command_line.py').read_text(encoding='utf-8')


def flags() -> set[str]:
    """Of the command line and of benchmarks/."""
    programs = ''.join(path.read_text(encoding='utf-8') for path in (ROOT / 'benchmarks').glob('*.py'))
    return set(re.findall(r"DEFINE_\w+\('(\w+)'", MAIN)) | set(re.findall(r"add_argument\('--([\w-]+)'", programs)) | {
        'config'}


def commands(text: str) -> str:
    """Lines that call one of the project's programs, with what continues them, and code without a space before it."""
    called = re.findall(r'python[^\n]* (?:main|benchmarks/\w+)\.py[^`]*?(?:\n\n|```|`|\n[^ ])', text)
    return ' '.join([*called, *re.findall(r'`(--[^`]*)`', text)])


@pytest.fixture(params=PAGES, ids=lambda page: page.name)
def text(request):
    return request.param.read_text(encoding='utf-8')


def test_every_config_field_that_a_page_names_is_there(text):
    text = re.sub(r'```python.*?```', '', text, flags=re.DOTALL)  # in code a part may be called config
    named = re.findall(r'config\.((?:[a-z_]+\.)*[a-z_]+)(?![\w/])', text)
    named += re.findall(r'`((?:data|model|augment|loss|optimizer|train|evaluation)\.[a-z_]+)', text)
    for field in set(named) - {'json', 'py', 'train.sbatch'}:  # files
        value = get_config()
        for part in field.split('.'):
            assert part in value, field
            value = value[part]


def test_every_flag_and_mode_that_a_page_names_is_there(text):
    called = commands(text)
    named = {flag.removeprefix('no') if flag == 'nodistributed' else flag
             for flag in re.findall(r'(?<![\w-])--(\w[\w-]*)', called)}
    foreign = {*re.findall(r'#SBATCH --([\w-]+)', text), 'xla_gpu_deterministic_ops', 'version'}  # SLURM, XLA, gcloud
    assert named - foreign <= flags(), named - foreign - flags()
    modes = re.search(r"DEFINE_enum\('mode', 'train', (\[.*?\])", MAIN)[1]
    assert all(f"'{mode}'" in modes for mode in re.findall(r'--mode=(\w+)', text))


def test_every_file_folder_and_make_target_that_a_page_names_is_there(text, request):
    here = request.node.callspec.params['text'].parent
    named = re.findall(r'(?<![\w/])(?:configs|unet_jax|tests|benchmarks|docs)/[\w/.-]*\w', text)
    named += [f'tests/{name}' for name in re.findall(r'`(test_\w+\.py)', text)]
    missing = [path for path in named if not (ROOT / path).exists()]
    missing += [link for link in re.findall(r'\]\(([^)#:]+)\)', text) if not (here / link).exists()]
    assert not missing
    targets = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(encoding='utf-8'), re.MULTILINE)
    assert set(re.findall(r'(?:`|^ {4})make ([a-z][\w-]*)', text, re.MULTILINE)) <= set(targets)


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
