"""The same U-Net in PyTorch, and the same loss: what the benchmarks compare with.

Weights come from the jax parameters by name (`load`), so that the outputs can be compared as well as the times.
"""
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

torch._dynamo.config.recompile_limit = 64  # above it, silently eager; each way of running and direction needs one
SMOOTH = 1.0  # unet_jax.training.losses.SMOOTH


class Block(nn.Module):
    """Convolution without bias, instance norm, leaky ReLU."""

    def __init__(self, d: int, into: int, out: int, stride: int = 1):
        super().__init__()
        self.conv = (nn.Conv2d, nn.Conv3d)[d - 2](into, out, 3, stride, padding=1, bias=False)
        self.norm = (nn.InstanceNorm2d, nn.InstanceNorm3d)[d - 2](out, eps=1e-5, affine=True)

    def forward(self, x):
        return F.leaky_relu(self.norm(self.conv(x)), 0.01, inplace=True)


class UNet(nn.Module):
    """unet_jax.model.unet with plain blocks, instance norm and stem 1; channels first, as PyTorch counts them."""

    def __init__(self, d: int, channels: int, features: tuple[int, ...], out: int, blocks: int, downsample: str):
        super().__init__()
        self.d, self.features, self.downsample = d, features, downsample
        self.encoder, self.up, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        into = channels
        for level, width in enumerate(features):
            stride = 2 if level > 0 and downsample == 'conv' else 1
            self.encoder.append(nn.Sequential(*(Block(d, into if k == 0 else width, width, stride if k == 0 else 1)
                                                for k in range(blocks))))
            into = width
        for level, width in enumerate(features[:-1]):
            self.up.append((nn.ConvTranspose2d, nn.ConvTranspose3d)[d - 2](features[level + 1], width, 2, 2))
            self.decoder.append(nn.Sequential(*(Block(d, 2 * width if k == 0 else width, width)
                                                for k in range(blocks))))
        self.head = (nn.Conv2d, nn.Conv3d)[d - 2](features[0], out, 1)

    def forward(self, x):
        pool, skips = (F.max_pool2d, F.max_pool3d)[self.d - 2], []
        for level, stage in enumerate(self.encoder):
            if level > 0:
                skips.append(x)
                x = pool(x, 2) if self.downsample == 'max' else x
            x = stage(x)
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](torch.cat([skips[level], self.up[level](x)], 1))
        return self.head(x)


def compile_(function):
    """For the shapes of the call only: after a second shape PyTorch would compile for any, which is slower, and fails
    (2.13) for this network."""
    return torch.compile(function, dynamic=False)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def load(module: UNet, flat: dict[str, np.ndarray]) -> None:
    """Copies the jax parameters. A kernel (*k, C, K) becomes (K, C, *k); a dense up-sampling (C, 2^d · K), the
    position in the block first, a transposed convolution (C, K, *2)."""
    d, used = module.d, set()

    def take(name):
        used.add(name)
        return torch.from_numpy(np.array(flat[name]))

    def put(block, prefix):
        block.conv.weight.copy_(take(f'{prefix}/conv/kernel').permute(d + 1, d, *range(d)))
        block.norm.weight.copy_(take(f'{prefix}/norm/scale'))
        block.norm.bias.copy_(take(f'{prefix}/norm/bias'))

    for part, stages in (('encoder', module.encoder), ('decoder', module.decoder)):
        for level, stage in enumerate(stages):
            for k, block in enumerate(stage):
                put(block, f'{part}_{level}_block_{k}/first')
    for level, up in enumerate(module.up):
        kernel = take(f'up_{level}/dense/kernel')
        up.weight.copy_(kernel.reshape(len(kernel), *(2,) * d, -1).permute(0, d + 1, *range(1, d + 1)))
        up.bias.copy_(take(f'up_{level}/bias'))
    head = take('head_0/kernel')
    module.head.weight.copy_(head.T.reshape(module.head.weight.shape))
    module.head.bias.copy_(take('head_0/bias'))
    if used != set(flat):
        raise ValueError(f'parameters without a place: {sorted(set(flat) - used)}')


def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """unet_jax.training.losses: Dice per image and region + binary cross-entropy, both means. (B, R, *S)."""
    logits = logits.float()
    p, axes = torch.sigmoid(logits), tuple(range(2, logits.ndim))
    hit, both = (p * target).sum(axes), p.sum(axes) + target.sum(axes)
    dice = 1 - (2 * hit + SMOOTH) / (both + SMOOTH)
    return dice.mean() + F.binary_cross_entropy_with_logits(logits, target)


def flops(module: nn.Module, image: torch.Tensor, target: torch.Tensor) -> tuple[int, int]:
    """(forward, training step) FLOPs of the convolutions, 2 a multiplication and addition, without padding's."""
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        module(image)
    with FlopCounterMode(display=False) as both:
        loss(module(image), target).backward()
    module.zero_grad(set_to_none=True)
    return forward.get_total_flops(), both.get_total_flops()


class Side:
    """One network with its forward and training step, in one of the ways in which PyTorch can run it."""

    def __init__(self, module: UNet, image: np.ndarray, target: np.ndarray, *, compiled: bool, channels_last: bool,
                 bfloat16: bool, device: str = 'cpu'):
        """image (B, *S, C), target (B, *S, R): float32, as jax has them."""
        layout = {True: (torch.channels_last, torch.channels_last_3d)[module.d - 2], False: torch.contiguous_format}
        self.device, self.bfloat16 = device, bfloat16
        self.module = module.to(device, memory_format=layout[channels_last])
        self.image, self.target = (torch.from_numpy(np.moveaxis(x, -1, 1).copy()).to(device).contiguous(
            memory_format=layout[channels_last]) for x in (image, target))
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
        self.call = compile_(self.module) if compiled else self.module
        self.loss = compile_(loss) if compiled else loss

    def wait(self) -> None:
        if self.device != 'cpu':
            torch.cuda.synchronize()

    def cast(self):
        return torch.autocast(self.device.split(':')[0], torch.bfloat16, enabled=self.bfloat16)

    def forward(self) -> torch.Tensor:
        self.module.eval()
        with torch.inference_mode(), self.cast():
            found = self.call(self.image)
        self.wait()
        return found

    def train(self) -> torch.Tensor:
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.cast():
            value = self.loss(self.call(self.image), self.target)
        value.backward()
        self.optimizer.step()
        self.wait()
        return value
