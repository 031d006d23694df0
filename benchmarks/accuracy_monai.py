"""The peer of accuracy.py: MONAI's U-Net as one would set it up for such images, trained for some time."""
import math
import os
import time

import common
import numpy as np
import torch
from monai import transforms as mt
from monai.losses import DiceLoss
from monai.networks.nets import UNet
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

BATCH, RATE = 16, 1e-3


class Images(Dataset):
    """Images (N, H, W, C) uint8 as 0..1 and masks (N, H, W, R), augmented at every visit."""

    def __init__(self, image: np.ndarray, label: np.ndarray):
        self.image, self.label, both = image, label, ['image', 'label']
        self.transform = mt.Compose([
            mt.RandFlipd(both, prob=0.5, spatial_axis=0), mt.RandFlipd(both, prob=0.5, spatial_axis=1),
            mt.RandAffined(both, prob=0.8, rotate_range=math.radians(30), scale_range=0.2,
                           mode=('bilinear', 'nearest'), padding_mode='zeros'),  # turns and zoom in one resampling
            mt.RandScaleIntensityd('image', factors=0.2, prob=0.5)])

    def __len__(self):
        return len(self.image)

    def __getitem__(self, index):
        found = self.transform({'image': np.moveaxis(self.image[index], -1, 0).astype(np.float32) / 255,
                                'label': np.moveaxis(self.label[index], -1, 0).astype(np.float32)})
        return tuple(torch.as_tensor(found[name]).as_subclass(torch.Tensor) for name in ('image', 'label'))


def run(folder: str, seconds: float, flips: bool, seed: int) -> dict:
    """Trains on train.npz for so many seconds, writes probabilities (N, H, W, R) of test.npz, says what it took."""
    torch.manual_seed(seed)
    data = np.load(f'{folder}/train.npz')
    image, label = data['image'], data['label']
    module = UNet(spatial_dims=2, in_channels=image.shape[-1], out_channels=label.shape[-1],
                  channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2)
    module = module.to(memory_format=torch.channels_last).train()
    optimizer, dice = torch.optim.AdamW(module.parameters(), lr=RATE), DiceLoss(sigmoid=True, batch=True)
    loader = DataLoader(Images(image, label), min(BATCH, len(image)), shuffle=True, drop_last=True,
                        num_workers=os.cpu_count() or 1, persistent_workers=True)
    bfloat16, steps, cpu, begun = common.bfloat16(), 0, cpu_seconds(), time.perf_counter()
    workers = []
    while (done := (time.perf_counter() - begun) / seconds) < 1:
        batches = iter(loader)
        workers = [worker.pid for worker in batches._workers]
        for x, y in batches:
            done = (time.perf_counter() - begun) / seconds
            if done >= 1:
                break
            for group in optimizer.param_groups:
                group['lr'] = RATE * (1 + math.cos(math.pi * done)) / 2
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast('cpu', torch.bfloat16, enabled=bfloat16):
                logits = module(x.contiguous(memory_format=torch.channels_last))
            logits = logits.float()
            (dice(logits, y) + F.binary_cross_entropy_with_logits(logits, y)).backward()
            optimizer.step()
            steps += 1
    took = {'seconds': time.perf_counter() - begun, 'cpu': cpu_seconds(workers) - cpu, 'steps': steps}
    del batches, loader
    path = f'{folder}/probabilities.npy'
    np.save(path, predict(module.eval(), np.load(f'{folder}/test.npz')['image'], flips=flips, bfloat16=bfloat16))
    return {**took, 'probabilities': path, 'bfloat16': bfloat16,
            'parameters': sum(p.numel() for p in module.parameters())}


def cpu_seconds(workers: list[int] = ()) -> float:
    """Of this process and its loaders, which are still running."""
    used, tick = time.process_time(), os.sysconf('SC_CLK_TCK')
    for pid in workers:
        with open(f'/proc/{pid}/stat') as file:
            fields = file.read().rpartition(')')[2].split()
        used += (int(fields[11]) + int(fields[12])) / tick  # user and system time
    return used


@torch.inference_mode()
def predict(module: torch.nn.Module, image: np.ndarray, *, flips: bool, bfloat16: bool) -> np.ndarray:
    """(N, H, W, C) uint8 -> probabilities (N, H, W, R) float16, averaged over mirrored inputs where asked for."""
    views = [(), (2,), (3,), (2, 3)] if flips else [()]
    found = []
    for start in range(0, len(image), BATCH):
        x = torch.from_numpy(np.moveaxis(image[start:start + BATCH], -1, 1).astype(np.float32) / 255)
        total = 0
        for axes in views:
            with torch.autocast('cpu', torch.bfloat16, enabled=bfloat16):
                logits = module(x.flip(axes) if axes else x)
            total = total + torch.sigmoid(logits.float()).flip(axes) if axes else torch.sigmoid(logits.float()) + total
        found.append((total / len(views)).permute(0, 2, 3, 1).numpy().astype(np.float16))
    return np.concatenate(found)
