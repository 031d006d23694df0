"""Programs for devices that are not there: compiled where the plug-ins are, and read from their text anywhere."""
import pytest
from test_devices import tiny

from unet_jax.compiled import cost, program_text, table, targets
from unet_jax.errors import InputError
from unet_jax.experiment import create
from unet_jax.modes import plan

TEXT = """\
HloModule jit_advance

%body.1 (p.1: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p.1 = (s32[], bf16[4,8]) parameter(0)
  %item.1 = bf16[4,8]{1,0} get-tuple-element(%p.1), index=1
  ROOT %double.1 = bf16[4,8]{1,0} multiply(%item.1, %item.1), metadata={op_name="jit(advance)/jvp(UNet)/UNet.blocks/encoder_0/norm/mul"}, backend_config={"estimated_cycles":"10"}
}

%cond.2 (p.2: (s32[], bf16[4,8])) -> pred[] {
  %p.2 = (s32[], bf16[4,8]) parameter(0)
  %count.2 = s32[] get-tuple-element(%p.2), index=0
  %limit.2 = s32[]{:T(128)} constant(2)
  ROOT %less.2 = pred[] compare(%count.2, %limit.2), direction=LT
}

ENTRY %main.1 (x.1: bf16[4,8]) -> bf16[4,8] {
  %x.1 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %fast.1 = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} copy(%x.1), metadata={op_name="jit(advance)/vmap()/gather"}, backend_config={"estimated_cycles":"7"}
  %loop.1 = (s32[], bf16[4,8]) while(%fast.1), condition=%cond.1, body=%body.1, backend_config={"known_trip_count":{"n":"3"}}
  %loop.2 = (s32[], bf16[4,8]) while(%fast.1), condition=%cond.2, body=%body.1
  %sum.1 = f32[16]{0} all-reduce(%x.1), to_apply=%add.1, metadata={op_name="jit(advance)/transpose(jvp(UNet))/UNet.head/head_0/dot"}
  ROOT %last.1 = bf16[4,8]{1,0} add(%x.1, %x.1), metadata={op_name="jit(advance)/transpose(jvp())/mul"}, backend_config={"estimated_cycles":"3"}
}
"""  # noqa: E501


def test_a_program_s_text_says_what_its_kernels_move_and_where_they_come_from():
    found = program_text.kernels(TEXT)
    padded = 8 * 128 * 2  # 4 × 8 bfloat16 numbers in a tile of a TPU
    assert [(k.op, k.place, k.bytes, k.cycles, k.times) for k in found] == [
        ('copy', 'augmentation', padded, 7, 1),  # what it writes lies in fast memory
        ('multiply', 'forward encoder_0/norm', 3 * 3 * 64, 30, 3),
        ('multiply', 'forward encoder_0/norm', 2 * 3 * 64, 20, 2),
        ('all-reduce', 'backward head_0', 64, 0, 1),
        ('add', 'backward loss', 64 + 2 * padded, 3, 1)]
    assert program_text.seconds(found, clock=10.0, bandwidth=64.0) == 0.7 + 3.0 + 2.0 + 1.0 + 0.3
    assert program_text.unestimated([*found, program_text.Kernel('gather', '', 1, 0, 2)]) == 2
    assert program_text.collectives(found) == {'all-reduce': (1, 64)}
    assert program_text.dearest(found, 'cycles', 2) == [
        ('forward encoder_0/norm', 50 / 60), ('augmentation', 7 / 60)]


@pytest.mark.parametrize('name, count, hosts', [
    ('v5e:2x2', 4, 1), ('v5e:4x4', 16, 4), ('v5p:2x2x1', 4, 1), ('v6e:2x4', 8, 1), ('h100:8', 8, 1),
    ('h200:16', 16, 2)])
def test_the_devices_of_a_target_are_those_of_its_hosts(name, count, hosts):
    target = targets.read(name)
    if why := targets.missing(target):
        pytest.skip(why)
    devices = targets.devices(target)
    assert len(devices) == count and len({device.process_index for device in devices}) == hosts


@pytest.mark.parametrize('name', ['v5e:1x1', 'h100:2'])
def test_both_steps_of_a_tiny_network_compile_and_add_up(name):
    target = targets.read(name)
    if why := targets.missing(target):
        pytest.skip(why)
    found = {step: cost.of_step(create(tiny()), target, step, largest=step == 'train') for step in cost.STEPS}
    train, predict = found['train'], found['predict']
    convolutions = 2 * 256 * 9 * (1 * 8 + 16 * 8) + 2 * 64 * 9 * 8 * 16  # of a sample's way forward
    others = 2 * 64 * 16 * 32 + 2 * 256 * 8  # up-sampling and head
    count = target.shape[0] if name.startswith('h') else 1
    assert predict.flops * count == pytest.approx((convolutions + others) * predict.batch)
    assert 2 < train.flops / predict.flops < 4
    assert 0 < train.share < 1 and train.bytes > predict.bytes > 0 and train.largest > train.batch
    assert train.dtype == 'bfloat16' and bool(train.collectives) == (count > 1)
    places = {place.split()[0] for place, _ in train.dearest}
    assert places <= {'forward', 'backward', 'augmentation', 'optimiser'} and len(train.dearest) == 5
    assert len(table.row(train)) == len(table.COLUMNS) and name in table.places(train)


def test_what_does_not_fit_says_so_with_what_to_try():
    one = cost.Cost(targets.read('v5e:1x1'), 'train', 'bfloat16', 2, 38e9, 1e12, 0, {}, 0.0, [], 0, 0)
    assert 'does not fit' in table.row(one) and 'model.remat' in table.places(one)


@pytest.mark.parametrize('name', ['v5e', 'v5e:16', 'v5p:2x2', 'a100:8', 'h100:12', 'h100:0', 'h100:2x4'])
def test_a_target_that_is_none_is_refused_with_those_that_there_are(name):
    with pytest.raises(InputError, match=f'--target={name}: '):
        plan.plan(tiny(), targets=[name])


@pytest.mark.parametrize('name, what', [('v5e:2x2', r"pip install '\.\[tpu\]'"),
                                        ('h100:8', r"pip install '\.\[cuda13\]'")])
def test_without_its_compiler_a_target_says_what_to_install(monkeypatch, name, what):
    monkeypatch.setattr(targets.importlib.util, 'find_spec', lambda package: None)
    with pytest.raises(InputError, match=what):
        plan.plan(tiny(), targets=['h100:1', name])


def test_a_config_that_is_still_to_be_planned_is_told_to_be_planned_first():
    config = tiny().copy_and_resolve_references()
    with config.unlocked():
        config.train.plan = True
    with pytest.raises(InputError, match='--target=h100:1 .*plan first'):
        plan.plan(config, targets=['h100:1'])
