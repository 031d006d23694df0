"""The training bar and all of its figures in narrow terminals."""
import pytest
from tqdm import tqdm

from unet_jax.progress import layout
from unet_jax.training.journal import figures

FIGURES = figures(0.12345, images_per_second=108.4, waiting=0.0039)


def line(columns, done, total, seconds, postfix=FIGURES):
    return tqdm.format_meter(done, total, seconds, ncols=columns, prefix='training', unit='step', postfix=postfix,
                             bar_format=layout(columns))


@pytest.mark.parametrize('columns, least', [(60, 4), (80, 4), (100, 20), (200, 120)])
@pytest.mark.parametrize('done, total, seconds', [(324, 720, 35), (12_400, 50_000, 12_400.0)])
def test_the_bar_and_its_figures_are_whole(columns, least, done, total, seconds):
    text = line(columns, done, total, seconds)
    assert len(text) <= columns and text.endswith('left, loss 0.123, 108 images/s, wait 0%')
    assert len(text.split('|')[1]) >= least
    assert columns < 80 or f'{done}/{total}' in text


@pytest.mark.parametrize('columns', [60, 80])
def test_large_and_lost_losses_fit_too(columns):
    for loss, shown in ((None, 'nan'), (123456.0, '1.2e+05')):
        text = line(columns, 324, 720, 35, figures(loss, images_per_second=3.21, waiting=1.0))
        assert text.endswith(f'left, loss {shown}, 3.2 images/s, wait 100%') and len(text) <= columns
