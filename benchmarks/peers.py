"""The peers of end_to_end.py as their users set them up: network, augmentation, loader, training step."""
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from monai import transforms as mt
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

held = []  # a library of operators lives as long as its object
TURN, FLIP = 30.0, 0.5  # degrees; the other numbers are those of configs/coco.py, or the nearest the peer has


def prepare(peer: str, files: list[list[str]], size: tuple[int, int]) -> dict:
    """{'network': makes one, 'dataset'}; grey images and masks, scaled to fit and padded to `size`, decoded once."""
    decoded = [decode(image, mask, size) for image, mask in files]
    network, augmentation = {'monai': (monai_network, Monai), 'smp': (smp_network, Albumentations),
                             'mixed': (monai_network, Albumentations)}[peer]
    return {'network': network, 'dataset': Cached(decoded, augmentation())}


def decode(image: str, mask: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8 of both."""
    pair = Image.open(image).convert('L'), Image.fromarray(np.load(mask))
    scale = min(size[0] / pair[0].height, size[1] / pair[0].width)
    shape = (round(pair[0].width * scale), round(pair[0].height * scale))
    found = []
    for picture, how in zip(pair, (Image.Resampling.BILINEAR, Image.Resampling.NEAREST)):
        array = np.asarray(picture.resize(shape, how))
        found.append(np.pad(array, [(0, s - n) for s, n in zip(size, array.shape)]))
    return tuple(found)


class Cached(Dataset):
    """Decoded images in memory, augmented at every visit."""

    def __init__(self, decoded: list, augment: Callable):
        self.decoded, self.augment = decoded, augment

    def __len__(self):
        return len(self.decoded)

    def __getitem__(self, index):
        return self.augment(*self.decoded[index])


def smp_network() -> torch.nn.Module:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # its build for CUDA beside PyTorch's for CPUs. smp imports it, but needs no operator of it
        held.append(torch.library.Library('torchvision', 'DEF'))
        for name in ('nms', 'qnms'):
            held[-1].define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    import segmentation_models_pytorch as smp
    return smp.Unet('resnet34', encoder_weights=None, in_channels=1, classes=1)


def monai_network() -> torch.nn.Module:
    from monai.networks.nets import UNet
    return UNet(spatial_dims=2, in_channels=1, out_channels=1, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2),
                num_res_units=2)


class Albumentations:
    def __init__(self):
        import albumentations as A
        import cv2
        cv2.setNumThreads(0)
        self.transform = A.Compose([
            A.HorizontalFlip(p=FLIP), A.VerticalFlip(p=FLIP),
            A.Affine(rotate=(-TURN, TURN), scale=(0.8, 1.25), translate_percent=(-0.05, 0.05), p=0.9),
            A.ElasticTransform(alpha=40, sigma=8, p=0.9), A.RandomBrightnessContrast(0.15, 0.25, p=0.2),
            A.RandomGamma((77, 130), p=0.2), A.GaussNoise((0.0, 0.05), p=0.2),
            A.GaussianBlur(sigma_limit=(0.5, 1.5), p=0.2),
            A.Downscale(scale_range=(0.5, 1.0), p=0.2)])

    def __call__(self, image, mask):
        found = self.transform(image=image, mask=mask)
        x = found['image'].astype(np.float32)
        x = (x - x.mean()) / max(float(x.std()), 1e-6)
        return torch.from_numpy(x)[None], torch.from_numpy(found['mask'].astype(np.float32))[None]


class Monai:
    def __init__(self):
        both, angle = ['image', 'label'], np.deg2rad(TURN)
        self.transform = mt.Compose([
            mt.RandFlipd(both, prob=FLIP, spatial_axis=0), mt.RandFlipd(both, prob=FLIP, spatial_axis=1),
            mt.Rand2DElasticd(both, spacing=(16, 16), magnitude_range=(0, 2), prob=0.9, rotate_range=angle,
                              scale_range=0.2, translate_range=6.4, mode=('bilinear', 'nearest'),
                              padding_mode='zeros'),
            mt.RandGaussianNoised('image', prob=0.2, std=0.05), mt.RandGaussianSmoothd(
                'image', sigma_x=(0.5, 1.5), sigma_y=(0.5, 1.5), prob=0.2),
            mt.RandScaleIntensityd('image', factors=0.15, prob=0.2),
            mt.RandAdjustContrastd('image', gamma=(0.77, 1.3), prob=0.2),
            mt.RandSimulateLowResolutiond('image', prob=0.2, zoom_range=(0.5, 1.0), upsample_mode='bilinear'),
            mt.NormalizeIntensityd('image')])

    def __call__(self, image, mask):
        found = self.transform({'image': image[None].astype(np.float32) / 255, 'label': mask[None].astype(np.float32)})
        return torch.as_tensor(found['image']).as_subclass(torch.Tensor), torch.as_tensor(
            found['label']).as_subclass(torch.Tensor)


def endless(loader: DataLoader):
    while True:
        yield from loader


def timed(batches: Iterator, step: Callable, batch: int, seconds: float, least: int = 1) -> dict[str, float]:
    """Steps for so many seconds, and at least so many: images a second, share of the time that `batches` took."""
    start = now = time.perf_counter()
    steps, waited = 0, 0.0
    while now - start < seconds or steps < least:
        found = next(batches)
        waited += time.perf_counter() - now
        step(found)
        steps, now = steps + 1, time.perf_counter()
    return {'images_per_second': steps * batch / (now - start), 'waiting': waited / (now - start)}


class Training:
    """Dice + binary cross-entropy, AdamW; `run` goes on where the last turn ended."""

    def __init__(self, module, dataset, batch: int, bfloat16: bool, channels_last: bool, workers: int):
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.module, self.batch, self.bfloat16 = module.to(memory_format=self.layout).train(), batch, bfloat16
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)
        self.loader = DataLoader(dataset, batch, shuffle=True, drop_last=True, num_workers=workers,
                                 persistent_workers=workers > 0)
        self.batches = endless(self.loader)
        self.step(*next(self.batches))

    def step(self, image, target) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast('cpu', torch.bfloat16, enabled=self.bfloat16):
            logits = self.module(image.contiguous(memory_format=self.layout))
        logits = logits.float()
        p = torch.sigmoid(logits)
        dice = 1 - (2 * (p * target).sum((1, 2, 3)) + 1) / (p.sum((1, 2, 3)) + target.sum((1, 2, 3)) + 1)
        (dice.mean() + F.binary_cross_entropy_with_logits(logits, target)).backward()
        self.optimizer.step()

    def run(self, seconds: float) -> dict[str, float]:
        """Of the batches that the loaders prepared between turns, as many as they can hold are used up first."""
        for _ in range(2 * self.loader.num_workers + 1):
            self.step(*next(self.batches))
        return timed(self.batches, lambda batch: self.step(*batch), self.batch, seconds)

    def close(self) -> None:
        del self.batches, self.loader


class NnUnet:
    """nnU-Net as it sets itself up: the network, patch and batch of its default planner (2d), and its trainer's step
    with deep supervision, SGD and, on processors, float32. Its loaders are as many as it takes by itself."""
    LEAST = 5  # steps of a turn
    HELD = 16  # no fewer batches than its queues hold: 2 × 6, one in between and one at each of its up to 2 workers

    def __init__(self, files: list[list[str]], size: tuple[int, int], folder: Path):
        """Writes the images and masks, scaled to `size` as for the others, as nnU-Net wants them, and lets it plan.
        Afterwards `supply` is the images a second that its loaders deliver while nobody trains."""
        start = time.perf_counter()
        for name in ('raw', 'preprocessed', 'results'):
            os.environ[f'nnUNet_{name}'] = str(folder / name)
        write_raw(folder / 'raw' / 'Dataset001_Images', files, size)
        from nnunetv2.experiment_planning import plan_and_preprocess_api as planning
        from nnunetv2.run.run_training import get_trainer_from_args
        planning.extract_fingerprint_dataset(1, num_processes=2, verbose=False, show_progress_bar=False)
        planning.plan_experiment_dataset(1)
        planning.preprocess_dataset(1, configurations=('2d',), num_processes=(2,), show_progress_bar=False)
        self.planning = time.perf_counter() - start
        self.trainer = get_trainer_from_args('1', '2d', 'all', device=torch.device('cpu'))
        self.trainer.on_train_start()
        self.trainer.on_train_epoch_start()
        self.batches, self.batch = self.trainer.dataloader_train, self.trainer.batch_size
        self.take(self.HELD)
        self.supply = self.take(self.HELD)
        patch = '×'.join(map(str, self.trainer.configuration_manager.patch_size))
        self.way = f'float32, patch {patch}, batch {self.batch}, {len(self.batches._processes)} loaders'

    def take(self, count: int) -> float:
        """Images a second of so many batches that nobody trains on."""
        start = time.perf_counter()
        for _ in range(count):
            next(self.batches)
        return count * self.batch / (time.perf_counter() - start)

    def run(self, seconds: float) -> dict[str, float]:
        """After a step that is not counted. Its queues are full at the beginning of a turn, as they are all the time
        where a step takes longer than a batch (`supply` tells): a worker prepares one for each that is used."""
        self.trainer.train_step(next(self.batches))
        return timed(self.batches, self.trainer.train_step, self.batch, seconds, self.LEAST)


def write_raw(folder: Path, files: list[list[str]], size: tuple[int, int]) -> None:
    for name in ('imagesTr', 'labelsTr'):
        (folder / name).mkdir(parents=True)
    for k, pair in enumerate(files):
        image, mask = decode(*pair, size)
        Image.fromarray(image).save(folder / 'imagesTr' / f'case{k:04}_0000.png')
        Image.fromarray(mask).save(folder / 'labelsTr' / f'case{k:04}.png')
    (folder / 'dataset.json').write_text(json.dumps({
        'channel_names': {'0': 'MRI'}, 'labels': {'background': 0, 'tumour': 1}, 'numTraining': len(files),
        'file_ending': '.png'}))
