"""From a folder to a plan: fingerprints of made-up sets, what is decided from them, and a run that starts from it."""
import copy
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from test_resume import Killed, at, die

from configs import auto, brats3d, coco, default
from unet_jax import config_check, workdir
from unet_jax.config import flat
from unet_jax.errors import InputError
from unet_jax.experiment import create, read_frame, settle
from unet_jax.modes import auto as planning
from unet_jax.modes import train
from unet_jax.modes.plan import plan as plan_mode
from unet_jax.planning import decisions, memory, topology
from unet_jax.planning.fingerprint import fingerprint, prose
from unet_jax.training import budget, checkpoint

CPU = decisions.Device('cpu', 'cpu', 1, 12e9)
GPU, TPU = (decisions.Device(kind, kind, 8, 70e9) for kind in ('gpu', 'tpu'))


def measured(**changes):
    """The fingerprint of 406 grey pictures of 640×640 (Br35H), with changes."""
    region = {'name': 'Tumor', 'ids': [1], 'images': 1.0, 'share': 0.078, 'pixels': 0.076,
              'diameter': [0.132, 0.196, 0.245, 0.299, 0.396]}
    return copy.deepcopy({
        'kind': 'image', 'format': 'coco', 'images': 580, 'looked_into': 240, 'positive': 1.0, 'stacked': False,
        'subsets': {'train': 406, 'valid': 87, 'test': 87}, 'patients': 580, 'cases': 580, 'colour': 0.03,
        'images_per_patient': [1.0] * 5, 'shape': [[640.0, 640.0]] * 5, 'spacing': [[1.0, 1.0]] * 5,
        'box': [[640.0, 640.0]] * 5, 'classes': [region], 'regions': [region],
        'intensities': {'apart': [0.44], 'patients_apart': [0.44]},
        'mirror': [0.55, 0.62], 'missing': {}, 'alike': [], 'odd': []} | changes)


def slices():
    """Of 609 slices of 16 patients, 256×256 in three sequences (LGG)."""
    region = {'name': 'foreground', 'ids': [1], 'images': 0.267, 'share': 0.048, 'pixels': 0.013,
              'diameter': [0.0609, 0.11, 0.148, 0.196, 0.242]}
    return measured(format='pairs', stacked=True, positive=0.2775, colour=0.996, mirror=[0.455, 0.776],
                    shape=[[256.0, 256.0]] * 5, regions=[region], classes=[region], subsets={'train': 428})


def scans(spacing=(1.0, 1.0, 1.0), box=(131.0, 170.0, 140.0)):
    return measured(kind='volume', format='nifti', spacing=[list(spacing)] * 5, box=[list(box)] * 5,
                    shape=[[240.0, 240.0, 155.0]] * 5, mirror=[0.96, 0.69, 0.69], subsets={'train': 100})


def planned(found, on=CPU, **fields):
    config = default.get_config()
    with config.ignore_type(), config.unlocked():
        config.data.format = found['format']
        for name, value in fields.items():
            section, field = name.split('__')
            config[section][field] = value
    result = decisions.applied(config, decisions.decide(config, found, on))
    config_check.check_config(result)
    return flat(result)


def test_pictures_like_br35h_get_the_tuned_config():
    found, tuned = planned(measured()), flat(coco.get_config())
    free = {'train.steps', 'train.minutes', 'train.evaluate_every', 'train.checkpoint_every', 'optimizer.ema'}
    assert {name: found[name] for name in tuned.keys() - free} == {name: tuned[name] for name in tuned.keys() - free}
    assert found['train.minutes'] == 6


def test_slices_of_patients_that_mostly_lack_tumour_get_what_was_better_for_them():
    found = planned(slices())
    wanted = {'loss.batch_dice': True, 'data.standardise': False, 'model.stem': 2, 'train.batch_size': 16,
              'model.features': (16, 32, 64, 128, 256), 'data.channels': 3, 'augment.flip': (False, True)}
    assert {name: found[name] for name in wanted} == wanted


