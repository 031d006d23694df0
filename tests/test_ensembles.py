"""An average of checkpoints is a result of its own, and is not scored on what a member was trained on."""
import json
import re
import shutil
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from PIL import Image
from test_together import tiny

from unet_jax import workdir
from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.experiment import create, init_params
from unet_jax.inference import members
from unet_jax.modes.compare import compare
from unet_jax.modes.evaluate import check_tuning, evaluate
from unet_jax.training import checkpoint, state

TEST, FOLDS = ['t0', 't1'], (['a', 'b'], ['c', 'd'])


def rows(subset, cases, groups=None):
    return [{'file_name': f'{case}.png', 'width': 16, 'height': 16, 'subset': subset, 'image_id': case,
             'path': f'{case}.png', 'group': group, 'case': f'{case}.png', 'category_id': 1, 'category': 'tumour',
             'segmentation': [[2, 2, 9, 2, 9, 9, 2, 9]]}
            for case, group in zip(cases, groups or [f'patient of {case}' for case in cases], strict=True)]


def begin(folder, root, made, *, seed=0, steps=(0,)):
    """The work directory of a run that was never trained, with the frame `made`, and its config."""
    root.mkdir(exist_ok=True)
    for row in made:
        image = np.random.default_rng(len(row['path'])).integers(0, 255, (16, 16), np.uint8)
        Image.fromarray(image).save(root / row['path'])
    config = tiny(seed)
    config.data.update({'root': str(root), 'cache': str(root.parent / 'cache'), 'names': ('tumour',)})
    config.evaluation.update({'pictures': 1, 'batch_size': 8})
    frames.save(frames.build(made), folder)
    workdir.save_config(folder, config)
    begun = state.create(init_params(create(config)), optax.sgd(0.1))
    for step in steps:
        checkpoint.save(folder / 'checkpoints', replace(begun, step=jnp.int32(step)), score=float(step == steps[0]),
                        notes={}, keep=len(steps))
    return config


def fold(parent, number, *, name=None, test=TEST, **more):
    """One of two runs on folds with a common test set: (config, folder)."""
    folder = parent / (name or f'fold_{number}')
    made = rows('test', test) + rows('valid', FOLDS[number]) + rows('train', FOLDS[1 - number])
    return begin(folder, parent / 'set', made, seed=number, **more), folder


def read(folder, subset='test'):
    return json.loads((folder / 'evaluation' / subset / 'summary.json').read_text())


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
    """(folder of a run, evaluated by itself and with another fold, config, what its own scores were before)."""
    parent = tmp_path_factory.mktemp('folds')
    config, first = fold(parent, 0, steps=(0, 5))
    _, other = fold(parent, 1, name='<b>fold & 1')
    evaluate(config, first, subset='test', which='best')
    before = {path: path.read_bytes() for path in sorted(first.rglob('*')) if path.is_file()}
    evaluate(config, first, subset='test', which='best', ensemble=[str(other)])
    return first, other, config, before


def test_an_average_of_folds_lies_beside_the_runs_own_result(averaged):
    first, other, _, before = averaged
    assert all(path.read_bytes() == content for path, content in before.items())
    (home,) = (first / 'ensembles').iterdir()
    assert re.fullmatch(r'fold_0\+_b_fold_1-[0-9a-f]{8}', home.name)
    summary = read(home)
    assert summary['members'] == [{'run': str(first), 'checkpoint': 0}, {'run': str(other), 'checkpoint': 0}]
    assert summary['checkpoint'] == f'{first}:0, {other}:0' and not {'members', 'seen'} & read(first).keys()
    assert len(list((home / 'predictions/test').glob('*.png'))) == 2
    assert summary['regions']['tumour'] != read(first)['regions']['tumour']


def test_the_report_of_an_average_names_its_members_and_none_is_obeyed_as_markup(averaged):
    first, _, _, _ = averaged
    (home,) = (first / 'ensembles').iterdir()
    page = (home / 'report.html').read_text()
    assert '<b>fold' not in page and page.count('&lt;b&gt;fold &amp; 1') >= 3  # text, list, command
    assert home.name in page and 'An average of several runs' in page and '&quot;train&quot;' in page  # the config


def test_an_average_is_compared_with_a_run_and_both_say_of_what_they_are(averaged, capsys):
    first, other, _, _ = averaged
    (home,) = (first / 'ensembles').iterdir()
    compare(first, [str(home)], subset='test')
    printed = capsys.readouterr().out
    assert f'a: {home} (checkpoint {first}:0, {other}:0)\nb: {first} (checkpoint 0)' in printed
    (path,) = (first / 'evaluation/test').glob('compared_with_*/compare.json')
    assert json.loads(path.read_text())['runs'][1]['checkpoint'] == 0


