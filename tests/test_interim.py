"""A run that is still training may be evaluated, apart from what it writes itself; a result names its data."""
import pytest
from test_ensembles import TEST, begin, fold, read, rows
from test_lock import other

from unet_jax import lock
from unet_jax.annotations import identity
from unet_jax.errors import InputError
from unet_jax.modes.compare import compare
from unet_jax.modes.evaluate import evaluate
from unet_jax.modes.report import report


def contents(folder, *, without):
    return {path: path.read_bytes() for path in sorted(folder.rglob('*'))
            if path.is_file() and without not in path.relative_to(folder).parts}


def test_a_run_that_another_process_trains_is_evaluated_into_a_folder_of_its_own(tmp_path, capsys):
    config, folder = fold(tmp_path, 0)
    _, second = fold(tmp_path, 1)
    for run in (folder, second):
        identity.check_same_data(run, tmp_path / 'set')
    trainer = other(folder)
    try:
        before = contents(folder, without='interim')
        evaluate(config, folder, subset='test', which='best')
        home = folder / 'interim/checkpoint_0'
        assert f'is in use, as by its training: the results go to {home}' in capsys.readouterr().out
        assert contents(folder, without='interim') == before and (folder / lock.FILE).exists()
        assert (home / 'report.html').exists() and len(list((home / 'predictions/test').glob('*.png'))) == len(TEST)
        assert not (home / lock.FILE).exists()
        evaluate(config, folder, subset='test', which='best', ensemble=[str(second)])
        assert len(list((folder / 'ensembles').iterdir())) == 1
        first = other(home)  # two that evaluate the same at once still do not write over each other
        try:
            with pytest.raises(InputError, match='checkpoint_0 is in use by'):
                evaluate(config, folder, subset='test', which='best')
        finally:
            first.kill()
            first.communicate()
    finally:
        trainer.kill()
        trainer.communicate()
    evaluate(config, folder, subset='test', which='best')  # the same afterwards, in the run's own place
    assert read(folder)['regions'] == read(home)['regions'] and not (folder / lock.FILE).exists()


def test_a_result_names_its_data_and_a_comparison_says_where_they_are_others(tmp_path, capsys):
    made = rows('test', TEST) + rows('train', ['a', 'bb'])
    folders = [tmp_path / 'x' / 'w', tmp_path / 'y' / 'w']
    for k, folder in enumerate(folders):
        config = begin(folder, tmp_path / f'set{k}', made if not k else made + rows('valid', ['ccc']))
        evaluate(config, folder, subset='test', which='best')
        known = identity.load(folder)
        assert read(folder)['data'] == {'digest': known['digest'], 'files': 4 + k}
        assert f'Data {known["digest"]}: {4 + k} files' in (folder / 'report.html').read_text()
    capsys.readouterr()
    digests = [read(folder)['data']['digest'] for folder in folders]
    with pytest.raises(InputError, match=f'data of digest {digests[0]}.*{digests[1]}: other files'):
        compare(folders[1], [str(folders[0])], subset='test')


def test_a_report_is_refreshed_while_another_process_trains(tmp_path):
    config, folder = fold(tmp_path, 0)
    trainer = other(folder)
    try:
        before = (folder / lock.FILE).read_bytes()
        (folder / 'metrics.jsonl').write_text('{"step": 1, "split": "train", "loss": 0.5}\n')
        text = report(config, folder, subset='test').read_text()
        assert 'Not evaluated on the test subset yet' in text and 'Not trained yet' not in text
        assert (folder / lock.FILE).read_bytes() == before and trainer.poll() is None
    finally:
        trainer.kill()
        trainer.communicate()
    evaluate(config, folder, subset='test', which='best')
    (folder / 'metrics.jsonl').write_text('')
    written = (folder / 'report.html').read_bytes()
    report(config, folder, subset='test')
    (folder / 'report.html').write_bytes(b'')
    assert report(config, folder, subset='test').read_bytes().count(b'<figure') == written.count(b'<figure') > 0
