"""What is fitted on the validation subset after training: temperatures of the regions in calibration.json, limits of
post-processing in postprocess.json. Both lie in the work directory, or in a model file, beside what they were fitted
for; what was fitted for other settings, or by an older version, is fitted anew."""
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from unet_jax.annotations import labels
from unet_jax.errors import InputError
from unet_jax.evaluation import calibration, cases, tuning
from unet_jax.inference import model_file, postprocess
from unet_jax.inference.predictor import Predictor
from unet_jax.inference.temperature import calibrated
from unet_jax.modes import kinds
from unet_jax.workdir import write_text

log = logging.getLogger('unet_jax')
POSTPROCESS, CALIBRATION = 'postprocess.json', 'calibration.json'
ASKED = {POSTPROCESS: 'config.evaluation.postprocess', CALIBRATION: 'config.evaluation.calibrate'}


def settle(predictor: Predictor, folder: Path, used: int | str, valid: pd.DataFrame | None) -> Predictor:
    """The predictor with temperatures and limits, as config.evaluation asks for them, of the checkpoints `used`: those
    in `folder`, a work directory or model file, or fitted on the cases `valid`.

    Raises InputError where there are none and `valid` is None or empty.
    """
    settings, names = predictor.experiment.config.evaluation, predictor.experiment.names
    made = {'checkpoint': used, 'flips': settings.flips, 'overlap': settings.overlap}
    if settings.calibrate:
        found = known(folder, CALIBRATION, made) or save(folder, CALIBRATION, made, fit_temperatures, predictor, valid)
        predictor = predictor._replace(temperatures=tuple(found['temperatures'][name] for name in names))
    if settings.postprocess:
        made |= {'version': 2, 'convention': settings.convention, 'threshold': settings.threshold,
                 'temperatures': list(predictor.temperatures)}
        found = known(folder, POSTPROCESS, made) or save(folder, POSTPROCESS, made, tune_limits, predictor, valid)
        limits = {step: tuple(values[name] for name in names) for step, values in found['limits'].items()}
        predictor = predictor._replace(limits=limits)
    return predictor


def known(folder: Path, name: str, made: dict) -> dict | None:
    """What the file `name` holds, where it was made for `made`; None, with a word of why, where it was not."""
    if model_file.is_model(folder):
        found = model_file.read_json(folder, name)
    else:
        path = folder / name
        found = json.loads(path.read_text(encoding='utf-8')) if path.exists() else None
    if found is None or made.items() <= found.items():
        return found
    other = ', '.join(f'{key} {found.get(key, "of an older version")!s}' for key in made
                      if found.get(key) != made[key])
    log.warning('%s: was made for %s, and is made anew', folder / name, other)
    return None


def save(folder: Path, name: str, made: dict, fit: Any, predictor: Predictor, valid: pd.DataFrame | None) -> dict:
    """What `fit` finds on `valid`, written as `folder`/`name`. Raises InputError where there is nothing to fit on."""
    if valid is None or valid.empty or model_file.is_model(folder):
        raise InputError(f'{folder / name}: holds nothing for {made}; --mode=evaluate --{ASKED[name]}=True on the '
                         'work directory makes it on the validation subset, which must have cases'
                         + ('; then export the model file anew' if model_file.is_model(folder) else ''))
    data = kinds.kind_of(predictor.experiment)
    samples = data.open_samples(predictor.experiment, cases.by_case(valid))
    found = made | {'cases': int(samples.rows.case.nunique())} | fit(predictor, data.segment(predictor, samples, None))
    write_text(folder / name, json.dumps(found, indent=1) + '\n')
    return found


def fit_temperatures(predictor: Predictor, found: Iterator[cases.Case]) -> dict:
    """{'temperatures': {region: T}, 'valid': the errors before and after on the cases that it was fitted on}."""
    experiment = predictor.experiment
    total = sum(cases.tally(experiment, case) for case in found)
    temperatures = tuple(map(calibration.fit, total))
    return {'temperatures': dict(zip(experiment.names, temperatures, strict=True)),
            'valid': calibration.summarise(total, experiment.names, temperatures)}


def tune_limits(predictor: Predictor, found: Iterator[cases.Case]) -> dict:
    """{'limits': {step: {region: value}}, 'patients', 'gains'} of `tuning.tune`."""
    experiment = predictor.experiment
    names, region_bits = experiment.names, experiment.region_bits
    tuned = tuning.tune((one for case in found for one in to_tune(predictor, case)), names=names,
                        region_bits=region_bits, convention=experiment.config.evaluation.convention,
                        seed=experiment.config.seed)
    limits = {step: dict(zip(names, values, strict=True)) for step, values in tuned['limits'].items()}
    return tuned | {'limits': limits}


def to_tune(predictor: Predictor, case: cases.Case) -> Iterator[tuning.Tuned]:
    """A case as it is post-processed: volumes whole and in mm³, of stacked slices each for itself and in pixels."""
    experiment = predictor.experiment
    masks = [labels.region_masks(bits, experiment.region_bits) for bits in (case.reference, case.prediction)]
    arrays = [*masks, calibrated(case.probability, predictor.temperatures)]
    if case.images:
        for k in range(len(case.images)):
            yield tuning.crop(case.group, *(array[:, :, k] for array in arrays), 1.0)
    else:
        yield tuning.crop(case.group, *arrays, float(np.prod(case.spacing)))


def words(predictor: Predictor) -> list[str]:
    """What is done to probabilities and masks, for people."""
    experiment, said = predictor.experiment, []
    if predictor.temperatures:
        said.append('calibrated by ' + ', '.join(f'{name} T = {value:.3g}' for name, value in
                                                 zip(experiment.names, predictor.temperatures, strict=True)))
    if experiment.config.evaluation.postprocess:
        unit = 'mm³' if experiment.format.volumetric else 'px'
        said.append(f'post-processed: {postprocess.told(predictor.limits, experiment.names, unit)}')
    return said


def fitted(config: ConfigDict) -> list[str]:
    """The fields that ask for something to be fitted."""
    return [field for field in ASKED.values() if config.evaluation[field.rpartition('.')[2]]]


def summarised(predictor: Predictor, folder: Path) -> dict:
    """What summary.json tells of post-processing: {'postprocess': {limits, patients, gains}}; {} without."""
    if not predictor.experiment.config.evaluation.postprocess:
        return {}
    found = model_file.read_json(folder, POSTPROCESS) if model_file.is_model(folder) else \
        json.loads((folder / POSTPROCESS).read_text(encoding='utf-8'))
    return {'postprocess': {key: found[key] for key in ('limits', 'patients', 'gains')}}
