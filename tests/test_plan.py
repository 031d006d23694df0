"""--mode=plan: its numbers, against counts made by hand and the compiler's own."""
import pytest
from test_devices import tiny

from unet_jax.errors import InputError
from unet_jax.experiment import create
from unet_jax.modes import plan


def test_the_table_says_parameters_flops_memory_and_the_largest_batch(capsys):
    plan.plan(tiny(), memory=0.01)
    rows = dict(line.split('  ', 1) for line in capsys.readouterr().out.splitlines())
    rows = {name: value.strip() for name, value in rows.items()}
    # 3×3 kernels: 1→8, 8→16, 16→8 after the join; up 16→4·8 and its bias; norms: scale and offset; head 8→1 and bias
    expected = 9 * (1 * 8 + 8 * 16 + 16 * 8) + 16 * 32 + 8 + 2 * (8 + 16 + 8) + 8 + 1
    assert rows['parameters'] == f'{expected:,}'
    assert rows['input'] == '8 × 16 × 16 × 1'
    largest = int(rows['largest batch'].split()[0])
    assert largest >= 8 and 'in 0.0 GB' in rows['largest batch']
    experiment = create(tiny())
    assert plan.step_cost(experiment, largest)[0]['together'] <= 0.01e9
    assert plan.step_cost(experiment, 2 * largest)[0]['together'] > 0.01e9


def test_flops_grow_with_the_batch_and_contain_the_convolutions():
    experiment = create(tiny())
    one, two = (plan.step_cost(experiment, n)[1] for n in (8, 16))
    forward = 2 * 256 * 9 * (1 * 8 + 16 * 8) + 2 * 64 * 9 * 8 * 16  # of a sample: convolutions alone
    assert two == pytest.approx(2 * one, rel=0.05) and one / 8 > 2.5 * forward


def test_too_little_memory_says_what_to_try(capsys):
    plan.plan(tiny(), memory=0.0001)
    assert 'none fits' in capsys.readouterr().out


def test_memory_must_be_above_zero():
    with pytest.raises(InputError, match='--memory=0'):
        plan.plan(tiny(), memory=0)


def test_an_image_too_small_for_the_deepest_level_is_refused_before_any_work():
    config = tiny().copy_and_resolve_references()
    with config.unlocked():
        config.data.size = (2, 2)
    with pytest.raises(InputError, match=r'config.data.size = \(2, 2\).*2 times smaller'):
        create(config)