def test_patients_unlike_in_brightness_have_a_scale_each_and_rare_regions_weigh_more():
    unlike = slices() | {'intensities': {'apart': [1.9], 'patients_apart': [1.7]}}
    assert planned(unlike)['data.standardise'] == 'patient'
    found = scans()
    for share, weights in ((0.3, ()), (0.01, (0.18, 1.8))):
        found['regions'] = [found['regions'][0] | {'pixels': n} for n in (0.1, 0.1 * share)]
        assert planned(found)['loss.class_weights'] == pytest.approx(weights)


def test_volumes_get_the_tuned_networks_on_processors_and_gpus():
    for on, name in ((CPU, 'small'), (GPU, 'full')):
        found, tuned = planned(scans(), on), flat(brats3d.get_config(name))
        same = ['data.size', 'data.standardise', 'data.orientation', 'model.stem', 'model.features', 'model.block',
                'model.encoder_blocks', 'model.decoder_blocks', 'model.deep_supervision', 'model.dtype',
                'model.strides', 'augment.flip', 'augment.rotation', 'augment.scale', 'loss.batch_dice',
                'optimizer.learning_rate']
        assert {n: found[n] for n in same} == {n: tuned[n] for n in same}
    assert found['train.batch_size'] == 8  # a patch for each GPU


def test_what_the_user_sets_stays_and_the_rest_follows():
    found = planned(measured(), data__size=(64, 64), train__steps=77)
    assert found['data.size'] == (64, 64) and found['train.steps'] == 77 and found['train.minutes'] == 0
    assert len(found['model.features']) == 4 and found['model.stem'] == 2  # of 64 pixels stems of 4 leave too few


def test_thick_slices_are_halved_once_pixels_are_as_long():
    found = planned(scans(spacing=(0.9, 0.9, 5.0), box=(230.0, 230.0, 24.0)))
    assert found['data.size'][2] < 30 and min(found['data.size'][:2]) > 90
    assert found['model.strides'][:2] == ((2, 2, 1), (2, 2, 1)) and found['model.kernels'][0] == (3, 3, 1)
    first = topology.topology((192, 192, 24), (0.9, 0.9, 5.0), 6)
    assert first.strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1))
    assert first.kernels[:3] == ((3, 3, 1), (3, 3, 1), (3, 3, 3))


def test_fewer_levels_by_the_user_have_strides_for_those_alone():
    found = planned(scans(spacing=(0.9, 0.9, 5.0), box=(230.0, 230.0, 24.0)), model__features=(8, 16, 24))
    assert len(found['model.strides']) == len(found['model.kernels']) == len(found['model.encoder_blocks']) == 3


def test_a_network_for_a_tpu_fills_its_lanes_and_several_devices_share_the_batch():
    found = planned(measured(), TPU)
    assert min(found['model.features']) == 128 and found['model.dtype'] == 'auto'  # bfloat16 there
    assert found['train.batch_size'] % 8 == found['evaluation.batch_size'] % 8 == 0


def test_less_memory_costs_first_the_batch_and_then_the_size():
    config = default.get_config()
    sizes = [decisions.changes(decisions.decide(config, measured(), CPU, scale=s)) for s in (1.0, 0.5, 0.05)]
    assert [(s['train.batch_size'], s['data.size']) for s in sizes] == [
        (8, (128, 128)), (4, (128, 128)), (1, (80, 80))]


def write_pairs(root, *, patients=4, slices=5, size=(48, 40), values=(255,), tumours=2, seed=0):
    """Slices of patients as image and mask pairs, a bright disc in the first `tumours` of each."""
    rng = np.random.default_rng(seed)
    grid = np.indices(size)
    for p in range(patients):
        folder = root / f'P{p}'
        folder.mkdir(parents=True)
        for k in range(slices):
            head = ((grid[0] - size[0] / 2) ** 2 + (grid[1] - size[1] / 2) ** 2) ** 0.5 < min(size) / 2.2
            centre = rng.uniform(14, 26, 2)
            disc = ((grid - centre[:, None, None]) ** 2).sum(0) < 36
            drawn = disc & head & (k < tumours)
            image = np.uint8(head * (80 + rng.integers(0, 20, size)) + 90 * drawn)
            Image.fromarray(image).save(folder / f'P{p}_{k}.png')
            Image.fromarray(np.uint8(drawn) * values[p % len(values)]).save(folder / f'P{p}_{k}_mask.png')


