"""The project from Python, as docs/api.md shows it: what `import unet_jax` offers."""
import os
import runpy
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from ml_collections import ConfigDict

from unet_jax import config as fields
from unet_jax import shipped
from unet_jax.annotations import labels
from unet_jax.errors import InputError
from unet_jax.evaluation import summary as summaries
from unet_jax.experiment import Experiment
from unet_jax.formats import recognise
from unet_jax.formats.inputs import check_output
from unet_jax.inference import members
from unet_jax.inference import predictor as inference
from unet_jax.inference.temperature import uncertainty
from unet_jax.modes import given, image_kind, start, volume_kind
from unet_jax.modes import predict as prediction
from unet_jax.pipeline import prepared
from unet_jax.workdir import load_config

Changes = Mapping[str, Any] | None  # {'section.name': value}, or nested, of fields of unet_jax/config.py


class Found(NamedTuple):
    """What a predictor found in one image or volume, at its own size. Dicts are by region, such as 'WT'."""
    masks: dict[str, np.ndarray]  # (…) bool, nested as they are written, post-processed where the run is
    probabilities: dict[str, np.ndarray]  # (…) float32, calibrated where config.evaluation.calibrate is on
    uncertainty: dict[str, np.ndarray]  # (…) uint8, 0 (sure) to 100 (a probability of 1/2)
    volumes_ml: dict[str, float]  # of an image NaN, unless its spacing was given
    ids: np.ndarray  # (…) the label numbers that `save` writes
    experiment: Experiment
    source: given.Given

    def __repr__(self) -> str:
        return f'Found(masks of shape {self.ids.shape}, volumes_ml={self.volumes_ml})'

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the mask as --mode=predict does, the same bytes: an image's as PNG, a volume's as NIfTI with the
        geometry of its file, or the affine or spacing it was given with. Raises InputError for another ending, and
        where it would overwrite what was looked at."""
        path, form = Path(path).expanduser(), self.experiment.format
        endings = ('.nii', '.nii.gz') if form.volumetric else ('.png',)
        if not path.name.endswith(endings):
            raise InputError(f'{path}: the mask is written as {" or ".join(endings)}; name it so')
        check_output(path.parent, masks=[path], inputs=self.source.files)
        form.write(path, self.ids, like=self.source.like)
        return path


class Predictor(NamedTuple):
    """Segments images or volumes, by `load`. May be called from several threads; one at a time uses the devices."""
    network: inference.Predictor
    checkpoint: str  # the step, or the steps of an average
    lock: threading.Lock

    def __repr__(self) -> str:
        return f'Predictor(checkpoint {self.checkpoint}, regions={self.regions}, sequences={self.sequences})'

    @property
    def config(self) -> ConfigDict:
        return self.network.experiment.config

    @property
    def sequences(self) -> tuple[str, ...]:
        """The channels of a volume or slice, in order; () of images."""
        return self.network.experiment.sequences

    @property
    def regions(self) -> tuple[str, ...]:
        return self.network.experiment.names

    def __call__(self, case: Any, *, spacing: Sequence[float] | None = None, affine: np.ndarray | None = None
                 ) -> Found | list[Found]:
        """What is found in `case`; in a list of cases, a list.

        A case is the path of an image file, an HDF5 slice, or the folder of a volume; an image as an array (H, W),
        (H, W, 1) or (H, W, 3); or {sequence: path or array}, (X, Y, Z) each of a volume, (H, W) of a slice.
        spacing: mm along the three axes of volumes in memory, whose axes then point as those of the network do
        (`config.data.orientation`); or affine (4, 4), voxels to mm in RAS+. Files know theirs.

        Images are segmented in batches of `config.evaluation.batch_size`, whatever their number, so many in a list
        take less time. For a network that looks at a patient's other slices (`data.neighbours`, or `data.standardise`
        'patient') a list holds the slices of one patient, in their order. Raises InputError for what cannot be used,
        by its name; see `given.take`.
        """
        cases = case if isinstance(case, (list, tuple)) else [case]
        found = list(self.answers(cases, spacing, affine))
        return found if isinstance(case, (list, tuple)) else found[0]

    def answers(self, cases: Sequence[Any], spacing: Sequence[float] | None, affine: np.ndarray | None
                ) -> Iterator[Found]:
        experiment = self.network.experiment
        taken = (take(experiment, cases, k, spacing=spacing, affine=affine) for k in range(len(cases)))
        if not experiment.format.volumetric:
            taken = list(taken)
            of_one = image_kind.of_patients(experiment)
            rows = pd.DataFrame({'case': 'given' if of_one else range(len(taken)),
                                 'slice': pd.array(range(len(taken)) if of_one else [None] * len(taken), 'Int64')})
            with self.lock:
                answers = list(image_kind.answer(self.network, [one.content.image for one in taken],
                                                 rows.assign(group=rows.case)))
            for one, answer in zip(taken, answers, strict=True):
                yield tell(experiment, one, answer)
            return
        for one in taken:
            where = str(one.files[0]) if one.files else 'the volume'
            case = prepared.prepare_content(one.content, experiment.settings, spacing=one.spacing, where=where)
            one = one._replace(content=one.content._replace(image=None, brain=None))  # whole volumes, needed no more
            with self.lock:
                answer = volume_kind.answer(self.network, prepared.as_volume(case, experiment.settings), one)
            yield tell(experiment, one, answer)


def take(experiment: Experiment, cases: Sequence[Any], k: int, **options) -> given.Given:
    try:
        return given.take(experiment, cases[k], **options)
    except InputError as error:
        if len(cases) == 1:
            raise
        raise InputError(f'case {k + 1} of {len(cases)}: {error}') from error


def tell(experiment: Experiment, source: given.Given, answer: inference.Segmented) -> Found:
    """All that follows from an answer."""
    names, unsure = experiment.names, uncertainty(answer.probability)
    masks = labels.region_masks(answer.bits, experiment.region_bits)
    voxel = np.prod(source.spacing) / 1000 if source.spacing else float('nan')  # ml

    def by_region(array: np.ndarray) -> dict[str, np.ndarray]:
        return {name: array[..., r] for r, name in enumerate(names)}

    volumes = {name: float(mask.sum() * voxel) for name, mask in by_region(masks).items()}
    return Found(by_region(masks), by_region(answer.probability), by_region(unsure), volumes,
                 labels.to_ids(answer.bits, experiment.classes), experiment, source)


def load(source: str | os.PathLike, *, checkpoint: str = 'best', ensemble: Sequence[str | os.PathLike] = (),
         changes: Changes = None) -> Predictor:
    """A predictor with the checkpoint of the work directory or model file `source`, or the average of several.

    checkpoint: 'best', 'latest', a step, or several with commas; ensemble: more of either. changes: fields such
    as {'evaluation.threshold': 0.4}. Raises InputError where there is no such run or checkpoint, or it is damaged.
    """
    folder = Path(source).expanduser()
    config = changed(load_config(folder), changes)
    start.start(config, folder)
    chosen = members.choose([folder, *(Path(path).expanduser() for path in ensemble)], checkpoint)
    network, used = prediction.restore(config, chosen)
    return Predictor(network, used, threading.Lock())


def get_config(name: str | os.PathLike, changes: Changes = None) -> ConfigDict:
    """The config of a file, or of a shipped one by its name, 'phantom' or 'brats3d:small', with `changes`, such as
    {'data.root': 'brats', 'train.steps': 100}. Raises InputError for a config, a field or a value that there is not.
    """
    path, _, argument = shipped.find(os.path.expanduser(name))[0].partition(':')
    make = runpy.run_path(path)['get_config']
    return changed(make(argument) if argument else make(), changes)


def changed(config: ConfigDict, changes: Changes) -> ConfigDict:
    return fields.build({**fields.flat(config), **fields.flat(changes or {})})


class Annotated(NamedTuple):
    """What --mode=annotate writes."""
    workdir: Path
    frame: pd.DataFrame  # a row an annotation; also in annotations.parquet and .csv
    audit: Path  # JSON; audit.txt beside it is for reading


class Evaluated(NamedTuple):
    """What --mode=evaluate writes."""
    summary: dict  # of summary.json: means with intervals by region and metric, the convention, the checkpoint
    cases: Path  # CSV: every metric of every case and region
    masks: Path  # the folder of predicted masks
    report: Path  # HTML


class Trained(NamedTuple):
    """What --mode=train writes."""
    workdir: Path  # for `load`, but of several seeds: there W/seed_1 and so on are
    finished: bool  # False where it was interrupted and saved; the same call goes on
    evaluated: tuple[Evaluated, ...]  # the best checkpoint, of each seed of config.train.seeds


def annotate(config: ConfigDict | str, workdir: str | os.PathLike) -> Annotated:
    """Reads and audits the data of a config. Raises InputError for data that cannot be read."""
    from unet_jax.modes import annotate as mode
    config, folder = begin(config, workdir, 'annotate')
    return Annotated(folder, mode.annotate(config, folder), folder / 'audit.json')


def train(config: ConfigDict | str, workdir: str | os.PathLike, *, allow: Sequence[str] = ()) -> Trained:
    """Trains, or goes on where `workdir` was left, and evaluates the best checkpoint on the test subset.

    config: of `get_config`, or what it takes. allow: fields in which a run that goes on may differ. Called from the
    main thread, as it notes SIGTERM and Ctrl-C. Raises InputError for what cannot be followed.
    """
    from unet_jax.modes import train as mode
    config, folder = begin(config, workdir, 'train')
    finished = mode.train(config, folder, allow=tuple(allow))
    homes = [folder / f'seed_{seed}' for seed in config.train.seeds] or [folder]
    subsets = set(pd.read_parquet(folder / 'annotations.parquet', columns=['subset']).subset)
    subset = 'test' if 'test' in subsets else config.train.validate
    return Trained(folder, finished, tuple(evaluated(home, subset) for home in homes) if finished else ())


def evaluate(workdir: str | os.PathLike, *, subset: str = 'test', checkpoint: str = 'best',
             ensemble: Sequence[str | os.PathLike] = (), changes: Changes = None,
             output: str | os.PathLike | None = None) -> Evaluated:
    """Scores a checkpoint of a run, or the average of several, on a subset of its data; `load` says of what.

    A model file is scored on the data of changes['data.root'], and needs a folder `output` for the results."""
    from unet_jax.modes import evaluate as mode
    config, folder = begin(changed(load_config(Path(workdir).expanduser()), changes), workdir, 'evaluate')
    others = [os.fspath(path) for path in ensemble]
    home = mode.evaluate(config, folder, subset=subset, which=checkpoint, ensemble=others,
                         output=None if output is None else os.fspath(output))
    return evaluated(home, subset)


def begin(config: ConfigDict | str, workdir: str | os.PathLike, mode: str) -> tuple[ConfigDict, Path]:
    """(a config of its own, the work directory), after what every mode does first."""
    config = config.copy_and_resolve_references() if isinstance(config, ConfigDict) else get_config(config)
    config = recognise.resolve(config)
    folder = Path(workdir).expanduser()
    start.start(config, folder, mode=mode)
    return config, folder


def evaluated(home: Path, subset: str) -> Evaluated:
    target = home / 'evaluation' / subset
    return Evaluated(summaries.read_summary(target), target / 'cases.csv', home / 'predictions' / subset,
                     home / 'report.html')
