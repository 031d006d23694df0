"""Evaluation and prediction of images within this process, on a work directory that was never trained."""
import json
from types import SimpleNamespace

import numpy as np
import optax
import pandas as pd
import pytest
from PIL import Image
from test_together import tiny

from configs import brats, brats3d
from unet_jax import workdir
from unet_jax.annotations import frame as frames
from unet_jax.errors import InputError
from unet_jax.experiment import create, init_params
from unet_jax.formats import mask_file
from unet_jax.inference import predictor as inference
from unet_jax.modes import kinds
from unet_jax.modes.compare import compare
from unet_jax.modes.evaluate import evaluate, open_whole
from unet_jax.modes.predict import write
from unet_jax.modes.train import warn_of_unscored
from unet_jax.training import checkpoint, state

NAMES = ['a.png', 'b.jpg', 'b.png', 'sub/c.png']
CASES = [f'test/{name}' for name in NAMES]


@pytest.fixture
def run(tmp_path):
    """A function that makes the work directory of a seed, and returns (config, folder); all share four test images."""
    root = tmp_path / 'set'
    for k, case in enumerate(CASES):
        (root / case).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (16, 16), np.uint8)).save(root / case)
    frame = frames.build([{'file_name': name, 'width': 16, 'height': 16, 'subset': 'test', 'image_id': case,
                           'path': case, 'group': case, 'case': case, 'category_id': 1, 'category': 'tumour',
                           'segmentation': [[2, 2, 9, 2, 9, 9, 2, 9]]} for name, case in zip(NAMES, CASES)])

    def make(seed, *, frame=frame, **data):
        config, folder = tiny(seed), tmp_path / f'run {seed}'
        config.data.update({'root': str(root), 'names': ('tumour',), 'cache': str(tmp_path / 'cache'), **data})
        config.evaluation.update({'pictures': 1, 'batch_size': 8})  # the devices of this process
        frames.save(frame, folder)
        workdir.save_config(folder, config)
        begun = state.create(init_params(create(config)), optax.sgd(0.1))
        checkpoint.save(folder / 'checkpoints', begun, score=None, notes={}, keep=1)
        return config, folder

    return make


def read_scores(folder):
    return pd.read_csv(folder / 'evaluation/test/cases.csv'), json.loads(
        (folder / 'evaluation/test/summary.json').read_text())


def test_images_whose_names_differ_in_the_ending_alone_have_masks_of_their_own(run):
    config, folder = run(0)
    evaluate(config, folder, subset='test', which='latest')
    masks = folder / 'predictions/test/test'
    assert sorted(p.relative_to(masks).as_posix() for p in masks.rglob('*.png')) == [
        'a.png', 'b_jpg.png', 'b_png.png', 'sub/c.png']
    scores = read_scores(folder)[0].set_index('case')
    for case, name in zip(CASES, ('a.png', 'b_jpg.png', 'b_png.png', 'sub/c.png')):
        assert (np.asarray(Image.open(masks / name)) > 0).sum() == scores.volume_prediction[case]
    pictures = [path.name for path in (folder / 'pictures').glob('*-?-*')]
    assert len(pictures) == 3 and all(name.count('.png') == 1 and '.jpg' not in name for name in pictures)


def test_names_of_masks_that_would_still_meet_are_refused():
    assert mask_file.names(['x.jpg', 'y.jpg', 'x.png', 'a/x.png']) == ['x_jpg.png', 'y.png', 'x_png.png', 'a/x.png']
    with pytest.raises(InputError, match=r'x.jpg and x_jpg.tif would both be x_jpg.png'):
        mask_file.names(['x.jpg', 'x.png', 'x_jpg.tif'])


def test_prediction_names_masks_alike_and_never_writes_over_an_input(run, tmp_path):
    config, folder = run(0)
    predictor, _ = inference.restore(config, [folder], 'latest')
    write(predictor, [f'{tmp_path}/set/test'], tmp_path / 'out', 'the latest')
    assert {p.name for p in (tmp_path / 'out').glob('*.png')} == {'a.png', 'b_jpg.png', 'b_png.png'}
    with pytest.raises(InputError, match='the mask of a.png would overwrite an input'):
        write(predictor, [f'{tmp_path}/set/test'], tmp_path / 'set/test', 'the latest')


def test_the_runs_own_config_counts_whichever_is_given(run, tmp_path):
    """Given is a config that leaves to the data what the run has settled, as a file of configs/ does."""
    config, folder = run(0, channels=3)
    given = tiny(1)
    given.data.root = str(tmp_path / 'nowhere')
    given.evaluation.update({'batch_size': 8, 'threshold': 0.25})
    predictor, _ = inference.restore(given, [folder], 'latest')
    used = predictor.experiment.config
    assert used.data.names == ('tumour',) and used.data.channels == 3 and used.data.root == config.data.root
    assert used.evaluation.threshold == 0.25 and used.seed == 0
    write(predictor, [f'{tmp_path}/set/test'], tmp_path / 'out', 'the latest')
    assert json.loads((tmp_path / 'out/predictions.json').read_text())['categories'] == [{'id': 1, 'name': 'tumour'}]
    given.model.features = (8, 16)
    with pytest.raises(InputError, match=r'run 0 holds another network: model.features is \(4, 8\) there, \(8, 16\)'):
        inference.restore(given, [folder], 'latest')