def base(root, **fields):
    config = auto.get_config()
    with config.ignore_type(), config.unlocked():
        config.data.update({'format': 'pairs', 'root': str(root), 'split': (0.5, 0.25, 0.25),
                            'cache': str(root.parent / 'cache'), **fields})
    return config


def test_a_folder_of_slices_is_measured_as_what_it_is(tmp_path):
    write_pairs(tmp_path / 'set')
    config = base(tmp_path / 'set')
    frame = read_frame(config)
    found = fingerprint(settle(config, frame), frame)
    assert found == json.loads(json.dumps(found)) == fingerprint(settle(config, frame), frame)
    assert found['stacked'] and found['patients'] == 4 and found['positive'] == pytest.approx(0.4)
    assert found['shape'][2] == [48, 40] and found['colour'] == 0 and found['odd'] == []
    region = found['regions'][0]
    assert region['diameter'][2] == pytest.approx(12 / 48, rel=0.15) and region['images'] == pytest.approx(0.4)
    assert found['intensities']['foreground'][0]['mean'] > found['intensities']['body'][0]['mean'] + 40
    assert '20 images of 4 patients' in prose(found) and '40 % of the images have a tumour' in prose(found)


def test_what_stands_out_is_named(tmp_path):
    write_pairs(tmp_path / 'set')
    for name, size in (('P0/P0_3', (48, 40)), ('P1/P1_0', (140, 120)), ('P1/P1_0_mask', (140, 120))):
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / f'set/{name}.png')
    config = base(tmp_path / 'set', split=(1, 0, 0), group_pattern=r'(P\d_\d)')  # each a patient of one image
    frame = read_frame(config)
    odd = ' '.join(fingerprint(settle(config, frame), frame)['odd'])
    assert 'P0_3.png: the same value everywhere' in odd and '140×120, the median is 48×40' in odd


def test_classes_that_look_alike_and_never_meet_come_with_the_flag_that_merges_them(tmp_path, capsys):
    write_pairs(tmp_path / 'set', values=(1, 2))
    config = base(tmp_path / 'set', split=(1, 0, 0))
    frame = read_frame(config)
    found = fingerprint(settle(config, frame), frame)
    assert [pair['ids'] for pair in found['alike']] == [[1, 2]]
    *_, hint = decisions.hints(found)  # after that of no subset to validate on
    assert "called 'value 1' and 'value 2', never occur in one image" in hint
    flag = hint.split('--config.data.regions=')[1].strip('"')
    merged = base(tmp_path / 'set', regions=workdir.tuples(eval(flag)))
    assert create(settle(merged, frame)).names == ('tumour',)


def test_a_plan_is_a_config_file_that_gives_the_same_config(tmp_path, capsys, monkeypatch):
    """And memory, which the compiled step decides: with little the batch of 16 shrinks, to one for each of the eight
    devices, with next to none it is refused."""
    write_pairs(tmp_path / 'set')
    costs = iter([30e9, 3e9])
    monkeypatch.setattr(memory, 'step_cost', lambda *_: ({'together': next(costs)}, 0))
    plan_mode(base(tmp_path / 'set'), tmp_path / 'run', memory=8)
    told = capsys.readouterr().out
    plan = json.loads((tmp_path / 'run/plan.json').read_text())
    assert plan['memory'] == {'used': 3e9, 'limit': 8e9, 'programs': 2} and '; 3 of 8 GB' in told
    names = {}
    exec((tmp_path / 'run/plan.py').read_text(), names)
    config = names['get_config']()
    config_check.check_config(config)
    for decision in plan['decisions']:
        assert decision['reason'] and decision['line'] in told
        for name, value in decision['changes'].items():
            assert flat(config)[name] == workdir.tuples(value)
    assert config.train.batch_size == 8 and not config.train.plan and config.data.root == str(tmp_path / 'set')
    monkeypatch.setattr(memory, 'step_cost', lambda *_: ({'together': 30e9}, 0))
    with pytest.raises(InputError, match='no step fits into 8.00 GB'):
        plan_mode(base(tmp_path / 'set'), tmp_path / 'other', memory=8)


