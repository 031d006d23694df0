"""The card of a model: what it was made from, how good it is, what it is for (Mitchell et al. 2019, "Model Cards for
Model Reporting"). Read from the files of a work directory."""
import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from unet_jax import formats
from unet_jax.annotations import identity
from unet_jax.inference import members, model_file, transfer

USE = ('Research on the segmentation of brain tumours. It is no medical device: no diagnosis and no treatment may '
       'rest on it, and a person must look at every mask.')
LIMITS = ('It knows only images of the kind it was trained on: other scanners, sequences, ages of patients, kinds of '
          'tumour or states after an operation may give masks that are wrong without any sign of it.',
          'The scores below are of the cases and by the rules that stand beside them; on other data they may be far '
          'lower. Score it on some annotated cases of your own first.')
VERSIONS = ('python', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'commit')  # of environment.json; no paths


def describe(config: ConfigDict, member: members.Member, params: dict[str, np.ndarray]) -> dict:
    """The card as JSON: data set and identity digest, splits, metrics with intervals, versions, use and limits."""
    folder = member.folder
    environment = read_json(folder / 'environment.json') or {}
    return {
        'checkpoint': member.step,
        'parameters': {'number': sum(leaf.size for leaf in params.values()),
                       'digest': model_file.params_digest(params), 'started_from': config.train.init_seal},
        'input': inputs(config),
        'output': [{'region': name, 'categories': list(ids)} for name, ids, _ in config.data.regions],
        'data': data(config, folder), 'splits': splits(folder), 'metrics': scores(member),
        'trained_with': {name: environment[name] for name in VERSIONS if name in environment},
        'exported_with': {name: metadata.version(name) for name in ('jax', 'safetensors')},
        'intended_use': USE, 'limits': [*LIMITS, calibration(config, member)]}


def calibration(config: ConfigDict, member: members.Member) -> str:
    """How far the probabilities can be trusted, in words."""
    if config.evaluation.calibrate and of_checkpoint(member, 'calibration.json'):
        return ('Probabilities are calibrated on the validation subset (calibration.json), so for data like those, '
                'and near tumours.')
    return 'Probabilities are not calibrated.'


def inputs(config: ConfigDict) -> dict:
    """What the network looks at."""
    form = formats.named(config.data.format)
    return {'format': config.data.format, 'sequences': list(transfer.sequences(config)),
            'size': list(config.data.size), 'spacing': list(config.data.spacing),
            'orientation': config.data.orientation, 'volumes': form.volumetric,
            'may_lack_sequences': config.data.missing_modalities}


def data(config: ConfigDict, folder: Path) -> dict:
    """Which data set, as far as the work directory tells."""
    known = identity.load(folder)
    found = {'name': Path(config.data.root).name, 'format': config.data.format}
    if known is None:
        return found | {'identity': None}
    return found | {'identity': known['digest'], 'images': len(known['images']),
                    'annotations': len(known['annotations'])}


def splits(folder: Path) -> dict[str, dict[str, int]]:
    """{subset: how many images, cases and groups (patients)}."""
    frame = pd.read_parquet(folder / 'annotations.parquet', columns=['subset', *members.NAMES])
    return {str(subset): {name: int(rows[column].nunique()) for name, column in
                          (('images', 'path'), ('cases', 'case'), ('groups', 'group'))}
            for subset, rows in frame.groupby('subset')}


def scores(member: members.Member) -> dict[str, dict]:
    """{subset: its summary.json} of the evaluations of this very checkpoint."""
    found = {}
    for path in sorted(member.folder.glob('evaluation/*/summary.json')):
        summary = read_json(path) or {}
        if summary.get('checkpoint') == member.step:
            found[path.parent.name] = {key: value for key, value in summary.items() if key != 'skipped'}  # names
    return found


def of_checkpoint(member: members.Member, name: str) -> dict | None:
    """postprocess.json or calibration.json of the work directory, where it is of this checkpoint."""
    known = read_json(member.folder / name) or {}
    return known if known.get('checkpoint') == member.step else None


def used_names(folder: Path) -> list[list[str]]:
    """[subset, case, group, path] of what the run was trained on or chosen by; all but the subset as digests."""
    return members.used_by(folder)[['subset', *members.NAMES]].drop_duplicates().astype(str).to_numpy().tolist()


def read_json(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else None


def page(card: dict) -> str:
    """The card in Markdown."""
    size, data_set = ' × '.join(map(str, card['input']['size'])), card['data']
    kind = 'volumes, in windows of' if card['input']['volumes'] else 'images, scaled to'
    started = card['parameters']['started_from']
    lines = [
        '# Model card', '',
        f'Segments {", ".join(entry["region"] for entry in card["output"])} in {kind} {size}, from '
        f'{", ".join(card["input"]["sequences"])}.', '',
        f'{card["parameters"]["number"]:,} parameters, checkpoint {card["checkpoint"]}, digest '
        f'`{card["parameters"]["digest"]}`' + (f'; training began from `{started}`' if started else '') + '.', '',
        '## Intended use', '', card['intended_use'], '',
        '## Limits', '', *(f'- {text}' for text in card['limits']), '',
        '## Data', '', f'{data_set["name"] or "No name"} (format {data_set["format"]}), identity '
        f'`{data_set["identity"]}`.', '',
        '| subset | images | cases | groups |', '|---|---|---|---|',
        *(f'| {name} | {n["images"]} | {n["cases"]} | {n["groups"]} |' for name, n in card['splits'].items()), '',
        '## Scores', '', *(score_lines(card['metrics']) or ['This checkpoint was not evaluated.']), '',
        '## Versions', '', ', '.join(f'{name} {value}' for name, value in card['trained_with'].items()) or 'not noted']
    return '\n'.join(lines) + '\n'


def score_lines(metrics: dict[str, dict]) -> list[str]:
    """A table a subset: mean and 95 % interval of each metric of each region."""
    lines = []
    for subset, summary in metrics.items():
        seen = f'; not new cases: {summary["seen"]}' if 'seen' in summary else ''
        lines += ['', f'### {subset}', '', f'{summary["cases"]} cases, convention {summary["convention"]}, distances '
                  f'in {summary["units"]}{seen}.', '', '| region | metric | mean | 95 % interval | cases |',
                  '|---|---|---|---|---|']
        for region, found in summary['regions'].items():
            lines += [f'| {region} | {name} | {entry["mean"]:.4f} | {shown(entry["low"])} to {shown(entry["high"])} | '
                      f'{entry["n"]} |' for name, entry in found.items()
                      if isinstance(entry, dict) and entry.get('mean') is not None]
    return lines[1:]


def shown(value: float | None) -> str:
    return '–' if value is None else f'{value:.4f}'
