"""--mode=predict: masks of files that nobody annotated."""
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from unet_jax.errors import InputError
from unet_jax.inference import predict as inference
from unet_jax.modes import images, volumes
from unet_jax.training import sharding


def predict(config: ConfigDict, folder: Path, *, source: tuple[str, ...], output: str | None, which: str,
            ensemble: Sequence[str] = ()) -> None:
    """Segments image files, HDF5 slices or folders of volumes with the checkpoints `which` of `folder`, and of the
    work directories `ensemble`. Of several processes all restore, and the first segments. Raises InputError where
    `source` names nothing."""
    if not source:
        raise InputError('--input is missing: name images, HDF5 slices, NIfTI files or cases, or folders of them')
    predictor, used = inference.restore(config, [folder, *map(Path, ensemble)], which)
    if config.evaluation.postprocess and predictor.experiment.volumetric:
        predictor = predictor._replace(limits=volumes.limits(predictor, folder, used, None))
        used = f'{used}, post-processed: {predictor.limits}, in mm³'
    data = volumes if predictor.experiment.volumetric else images

    def write() -> None:
        written = data.predict(predictor, source, Path(output) if output else folder / 'predictions')
        print(f'{written}\nCheckpoint {used}')

    sharding.by_the_first(write, 'predict')
