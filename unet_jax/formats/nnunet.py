"""nnU-Net's raw folders, of volumes in NIfTI and of 2-D images."""
from pathlib import Path

import pandas as pd
from ml_collections import ConfigDict

from unet_jax.annotations import image_cases, mask_values, nnunet
from unet_jax.annotations import volumes as builder
from unet_jax.annotations.left_out import LeftOut, of_files
from unet_jax.annotations.nifti_search import Files
from unet_jax.errors import InputError
from unet_jax.formats import coco, volumes


def opened(data: ConfigDict, *, audit: bool, images: bool
           ) -> tuple[Path, nnunet.Dataset, LeftOut, list[Files], dict[str, str]]:
    """(root, dataset.json, reader, cases, {case: subset} as far as the folder says)."""
    root, reader = Path(data.root), of_files(data.on_error, audit=audit)
    dataset = nnunet.load(root)
    if images != (dataset.ending not in nnunet.VOLUMES):
        other = 'nnunet_raw' if images else 'nnunet_images'
        raise InputError(f'{root}: the files end in {dataset.ending}; --config.data.format={other} reads them')
    cases, test = nnunet.cases(root, dataset, reader)
    given = nnunet.splits(root, folds=data.folds, fold=data.fold)
    lost = [case.name for case in cases if given and case.name not in given and case.name not in test]
    if lost:
        raise InputError(f'{root / nnunet.SPLITS}: fold {data.fold} does not name {len(lost)} cases of imagesTr, such '
                         f'as {lost[0]}; mend it, or take it away to split by config.data.split')
    return root, dataset, reader, cases, given | dict.fromkeys(test, 'test')


def read_frame(data: ConfigDict, *, audit: bool = False) -> pd.DataFrame:
    """Volumes. Subsets are those of splits_final.json, where it is there, fold config.data.fold; labelled cases of
    imagesTs are the test subset."""
    root, dataset, reader, cases, given = opened(data, audit=audit, images=False)
    wanted = volumes.sequences(data, dataset.channels)
    cases = [case._replace(modalities={m: case.modalities[m] for m in wanted}) for case in cases]

    def meaning(counts: builder.Counts) -> builder.Meaning:
        return builder.Meaning('nnunet', dataset.names, dataset.regions)

    frame = builder.build(root, cases, reader, meaning, subset_of=volumes.by_names(given, data))
    places = {name: k for k, name in enumerate(dataset.channels)}
    frame.attrs['files'] = [[name, f'{{case}}_{places[name]:04d}{dataset.ending}'] for name in wanted]
    return frame


def read_images(data: ConfigDict, *, audit: bool = False) -> pd.DataFrame:
    """Images of one file each, grey or RGB."""
    root, dataset, reader, cases, given = opened(data, audit=audit, images=True)
    most, name = max((len(case.modalities), case.name) for case in cases)
    if most > 1:
        raise InputError(f'{root}: case {name} has {most} image files; 2-D images are read from one, grey or RGB. '
                         'Merge up to three channels into RGB, or write the cases as .nii.gz')
    images = [image_cases.Image(case.name, case.patient,
                                next(iter(case.modalities.values())).relative_to(root).as_posix(),
                                case.label.relative_to(root).as_posix(), given.get(case.name, '')) for case in cases]
    classes = mask_values.Classes({v: v for v in dataset.names}, dataset.names)
    frame = image_cases.build(root, images, reader, lambda values: classes, split=data.split, seed=data.split_seed,
                              folds=data.folds, fold=data.fold)
    frame.attrs['regions'] = [[region.name, list(region.classes), region.paint] for region in dataset.regions]
    return frame


FORMAT = volumes.FORMAT._replace(layout=nnunet.LAYOUT, read_frame=read_frame)
IMAGES = coco.FORMAT._replace(layout=nnunet.LAYOUT, read_frame=read_images, settle=volumes.settle_classes)
