"""What is typed: fields of the config, flags, inputs without a flag, lists and paths from home."""
import pytest
from absl.testing import flagsaver

from configs import phantom
from unet_jax import command_line, workdir
from unet_jax.command_line import FLAGS, take_fields
from unet_jax.config import flat
from unet_jax.errors import InputError

GIVEN = '--config=configs/phantom.py'


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """(what stands without a flag, {flag: value}, {field: value}) of a command line, in a home with three images."""
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'new').mkdir()
    for name in ('a.jpg', 'b.jpg', 'c,d.jpg'):
        (tmp_path / 'new' / name).touch()

    def parsed(*arguments):
        with flagsaver.flagsaver():
            extra = command_line.parse(['main.py', *arguments])[1:]
            values = {name: FLAGS[name].value for name in ('workdir', 'output', 'other', 'ensemble', 'mode')}
            return [path.removeprefix(f'{tmp_path}/') for path in extra], values, flat(FLAGS.config)

    return parsed


def test_fields_come_before_or_after_what_they_belong_to_and_the_last_wins(parse):
    _, values, fields = parse('--config.data.size=(32,32)', '--mode=plan', GIVEN, '--config.data.size=(64,64)',
                              '--config.train.steps', '500', '--config.train.resident', '--noconfig.evaluation.flips')
    assert fields['data.size'] == (64, 64) and fields['train.steps'] == 500 and values['mode'] == 'plan'
    assert fields['train.resident'] is True and fields['evaluation.flips'] is False
    assert values['workdir'] == 'runs/phantom'


def test_a_work_directory_alone_gives_its_config_and_takes_changes(parse, tmp_path):
    workdir.save_config(tmp_path, phantom.get_config())
    _, values, fields = parse('--workdir=~', '--config.evaluation.pictures=7', '--mode=evaluate')
    assert values['workdir'] == str(tmp_path) and fields['train.steps'] == 720 and fields['evaluation.pictures'] == 7


@pytest.mark.parametrize('inside', ['', '/ensembles/a+b-0123abcd', '/interim/checkpoint_4'])
def test_a_result_inside_a_work_directory_may_be_compared(parse, tmp_path, inside):
    (tmp_path / f'w{inside}').mkdir(parents=True)
    workdir.save_config(tmp_path / 'w', phantom.get_config())
    _, values, fields = parse(f'--workdir={tmp_path}/w{inside}', '--mode=compare', '--other=x')
    assert values['workdir'] == f'{tmp_path}/w{inside}' and fields['train.steps'] == 720
    with pytest.raises(InputError, match='is no work directory'):
        parse(f'--workdir={tmp_path}/w/ensembles/a', '--mode=evaluate')


def test_paths_may_begin_at_home_behind_every_flag(parse, tmp_path):
    (tmp_path / 'mine.py').write_text('from configs.phantom import get_config')
    _, values, _ = parse('--config=~/mine.py', '--workdir=~/w', '--output=~/o', '--other=~/x,~/y',
                         '--ensemble=~/a,~/b')
    assert values['ensemble'] == [f'{tmp_path}/a', f'{tmp_path}/b']
    assert [values[name] for name in ('workdir', 'output')] == [f'{tmp_path}/{name}' for name in 'wo']
    assert values['other'] == [f'{tmp_path}/x', f'{tmp_path}/y']
    with pytest.raises(InputError, match='--workdir=~nobody-here/w: no home folder is known for ~nobody-here'):
        parse(GIVEN, '--workdir=~nobody-here/w')


@pytest.mark.parametrize('arguments, found', [
    (['--input', '{}/new/a.jpg', '{}/new/b.jpg'], ['a.jpg', 'b.jpg']),  # what a shell makes of new/*.jpg
    (['--input=~/new/[ab].jpg'], ['a.jpg', 'b.jpg']), (['--input={}/new/a.jpg,{}/new/b.jpg'], ['a.jpg', 'b.jpg']),
    (['--input={}/new/c,d.jpg'], ['c,d.jpg']),
    (['~/new/b.jpg', '--input={}/new/[a].jpg'], ['a.jpg', 'b.jpg']),
    (['--input={}/new'], ['']), (['--input={}/new/a.jpg', '--input={}/new/b.jpg'], ['a.jpg', 'b.jpg'])])
def test_inputs_come_as_lists_and_without_a_flag(parse, tmp_path, arguments, found):
    given = [argument.format(*[tmp_path] * 2) for argument in arguments]
    extra, values, _ = parse(GIVEN, '--mode=predict', *given, '--output=o')  # a flag behind inputs counts too
    assert extra == [f'new/{name}'.rstrip('/') for name in found] and values['output'] == 'o'


@pytest.mark.parametrize('arguments, message', [
    ([GIVEN, 'a.jpg', 'b.jpg'], 'a.jpg b.jpg: stands without a flag, and --mode=train takes no files'),
    ([GIVEN, '--input=a.jpg'], '--input=a.jpg: is for --mode=predict'),
    ([GIVEN, '--config.train.step=3'], 'did you mean config.train.steps'),
    ([GIVEN, '--config.train.steps=many'], "config.train.steps is 'many'"),
    ([GIVEN, '--noconfig.train.steps'], 'only a field that is True or False'),
    ([GIVEN, '--config.train.steps'], 'its value is missing'),
    ([], '--config=configs/phantom.py needs no data'),
    (['--workdir=/nowhere', '--mode=evaluate'], '/nowhere/config.json: no such file')])
def test_mistakes_get_a_message(parse, arguments, message):
    with pytest.raises(InputError, match=message):
        parse(*arguments)


@pytest.mark.parametrize('arguments, message', [
    ([GIVEN, '--workdr=x'], "Unknown command line flag 'workdr'. Did you mean: workdir"),
    (['--config=configs/absent.py'], 'configs/absent.py'),
    (['--config=configs/brats3d.py:huge'], 'choose configs/brats3d.py:full, :small, :missing ')])
def test_other_mistakes_end_with_status_2(arguments, message, capsys):
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as left:
        command_line.explain(command_line.parse, ['main.py', *arguments])
    assert left.value.code == 2 and message in capsys.readouterr().err


def test_what_follows_two_dashes_is_no_field():
    assert take_fields(['main.py', '--config.seed=1', '--', '--config.seed=2']) == (
        ['main.py', '--', '--config.seed=2'], {'seed': '1'})