def test_a_run_goes_on_with_its_plan_and_what_the_user_sets_against_it_shows(tmp_path):
    run = decisions.applied(base(tmp_path), [decisions.Decision({'train.batch_size': 4, 'model.stem': 2,
                                                                 'train.plan': False}, '')])
    again = planning.adopted(base(tmp_path), run)
    assert flat(again) == flat(run)
    other = base(tmp_path)
    with other.unlocked():
        other.model.stem = 4
    assert workdir.differences(run, planning.adopted(other, run)) == {'model.stem': (2, 4)}


def test_a_folder_is_planned_and_trained_for_its_minutes_and_goes_on_exactly(tmp_path, monkeypatch, capsys):
    write_pairs(tmp_path / 'set', size=(32, 32))
    config = base(tmp_path / 'set')
    with config.unlocked():
        config.data.size = (16, 16)
        config.model.update({'features': (4, 8), 'encoder_blocks': (1, 1), 'decoder_blocks': (1,)})
        config.train.minutes = 1e-3
        config.evaluation.pictures = 1
    straight, killed = tmp_path / 'straight', tmp_path / 'killed'
    train.train(config, straight)
    told = capsys.readouterr().out
    assert '0.001 minutes: 3 steps of' in told and 'of 4 patients' in told and 'loss.batch_dice True' in told
    settled = workdir.load_config(straight)
    assert (settled.train.steps, settled.train.minutes, settled.train.plan, settled.loss.batch_dice) == (
        3, 1e-3, False, True)
    assert (straight / 'evaluation/test/summary.json').exists()
    page = (straight / 'report.html').read_text()
    assert '<h2>Plan</h2>' in page and '40 % of the images have a tumour' in page

    killed.mkdir()
    shutil.copy(straight / budget.NAME, killed)  # as fixed by the same measurement
    monkeypatch.setattr(budget, 'measure', lambda *_: pytest.fail('the steps are fixed once'))
    at(monkeypatch, checkpoint, 'save', 2, die)
    with pytest.raises(Killed):
        train.train(config, killed)
    train.train(config, killed)
    assert checkpoint.steps(killed / 'checkpoints')[-1] == 3
    assert (killed / 'metrics.jsonl').read_bytes() == (straight / 'metrics.jsonl').read_bytes()
    other = config.copy_and_resolve_references()
    with other.unlocked():
        other.model.features = (4, 16)
    with pytest.raises(InputError, match='model.features'):
        train.train(other, killed)


@pytest.mark.parametrize('accumulate, together', [(1, 1), (4, 1), (2, 3)])
def test_steps_fill_the_time_and_nothing_beyond_it(accumulate, together):
    config = default.get_config()
    with config.unlocked():
        config.optimizer.accumulate, config.train.steps_per_dispatch = accumulate, together
        config.train.minutes, config.train.log_every = 10.0, 60
    found = budget.Timing(compile=20.0, step=0.05, validation=4.0, evaluation=30.0)
    fixed = budget.schedule(config, found, 600.0)
    took = budget.duration(found, fixed['train.steps'])
    assert took == 20 + 0.05 * fixed['train.steps'] + 3 * 4 + 30
    assert 570 < took <= 600 and fixed['train.steps'] == 3 * fixed['train.evaluate_every']
    config_check.check_config(budget.changed(config, fixed))
    assert budget.schedule(config, found, 10.0)['train.steps'] == 3 * accumulate * together