def test_slices_keep_the_names_that_the_data_gave(tmp_path):
    """As the shipped config has categories and regions, but no names, and a root of its own."""
    config = brats.get_config()
    with config.unlocked():
        config.data.update({'names': ('NCR/NET', 'ED', 'ET'), 'root': str(tmp_path)})
    workdir.save_config(tmp_path, config)
    assert workdir.inference_config(tmp_path, brats.get_config()) == config
    with pytest.raises(InputError, match="data.format is 'brats_h5' there, 'nifti' here"):
        workdir.inference_config(tmp_path, brats3d.get_config())


def test_the_folder_above_the_runs_of_several_seeds_names_them(run):
    config, folder = run(0)
    config.train.seeds = (1, 7)
    workdir.save_config(folder, config)
    with pytest.raises(InputError, match=f'a run for each of several seeds.*--workdir={folder}/seed_1, .*seed_7'):
        evaluate(config, folder, subset='test', which='best')


def test_another_image_than_the_run_knows_is_not_scored(run, tmp_path):
    config, folder = run(0)
    evaluate(config, folder, subset='test', which='latest')  # takes note of the data
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / 'set/test/a.png')
    with pytest.raises(InputError, match='1 of its 4 files are others in .*: test/a.png'):
        evaluate(config, folder, subset='test', which='latest')


def test_an_ensemble_answers_with_the_mean_of_its_runs(run):
    (config, a), (_, b) = run(0), run(1)
    rows = kinds.IMAGES.rows(create(config), frames.load(a / 'annotations.parquet'))
    answers = []
    for folders in ([a], [b], [a, b]):
        predictor, used = inference.restore(config, folders, 'latest')
        samples = kinds.IMAGES.open_samples(predictor.experiment, rows)
        answers.append(np.stack([p for _, p in inference.probabilities(predictor, samples)]))
    assert used == f'{a}:0, {b}:0' and np.abs(answers[0] - answers[1]).max() > 0.01
    assert np.allclose(answers[2], (answers[0] + answers[1]) / 2, atol=1e-6)


def test_an_ensemble_of_unlike_runs_is_refused(run):
    (config, a), (_, b) = run(0), run(1, channels=3)
    with pytest.raises(InputError, match='run 1 holds another network: data.channels is 3 there, 1 here'):
        inference.restore(config, [a, b], 'latest')


def test_what_cannot_be_read_stops_evaluation_or_is_counted_and_told(run, tmp_path, capsys):
    config, folder = run(0)
    (tmp_path / 'set/test/a.png').write_bytes(b'no image')
    with pytest.raises(InputError, match='test/a.png: cannot be read'):
        evaluate(config, folder, subset='test', which='latest')
    config.data.on_error = 'skip'
    with pytest.raises(InputError, match='1 of 4 cases cannot be read; config.data.max_skipped .* 0.01 of 4 samples'):
        evaluate(config, folder, subset='test', which='latest')
    config.data.max_skipped = 0.25
    evaluate(config, folder, subset='test', which='latest')
    scores, summary = read_scores(folder)
    assert sorted(scores.case) == CASES[1:] and summary['cases'] == 3
    assert list(summary['skipped']) == CASES[:1] and 'cannot be read' in summary['skipped']['test/a.png']
    for told in (capsys.readouterr().out, (folder / 'report.html').read_text()):
        assert '1 more could not be read and count in no number' in told and 'test/a.png: ' in told


def test_a_hidden_test_set_is_unscored_and_has_masks(run, capsys):
    """Whatever was found: no Dice stands anywhere, neither 1 nor 0, and nothing can be compared with it."""
    config, folder = run(0)
    hidden = frames.load(folder / 'annotations.parquet').assign(category_id=None, category=None, segmentation=None)
    config, folder = run(1, frame=frames.build(hidden.to_dict('records')))
    evaluate(config, folder, subset='test', which='latest')
    scores, summary = read_scores(folder)
    assert summary['unscored'] and summary['regions'] == {'tumour': {}} and summary['cases'] == 4
    assert list(scores) == ['case', 'group', 'region', 'volume_prediction']
    assert len(list((folder / 'predictions/test').rglob('*.png'))) == 4
    printed = capsys.readouterr().out
    assert 'tumour  dice    unscored' in printed and '1.0000' not in printed
    assert 'unscored' in (folder / 'report.html').read_text()
    with pytest.raises(InputError, match='no case has an annotation, so there are no scores to compare'):
        compare(folder, [str(folder)], subset='test')


def test_before_training_a_subset_without_annotations_is_named(run, caplog):
    config, folder = run(0)
    frame = frames.load(folder / 'annotations.parquet')
    warn_of_unscored(config, frame)
    assert 'no case of' not in caplog.text
    config.data.categories = (7,)
    warn_of_unscored(config, frame)
    assert 'no case of the subset test (4) has an annotation of tumour' in caplog.text


def test_a_volume_with_a_damaged_slice_is_left_out_whole():
    rows = pd.DataFrame({'case': list('xxxy'), 'path': list('0123')})
    asked = []

    def open_samples(experiment, rows):
        asked.append(list(rows.path))
        kept = rows[rows.path != '1'].reset_index(drop=True)
        return SimpleNamespace(rows=kept, skipped={'1': '1: is damaged'} if len(kept) < len(rows) else {})

    experiment = SimpleNamespace(config=SimpleNamespace(data=SimpleNamespace(max_skipped=0.5)))
    samples, skipped = open_whole(SimpleNamespace(open_samples=open_samples), experiment, rows, total=4)
    assert asked == [['0', '1', '2', '3'], ['3']] and samples.rows.case.tolist() == ['y']
    assert skipped == {'x': '1: is damaged'}
