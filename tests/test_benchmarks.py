"""The benchmarks' own arithmetic: pairs, turns, tables, workers; and that both libraries run the same network."""
import argparse
import ast
import importlib
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / 'benchmarks'


@pytest.fixture(autouse=True)
def found(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv('XLA_FLAGS', '')  # `start` adds to it
    cache = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update('jax_compilation_cache_dir', cache)


@pytest.fixture
def common():
    return importlib.import_module('common')


def test_ratio_is_of_pairs_not_of_medians(common):
    assert common.ratio([1.0, 2.0, 4.0], [2.0, 2.0, 4.0]) == (1.0, 1.0, 2.0)
    assert common.ratio([2.0], [3.0])[0] == 1.5  # theirs takes longer: above 1 we are faster
    for pair in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(ValueError, match='no pairs'):
            common.ratio(*pair)


def test_turns_alternate_and_every_other_round_is_reversed(common):
    order = []
    entries = {name: lambda n=name: order.append(n) or float(len(order)) for name in 'abc'}
    assert common.in_turn(entries, 3) == {'a': [1.0, 6.0, 7.0], 'b': [2.0, 5.0, 8.0], 'c': [3.0, 4.0, 9.0]}
    assert ''.join(order) == 'abccbaabc'


def test_seconds_leaves_out_the_first_call_and_counts_the_others(common, monkeypatch):
    clock = {'now': 0.0, 'calls': 0}
    monkeypatch.setattr(common.time, 'perf_counter', lambda: clock['now'])

    def run():
        clock['now'] += 10.0 if clock['calls'] == 0 else 0.25
        clock['calls'] += 1

    assert common.seconds(run, least=1.0) == 0.25
    assert clock['calls'] == 5


def test_table_says_what_was_not_measured(common):
    lines = common.table(['what', 'number'], [['a', 1234567], ['b', 0.123456], ['c', None]]).splitlines()
    assert lines == ['| what |       number |', '|------|-------------:|', '| a    |    1,234,567 |',
                     '| b    |       0.1235 |', '| c    | not measured |']


def test_report_names_date_hardware_versions_and_commit(common, tmp_path, capsys):
    path = common.report('step', 'A title', [common.table(['a'], [[1.0]])], results=tmp_path / 'new', variant='2d')
    text = path.read_text()
    assert path.name.startswith('step-2d-20') and path.suffix == '.md'
    assert text == capsys.readouterr().out.removesuffix('\n')
    for name in ('Date: 20', 'Hardware: ', ' cores of ', 'Python 3', f'jax {jax.__version__}', 'Commit: '):
        assert name in text


WORKER = '''
import sys
sys.path.insert(0, {folder!r})
import common

def half(x):
    print('not an answer')
    return {{'half': x / 2}}

common.serve({{'half': half, 'fail': lambda: 1 / 0}})
'''


def stopped(pid: int) -> bool:
    """Whether a child is stopped, within two seconds."""
    for _ in range(200):
        if os.waitpid(pid, os.WUNTRACED | os.WNOHANG)[0] == pid:
            return True
        time.sleep(0.01)
    return False


def test_a_worker_answers_whatever_it_prints_and_says_when_it_ends(common, tmp_path):
    script = tmp_path / 'worker.py'
    script.write_text(WORKER.format(folder=str(FOLDER)))
    with common.Worker(str(script), 'test') as worker:
        assert worker.ask('half', x=3) == {'half': 1.5}
        assert stopped(worker.process.pid)  # until it is asked again
        assert worker.ask('half', x=5) == {'half': 2.5}
        with pytest.raises(RuntimeError, match="the test worker ended with status 1 at 'fail'"):
            worker.ask('fail')


def test_bfloat16_is_measured_where_the_processor_has_instructions_for_it(common, monkeypatch, tmp_path):
    cases = {'flags\t\t: fpu avx2 avx512_bf16': True, 'flags\t: fpu avx512f avx512bw': False,
             'Features\t: fp asimd bf16 sve': True, '': False}
    for text, expected in cases.items():
        (tmp_path / 'cpuinfo').write_text(f'processor\t: 0\nmodel name\t: A name\n{text}\n')
        with monkeypatch.context() as patch:
            patch.setattr(common, 'CPUINFO', tmp_path / 'cpuinfo')
            assert common.bfloat16() == expected, text
            assert ' cores of A name (' in common.processor()
            assert (', bf16 instructions)' in common.processor()) == expected


def test_rows_say_what_was_not_run(common, monkeypatch, tmp_path):
    monkeypatch.setattr(common, 'bfloat16', lambda: False)
    step, end_to_end = map(importlib.import_module, ('step', 'end_to_end'))
    monkeypatch.setattr(end_to_end.common, 'bfloat16', lambda: False)
    options = argparse.Namespace(case='tiny', rounds=1, side=8, results=tmp_path, root='', seconds=1.0)
    measured = {(name, what, 'float32'): [2.0]
                for name in ('jax', 'torch') for what in ('forward', 'train', 'ceiling')}
    best = {(what, 'float32'): 'eager' for what in ('forward', 'train')}
    peaks = {'jax': {'peak': 1.0, 'libraries': 1.0}}
    step.write(options, step.CASES['tiny'], '', measured, best, [], peaks, {'compile': [1.0, 1.0]}, (1e9, 3e9))
    about = {'here': {'parameters': 7, 'batch': 8, 'way': 'float32', 'images': 3, 'size': [4, 4], 'decoding': 1.0},
             'smp': {'parameters': 9, 'batch': 8, 'way': 'a way', 'note': 'A note.'}}
    end_to_end.write(options, about, {'here': [40.0], 'smp': [20.0]}, {'here': [0.0], 'smp': [0.5]}, {}, ['nnunet'])
    text = ''.join(path.read_text() for path in tmp_path.iterdir())
    lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines()]
    assert ['train', 'bfloat16', 'not measured', 'not measured', 'emulated: not run', '', '', ''] in lines
    assert [end_to_end.PEERS['smp'], '9', '8', '20', '0.4', '50.00%', 'a way', '2.00 (2.00-2.00)'] in lines
    assert [end_to_end.PEERS['nnunet'], *['not measured'] * 4, 'did not run', '', ''] in lines
    assert 'A note. bfloat16: emulated on this processor, not run.' in text


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_peak_memory_is_that_of_the_call(common):
    before = common.resident()
    assert common.peak_resident(lambda: np.ones(8_000_000).sum()) - before > 55  # 61 MiB, some of them there before
    assert common.peak_resident(lambda: None) - before < 30