def test_another_checkpoint_of_the_run_says_whose_scores_it_replaces_and_an_average_replaces_none(averaged, capsys):
    first, _, config, _ = averaged
    evaluate(config, first, subset='test', which='0,5')
    assert read(first)['checkpoint'] == 0 and read(first / 'ensembles/checkpoints_0+5')['checkpoint'] == '0, 5'
    evaluate(config, first, subset='test', which='5')
    assert read(first)['checkpoint'] == 5
    assert 'In place of the scores of checkpoint 0' in capsys.readouterr().out


def test_the_name_is_that_of_the_members_whatever_their_order_and_place(tmp_path):
    named = []
    for place in ('here', 'there'):
        parent = tmp_path / place
        parent.mkdir()
        folders = [fold(parent, number % 2, name=f'run {number}')[1] for number in range(3)]
        for order in ((0, 1, 2), (0, 2, 1)):
            named.append(members.home(members.choose([folders[k] for k in order], 'best')).name)
        named.append(members.home(members.choose(folders[:2], 'best')).name)
    assert named[0] == named[1] == named[3] == named[4] != named[2] == named[5]
    with pytest.raises(InputError, match='run 1/../run 0: is named twice'):
        members.choose([folders[0], folders[1] / '../run 0'], 'best')


def test_runs_that_were_trained_on_what_is_scored_are_refused_by_name(tmp_path):
    config, first = fold(tmp_path, 0)
    _, second = fold(tmp_path, 1)
    with pytest.raises(InputError, match='fold_0 was trained on or chosen by 2 of the 2 cases.*such as a.png, b.png'):
        evaluate(config, first, subset='valid', which='best', ensemble=[str(second)])
    begin(tmp_path / 'seed', tmp_path / 'set', rows('train', ['t1', 'a']) + rows('test', ['b']))
    with pytest.raises(InputError, match='seed was trained on or chosen by 1 of the 2 cases.*such as t1.png'):
        evaluate(config, first, subset='test', which='best', ensemble=[str(second), str(tmp_path / 'seed')])
    assert not (first / 'ensembles').exists() and not (first / 'evaluation').exists()


def test_a_patient_is_known_again_by_name_and_another_data_set_is_not(tmp_path):
    _, first = fold(tmp_path, 0)
    scored = pd.DataFrame(rows('test', TEST))
    begin(tmp_path / 'patient', tmp_path / 'set', rows('valid', ['x'], ['patient of t1']) + rows('train', ['y']))
    begin(tmp_path / 'elsewhere', tmp_path / 'set', rows('valid', ['x']) + rows('train', ['y']))
    with pytest.raises(InputError, match='patient was trained on or chosen by 1 of the 2 .* such as t1.png'):
        members.check_unseen(members.choose([first, tmp_path / 'patient'], 'best'), scored, 'are scored')
    members.check_unseen(members.choose([first, tmp_path / 'elsewhere'], 'best'), scored, 'are scored')


def test_a_patient_whom_the_data_set_itself_puts_into_several_subsets_does_not_forbid_averaging(tmp_path):
    made = rows('train', ['a'], ['p']) + rows('test', ['t0'], ['p'])
    folders = [tmp_path / name for name in 'uv']
    for folder in folders:
        begin(folder, tmp_path / 'set', made)
    members.check_unseen(members.choose(folders, 'best'), pd.DataFrame(made[1:]), 'are scored')


def test_post_processing_is_not_tuned_on_what_a_member_was_trained_on(tmp_path):
    config, first = fold(tmp_path, 0)
    _, second = fold(tmp_path, 1)
    config.evaluation.postprocess = True
    with pytest.raises(InputError, match='fold_1 was trained on 2 of the 2 cases that config.evaluation.postprocess '):
        evaluate(config, first, subset='test', which='best', ensemble=[str(second)])
    with pytest.raises(InputError, match='tuned on the subset valid, none of whose 2 cases has an annotation'):
        hidden = pd.DataFrame(rows('valid', FOLDS[0])).assign(category_id=None)
        check_tuning(members.choose([first], 'best'), hidden, config)
    shutil.copytree(first, tmp_path / 'seed_1')  # the same split: tuned on what chose both, and neither has learnt
    chosen = members.choose([first, tmp_path / 'seed_1'], 'best')
    members.check_unseen(chosen, pd.DataFrame(rows('valid', FOLDS[0])), 'are tuned on', training=True)


def test_a_run_alone_may_be_scored_on_its_own_subsets_and_it_is_said(tmp_path, capsys):
    config, first = fold(tmp_path, 0)
    for subset, said in (('train', 'the run was trained on these'), ('valid', 'checkpoint was chosen by these')):
        evaluate(config, first, subset=subset, which='best')
        assert said in read(first, subset)['seen'] and said in (first / 'report.html').read_text()
        assert said in capsys.readouterr().out
