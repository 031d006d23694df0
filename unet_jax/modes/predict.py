"""--mode=predict: masks of files that nobody annotated."""
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from unet_jax.inference import predict as inference
from unet_jax.modes import images, volumes
from unet_jax.training import processes


def predict(config: ConfigDict, folder: Path, *, source: str | None, output: str | None, which: str,
            ensemble: Sequence[str] = ()) -> None:
    """Segments image files, HDF5 slices or folders of volumes with the checkpoints `which` of `folder`, and of the
    work directories `ensemble`. Of several processes all restore, and the first segments."""
    predictor, used = inference.restore(config, [folder, *map(Path, ensemble)], which)
    config = predictor.experiment.config
    if config.evaluation.postprocess and predictor.experiment.volumetric:
        predictor = predictor._replace(limits=volumes.limits(predictor, folder, used, None))
        used = f'{used}, post-processed: {predictor.limits}, in mm³'
    data = volumes if predictor.experiment.volumetric else images

    def write() -> None:
        written = data.predict(predictor, source, Path(output) if output else folder / 'predictions')
        print(f'{written}\nCheckpoint {used}')

    processes.by_the_first(write, 'predict')