def test_a_moment_is_shared_and_a_gap_belongs_to_the_operator_with_threads_of_its_own():
    operators = importlib.import_module('operators')
    events = [(0.0, 1.0, 'conv'), (0.5, 1.0, 'add'), (3.0, 4.0, 'add')]
    assert operators.share_out(events, {'conv'}) == pytest.approx({'conv': 0.75 + 2.0, 'add': 0.25 + 1.0})


def test_operators_are_told_apart_by_where_they_are_in_the_network():
    operators = importlib.import_module('operators')
    metadata = 'metadata={op_name="jit(train_step)/transpose(jvp(UNet))/encoder_0/conv/conv_general_dilated"}'
    known = operators.kinds(f'  %convolution.5 = f32[2,8,8,4]{{3,2,1,0}} convolution(%a, %b), {metadata}\n'
                            '  ROOT %copy.1 = f32[4]{0} copy(%c)')
    assert known['convolution.5'] == ('gradient', 'encoder_0/conv/conv_general_dilated', 'f32[2,8,8,4]', 'convolution')
    assert operators.group('convolution.5', known['convolution.5']) == 'convolution, gradient'
    assert operators.group('copy.1', known['copy.1']) == 'copy'


@pytest.mark.parametrize('size,downsample', [((16, 16), 'max'), ((8, 8, 8), 'conv')])
def test_pytorch_computes_the_same_network_and_loss(size, downsample):
    torch = pytest.importorskip('torch')
    networks_jax, networks_torch = map(importlib.import_module, ('networks_jax', 'networks_torch'))
    one = networks_jax.Side(networks_jax.create(size, 4, (4, 8), batch=2, downsample=downsample))
    module = networks_torch.UNet(len(size), 4, (4, 8), 3, 2, downsample)
    networks_torch.load(module, networks_jax.flat(one.state.params))
    assert networks_torch.parameters(module) == networks_jax.parameters(one.state.params)
    target = np.stack([(one.host['label'] & bits) > 0 for bits in one.experiment.region_bits], -1).astype(np.float32)
    assert 0 < target.mean() < 1
    logits = np.asarray(one.forward())
    side = networks_torch.Side(module, np.asarray(one.image), target, compiled=False, channels_last=True,
                               bfloat16=False)
    np.testing.assert_allclose(np.moveaxis(side.forward().numpy(), 1, -1), logits, atol=1e-4)
    loss = float(networks_torch.loss(torch.from_numpy(np.moveaxis(logits, -1, 1).copy()), side.target))
    assert float(one.train()['loss']) == pytest.approx(loss, rel=1e-4)
    assert float(side.train()) == pytest.approx(loss, rel=1e-4)


def imported(module: str, found: dict[str, str]) -> dict[str, str]:
    """{name: who imports it} of everything that `module` and the project's modules behind it import when loaded."""
    path = FOLDER.parent.joinpath(*module.split('.'))
    path = path / '__init__.py' if path.is_dir() else path.with_suffix('.py')
    for node in ast.parse(path.read_text()).body if path.exists() else ():
        names = [name.name for name in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f'{node.module}.{name}' for name in names)]
        for name in set(names) - set(found):
            found[name] = module
            imported(name, found)
    return found


def test_training_begins_without_what_only_reports_phantoms_and_scores_need():
    found = imported('unet_jax.modes.train', {})
    assert {'jax', 'scipy', 'unet_jax.training.loop', 'unet_jax.phantom', 'unet_jax.evaluation.surface'} <= set(found)
    slow = {name: by for name, by in found.items() if name.startswith(('matplotlib', 'skimage', 'scipy.'))}
    assert not slow, 'import them in the function that needs them: the first step waits for them otherwise'
