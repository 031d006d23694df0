"""--mode=predict: masks of files that nobody annotated."""
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from unet_jax.inference import members
from unet_jax.inference import predict as inference
from unet_jax.modes import images, volumes
from unet_jax.training import sharding


def predict(config: ConfigDict, folder: Path, *, source: str | None, output: str | None, which: str,
            ensemble: Sequence[str] = ()) -> None:
    """Segments image files, HDF5 slices or folders of volumes with the checkpoints `which` of `folder`, and of the
    work directories `ensemble`. Of several processes all restore, and the first segments."""
    chosen = members.choose([folder, *map(Path, ensemble)], which)
    predictor, used, home = inference.restore_members(config, chosen), members.told(chosen), members.home(chosen)
    if config.evaluation.postprocess and predictor.experiment.volumetric:
        predictor = predictor._replace(limits=volumes.limits(predictor, home, used, None))
        used = f'{used}, post-processed: {predictor.limits}, in mm³'
    data = volumes if predictor.experiment.volumetric else images

    def write() -> None:
        written = data.predict(predictor, source, Path(output) if output else home / 'predictions')
        print(f'{written}\nCheckpoint {used}')

    sharding.by_the_first(write, 'predict')
