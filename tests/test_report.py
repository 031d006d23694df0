import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from unet_jax.errors import InputError
from unet_jax.report import overlays
from unet_jax.report import scores as scores_of
from unet_jax.report.curves import curves, dice_distribution, series
from unet_jax.report.html import Example, choose_examples, write

VOID = {'meta', 'img', 'br'}
NASTY = '<script>alert("1")</script>&$x_1$/../b'


class Page(HTMLParser):
    """Collects tags, attributes and visible text; fails on a tag that is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text, self.ids = [], [], [], '', []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        self.ids += [value for name, value in attributes if name == 'id']
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(autouse=True)
def coarse(request, monkeypatch):
    """Small pictures, for speed, except where their size is the question."""
    if 'megabyte' not in request.node.name:
        monkeypatch.setattr(overlays, 'DPI', 30)


def scores(means, regions=('WT', 'ET')):
    """One row a case and region, the mean Dice over regions being the one given."""
    return pd.DataFrame([{'case': case, 'group': case, 'region': region, 'dice': mean + (0.01 if r else -0.01)}
                         for case, mean in means.items() for r, region in enumerate(regions)])


def example(case='a', kind='worst', size=24, regions=('WT', 'ET')):
    mask = np.zeros((size, size, len(regions)), bool)
    mask[4:12, 5:14] = True
    image = np.random.default_rng(0).integers(0, 255, (size, size, 1), np.uint8)
    return Example(case, kind, dict.fromkeys(regions, 0.5), image, mask, np.roll(mask, 2, 0), regions)


def full(folder, name='WT', case='a'):
    """A work directory in which everything is there."""
    evaluation = folder / 'evaluation' / 'test'
    evaluation.mkdir(parents=True)
    interval = {'mean': 0.87654, 'low': 0.81, 'high': 0.92, 'median': 0.9, 'n': 7}
    regions = {name: {'hd95': interval | {'mean': 4.5678, 'n': 5, 'infinite': 2}, 'dice': interval,
                      'surface_dice': interval | {'tolerance': 1.0},
                      'lesion_dice': interval | {'challenge': 'GLI'},
                      'volume_reference': interval | {'mean': 12345.6}, 'pooled_dice': 0.8},
               'ET': {'dice': interval | {'mean': None, 'low': None, 'high': None, 'median': None, 'n': 0}}}
    (evaluation / 'summary.json').write_text(json.dumps(
        {'convention': 'brats', 'cases': 7, 'units': 'mm', 'regions': regions, 'checkpoint': 40}))
    scores({case: 0.5, 'b': 0.7}, (name, 'ET')).to_csv(evaluation / 'cases.csv', index=False)
    (folder / 'metrics.jsonl').write_text('\n'.join(json.dumps(line) for line in (
        {'step': 1, 'split': 'train', 'loss': 1.0, 'learning_rate': 1e-3},
        {'step': 2, 'split': 'train', 'loss': 0.5, 'learning_rate': 1e-3},
        {'step': 2, 'split': 'valid', 'loss': 0.6, f'dice/{name}': 0.3})) + '\n{"step": 3, "spl')
    (folder / 'config.json').write_text(json.dumps({'seed': 0, 'name': name}))
    (folder / 'environment.json').write_text(json.dumps(
        {'jax': '0.10.2', 'commit': None, 'devices': ['cpu', 'cpu'], 'command': 'main.py --config=configs/x.py'}))
    (folder / 'audit.json').write_text(json.dumps(
        {'notes': [f'box supervision of {case}'], 'leaking_groups': {'count': 2, 'first': []},
         'twins': {'subsets': [{'subset': 'test', 'in': 'train', 'images': 13, 'of': 215, 'pairs': 14},
                               {'subset': 'test', 'in': 'valid', 'images': 0, 'of': 215, 'pairs': 0}]}}))
    (folder / 'audit.txt').write_text(f'images  15\n{case}')
    return folder


def read(path):
    text = path.read_text(encoding='utf-8')
    return text, Page(text)


# --- the page ---

def test_the_page_holds_every_section_and_the_numbers(tmp_path):
    _, page = read(write(full(tmp_path / 'run'), 'test', [example('a'), example('b', 'best')]))
    for text in ('0.877', '0.810 – 0.920', 'brats', '7 test cases', 'n = 5', 'n = 5, 2 infinite', 'HD95 (mm)', '4.57',
                 'Surface Dice (1 mm)', 'Lesion-wise Dice (GLI)', 'Both masks empty: Dice 1', '373.12', '12,346',
                 'mm³', '"seed": 0', '0.10.2', 'cpu, cpu', 'lowest Dice', 'highest Dice', 'of checkpoint 40 over',
                 'python main.py --config=configs/x.py', '--mode=evaluate --subset=test'):
        assert text in page.text
    assert page.tags.count('section') == 10 and page.tags.count('img') == 4
    assert 'todo' not in [value for _, name, value in page.attributes if name == 'class']


def with_means(folder, everyone, some, n, **more):
    """`full`, with this Dice over all 7 cases, and this over the n that have WT."""
    path = full(folder) / 'evaluation/test/summary.json'
    summary = json.loads(path.read_text())
    dice = summary['regions']['WT']['dice'] | {'mean': everyone}
    summary['regions']['WT']['dice'] = dice | {'with_region': dice | {'mean': some, 'low': 0.0, 'high': 0.1, 'n': n}}
    path.write_text(json.dumps(summary | more))
    return folder


def test_the_card_of_a_network_that_predicts_nothing_says_0(tmp_path):
    text, page = read(write(with_means(tmp_path, 4 / 7, 0.0, 3), 'test', []))
    assert '<p class="big">0.000</p>' in text and '<p class="big">0.571</p>' not in text
    assert '0.000 – 0.100, n = 3all 7 cases: 0.571' in page.text
    assert 'with region 0.000 [0.000, 0.100], n = 3' in page.text  # in the table, beside the mean over all


def test_where_every_case_has_the_region_the_card_has_one_number(tmp_path):
    _, page = read(write(with_means(tmp_path, 0.9, 0.9, 7), 'test', []))
    assert 'all 7 cases' not in page.text and 'with region 0.9' not in page.text


def test_names_of_runs_and_checkpoints_are_shown_and_not_obeyed(tmp_path):
    told = {'checkpoint': f'{NASTY}:5', 'seen': NASTY, 'members': [{'run': NASTY, 'checkpoint': 5}] * 2}
    text, page = read(write(with_means(tmp_path, 0.9, 0.9, 7, **told), 'test', [], again=f'python {NASTY}'))
    assert page.tags.count('script') == 1 and page.text.count(NASTY) >= 5  # the page's own


def test_a_subset_without_annotations_is_unscored_on_every_card_and_in_every_section(tmp_path):
    folder = full(tmp_path)
    (folder / 'evaluation/test/summary.json').write_text(json.dumps(
        {'convention': 'brats', 'cases': 7, 'units': 'px', 'unscored': True, 'regions': {'WT': {}, 'ET': {}}}))
    pd.DataFrame({'case': ['a'], 'group': ['a'], 'region': ['WT'], 'volume_prediction': [3]}).to_csv(
        folder / 'evaluation/test/cases.csv', index=False)
    text, page = read(write(folder, 'test', []))
    assert text.count('<p class="big">unscored</p>') == 2 and page.text.count('Unscored: no case of the test') == 3
    assert 'of which none has an annotation' in page.text and '1.000' not in page.text


def test_what_of_the_data_concerns_the_scores_stands_above_the_table(tmp_path):
    _, page = read(write(full(tmp_path), 'test', []))
    data = page.text[page.text.index('\nData'):page.text.index('\nConfiguration')]
    notes = ['13 of 215 test images have a near-duplicate in train', '2 groups (', 'box supervision of a',
             'images  15']
    positions = [data.index(note) for note in notes]
    assert positions == sorted(positions) and 'in valid' not in data


def test_the_page_loads_nothing_from_anywhere_and_runs_the_viewer_alone(tmp_path):
    text, page = read(write(full(tmp_path), 'test', [example()]))
    assert not {'link', 'iframe', 'object'} & set(page.tags)
    assert all(value.startswith('data:image/') for _, name, value in page.attributes if name == 'src')
    assert all(value[1:] in page.ids for _, name, value in page.attributes if name == 'href')
    assert not re.search(r'https?:|@import|url\(', text)
    scripts = re.findall(r'<script([^>]*)>(.*?)</script>', text, re.DOTALL)
    assert [told for told, _ in scripts] == [' type="application/json" class="index"',
                                             ' type="application/json" class="case"', '', '']
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for _, script in scripts[-2:]]
    assert f"style-src 'unsafe-inline'; script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}'" in text
    assert len(page.ids) == len(set(page.ids))


def test_what_does_not_exist_yet_is_one_line_that_says_what_to_run(tmp_path):
    _, page = read(write(tmp_path, 'test', []))
    assert page.text.count('Not evaluated on the test subset yet. Run python main.py --workdir=') == 3
    assert '--mode=train.' in page.text and '--mode=annotate.' in page.text and 'img' not in page.tags


@pytest.mark.parametrize('name', ['evaluation/test/summary.json', 'evaluation/test/cases.csv', 'metrics.jsonl',
                                  'config.json', 'environment.json', 'audit.json', 'audit.txt'])
def test_any_one_file_may_be_absent(tmp_path, name):
    (full(tmp_path) / name).unlink()
    read(write(tmp_path, 'test', []))


@pytest.mark.parametrize('name', ['evaluation/test/summary.json', 'config.json', 'environment.json', 'audit.json'])
def test_a_file_that_is_not_json_is_named(tmp_path, name):
    (full(tmp_path) / name).write_text('{"a": ')
    with pytest.raises(InputError, match=name.rpartition('/')[2]):
        write(tmp_path, 'test', [])


def test_markup_in_names_is_shown_and_not_obeyed(tmp_path):
    text, page = read(write(full(tmp_path, NASTY, NASTY), 'test', [example(NASTY, regions=(NASTY, 'ET'))]))
    assert page.tags.count('script') == 4 and page.text.count(NASTY) >= 6
    assert {path.parent for path in tmp_path.rglob('*.png')} == {tmp_path / 'pictures'}


def test_pictures_lie_beside_the_page_and_those_of_an_earlier_choice_go(tmp_path):
    write(full(tmp_path), 'test', [example('a'), example('b', 'best')])
    (tmp_path / 'pictures' / 'mine.png').write_bytes(b'')
    write(tmp_path, 'test', [example('c', 'median')])
    assert sorted(path.name for path in (tmp_path / 'pictures').iterdir()) == [
        'curves.png', 'dice.png', 'median-1-c.png', 'mine.png']


def test_an_empty_prediction_is_said(tmp_path):
    empty = example()._replace(prediction=np.zeros((24, 24, 2), bool))
    assert 'nothing predicted' in read(write(tmp_path, 'test', [empty]))[1].text
    assert 'nothing predicted' not in read(write(tmp_path, 'test', [example()]))[1].text


def test_charts_follow_the_readers_light_or_dark_setting(tmp_path):
    text, _ = read(write(full(tmp_path), 'test', []))
    for uri in re.findall(r'data:image/svg\+xml;base64,([^"]+)', text):
        svg = base64.b64decode(uri).decode()
        ElementTree.fromstring(svg)
        assert 'prefers-color-scheme:dark' in svg and '#000000' not in svg and 'currentColor' in svg


def test_the_same_run_gives_the_same_page(tmp_path):
    full(tmp_path)
    assert write(tmp_path, 'test', [example()]).read_bytes() == write(tmp_path, 'test', [example()]).read_bytes()


def test_three_real_images_take_about_a_megabyte(tmp_path, shared_data):
    folder = shared_data / 'br35h' / 'valid'
    coco = json.loads((folder / '_annotations.coco.json').read_text())
    examples = []
    for image, kind in zip(coco['images'][:3], ('worst', 'median', 'best'), strict=True):
        canvas = Image.new('1', (image['width'], image['height']))
        for annotation in coco['annotations']:
            if annotation['image_id'] == image['id']:
                for polygon in annotation['segmentation']:
                    ImageDraw.Draw(canvas).polygon(polygon, fill=1)
        mask = np.asarray(canvas)[..., None]
        grey = np.asarray(Image.open(folder / image['file_name']).convert('L'))
        examples.append(Example(image['file_name'], kind, {'tumour': 0.9}, grey, mask, mask, ('tumour',)))
    assert write(full(tmp_path), 'test', examples).stat().st_size < 1_100_000


@pytest.mark.parametrize('value, key, text', [
    (0.87654, 'dice', '0.877'), (None, 'dice', '–'), (float('nan'), 'hd95', '–'), (4.5678, 'hd95', '4.57'),
    (12345.6, 'volume_reference', '12,346'), (float('inf'), 'hd95', 'inf'), (3.14159, 'lesion_hd95', '3.14')])
def test_numbers_are_written_as_their_metric_asks(value, key, text):
    assert scores_of.number(value, key) == text


def with_volumes(folder, name='WT'):
    """`full`, of which case a was missed, and c invented."""
    rows = pd.DataFrame({'case': list('abc'), 'group': list('abc'), 'region': name, 'dice': [0.0, 0.75, 0.0],
                         'volume_reference': [3000.0, 8000.0, 0.0], 'volume_prediction': [0.0, 6000.0, 1000.0]})
    rows.to_csv(full(folder, name) / 'evaluation/test/cases.csv', index=False)
    return folder


def test_failures_come_first_and_every_case_is_listed_with_links_to_what_is_drawn(tmp_path):
    text, page = read(write(with_volumes(tmp_path), 'test', [example('b', 'median')]))
    section = page.text[page.text.index('\nEvery case'):page.text.index('\nCases')]
    assert 'WT missed altogether in 1 of 3 cases: a' in section
    assert 'WT predicted where the reference has none in 1 of 3 cases: c' in section
    assert section.index('missed altogether') < section.index('WT reference')
    assert re.findall(r'<tr><th scope="row">([abc])</th>', text) == ['a', 'c', 'b']
    assert text.count('data-walk="0"') == 1 and 'href="#case-1" data-walk="0"' in text
    assert '<td data-csv="0.75">0.750</td>' in text


def test_volumes_are_set_against_the_reference_in_picture_and_words(tmp_path):
    _, page = read(write(with_volumes(tmp_path), 'test', []))
    (alt,) = [value for _, name, value in page.attributes if name == 'alt' and 'reference volume' in value]
    error = np.array([-3, -2, 1])
    assert f'{error.mean():.2f} ml on average' in alt
    assert f'between {error.mean() - 1.96 * error.std(ddof=1):.2f} and' in alt
    assert (tmp_path / 'pictures/volumes.png').exists()


def test_fewer_modalities_are_shown_if_they_are_of_these_scores(tmp_path):
    folder = with_volumes(tmp_path) / 'evaluation/test'
    pd.DataFrame([{'case': case, 'group': case, 'region': NASTY, 'modalities': f'{NASTY}+t1', 'dice': dice,
                   'present': case != 'c'} for case, dice in (('a', 0.5), ('b', 0.7), ('c', 1.0))]).to_csv(
        folder / 'modalities.csv', index=False)
    text, page = read(write(tmp_path, 'test', []))
    assert f'{NASTY}+t10.600[' in page.text and 'n = 2' in page.text
    later = (folder / 'modalities.csv').stat().st_mtime + 5
    os.utime(folder / 'cases.csv', (later, later))
    assert 'Fewer modalities' not in read(write(tmp_path, 'test', []))[1].text


def test_the_head_says_what_the_data_are_and_leads_to_every_section(tmp_path):
    folder = with_volumes(tmp_path, NASTY)
    (folder / 'config.json').write_text(json.dumps(
        {'data': {'format': 'coco', 'regions': [['caries', [1], 1], [NASTY, [2], 2]]}}))
    (folder / 'identity.json').write_text(json.dumps({'digest': NASTY}))
    text, page = read(write(folder, 'test', [example(NASTY)]))
    assert f'Segmentation of caries, {NASTY} in images (coco), test subset' in page.text
    assert 'rain' not in page.text[:page.text.index('Result')] and f'checkpoint 40 · data {NASTY} · jax' in page.text
    links = [value[1:] for tag, name, value in page.attributes if (tag, name) == ('a', 'href')]
    assert len(re.findall('<section id="', text)) == 11 and set(links) >= set(re.findall('<section id="([^"]+)', text))
    assert page.tags.count('script') == 4


def test_alternative_texts_say_what_a_picture_shows(tmp_path):
    _, page = read(write(full(tmp_path), 'test', [example()]))
    alts = [value for _, name, value in page.attributes if name == 'alt']
    assert ('The image of a, plain and with reference and prediction of WT, ET outlined. Dice WT 0.500, ET 0.500'
            in alts)
    assert any(alt.startswith('Dice of every case. WT: median 0.590, from 0.490 to 0.690, 2 cases') for alt in alts)


# --- which cases ---

def test_worst_median_and_best_cases_by_mean_dice():
    means = {name: value / 10 for name, value in zip('gbfcead', range(1, 8), strict=True)}
    assert choose_examples(scores(means), 1) == [('g', 'worst'), ('c', 'median'), ('d', 'best')]
    assert choose_examples(scores(means), 2) == [('g', 'worst'), ('b', 'worst'), ('f', 'median'), ('c', 'median'),
                                                 ('d', 'best'), ('a', 'best')]


@pytest.mark.parametrize('cases', range(13))
@pytest.mark.parametrize('count', [0, 1, 2, 3])
def test_no_case_is_chosen_twice_and_as_many_as_there_are(cases, count):
    chosen = choose_examples(scores({f'{i:02}': i / 20 for i in range(cases)}) if cases else
                             pd.DataFrame({'case': [], 'dice': []}), count)
    names = [case for case, _ in chosen]
    assert len(names) == len(set(names)) == min(cases, 3 * count)


def test_undefined_scores_are_left_out_of_the_mean_and_cases_without_any_are_not_shown():
    table = scores({'a': 0.9, 'b': 0.5, 'c': 0.1, 'd': 0.7})
    table.loc[(table.case == 'c') | ((table.case == 'b') & (table.region == 'WT')), 'dice'] = np.nan
    assert choose_examples(table, 1) == [('b', 'worst'), ('d', 'median'), ('a', 'best')]


def test_the_choice_does_not_depend_on_the_order_of_the_table():
    table = scores({f'{i:02}': 0.5 for i in range(9)})
    assert choose_examples(table.sample(frac=1, random_state=0), 2) == choose_examples(table, 2)


# --- charts ---

def test_a_series_is_ascending_finite_and_keeps_the_later_of_a_repeated_step():
    lines = [{'step': 2, 'split': 'train', 'loss': 5.0}, {'step': 1, 'split': 'train', 'loss': 3.0},
             {'step': 2, 'split': 'train', 'loss': 4.0}, {'step': 3, 'split': 'train', 'loss': float('nan')},
             {'step': 4, 'split': 'train', 'loss': None}, {'step': 5, 'split': 'train'},
             {'step': 6, 'split': 'valid', 'loss': 1.0}]
    steps, values = series(lines, split='train', key='loss')
    assert steps.tolist() == [1, 2] and values.tolist() == [3.0, 4.0]


def test_curves_hold_the_logged_values():
    lines = [{'step': s, 'split': 'train', 'loss': 1 / s, 'learning_rate': 0.1} for s in (1, 2, 3)]
    lines += [{'step': 3, 'split': 'valid', 'loss': 0.5, 'dice/WT': 0.8, 'dice/ET': 0.6}]
    loss, dice, rate = curves(lines).axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[1, 1 / 2, 1 / 3], [0.5]]
    assert [list(line.get_ydata()) for line in dice.lines] == [[0.8], [0.6]]
    assert [text.get_text() for text in dice.get_legend().get_texts()] == ['WT', 'ET']
    assert list(rate.lines[0].get_ydata()) == [0.1] * 3


@pytest.mark.parametrize('lines, panels', [
    ([], 0), ([{'step': 0, 'split': 'train', 'loss': float('nan')}], 0),
    ([{'step': 0, 'split': 'train', 'loss': 1}], 1),
    ([{'step': 0, 'split': 'valid', 'dice/$_WT': 0.5}], 1), ([{'step': 0, 'split': 'train', 'loss': -1.0}], 1)])
def test_few_points_are_drawn_and_empty_panels_left_out(lines, panels, tmp_path):
    figure = curves(lines)
    figure.savefig(tmp_path / 'a.png')
    assert len(figure.axes) == panels


def test_a_loss_that_falls_far_is_drawn_logarithmically():
    def axes(last):
        return curves([{'step': s, 'split': 'train', 'loss': v} for s, v in enumerate((1.0, last))]).axes[0]

    assert axes(0.01).get_yscale() == 'log' and axes(0.5).get_yscale() == 'linear'
    assert axes(-0.01).get_yscale() == 'linear'


def test_every_case_is_a_dot_and_the_box_its_quartiles():
    values = np.array([0.1, 0.4, 0.5, 0.8, 0.9, np.nan])
    axes = dice_distribution(pd.DataFrame({'region': 'WT', 'dice': values})).axes[0]
    assert sorted(axes.collections[0].get_offsets()[:, 0]) == values[:5].tolist()
    box, median = axes.lines[0], axes.lines[-1]
    assert (min(box.get_xdata()), max(box.get_xdata())) == pytest.approx(tuple(np.quantile(values[:5], (0.25, 0.75))))
    assert set(median.get_xdata()) == {0.5}
    assert axes.get_yticklabels()[0].get_text() == 'WT\nn = 5, 1 undefined'


def test_a_region_without_any_score_is_named_and_empty(tmp_path):
    figure = dice_distribution(pd.DataFrame({'region': ['WT', 'ET'], 'dice': [np.nan, 0.5]}))
    figure.savefig(tmp_path / 'a.png')
    assert [label.get_text().split('\n')[0] for label in figure.axes[0].get_yticklabels()] == ['WT', 'ET']
    assert len(figure.axes[0].collections) == 1
