"""The networks to choose from: config.model.name -> a function that builds one from config.model.

A network is a flax module called with an image (B, *S, C) float32 and whether all heads are wanted, which returns a
list of logits, finest first: (B, *S, K), and if they are those of l = 1 … config.model.deep_supervision, which are
`unet.coarsening`[l] times smaller: (B, *⌈S / 2^l⌉, K) unless config.model.strides says otherwise.
"""
from flax import linen as nn
from ml_collections import ConfigDict

from unet_jax.model import unet

NETWORKS = {
    'unet': unet.build,
}


def build(config: ConfigDict, out_channels: int) -> nn.Module:
    """The network that `config` (config.model) names and describes, with `out_channels` logits a pixel.

    Raises InputError, naming the field and its value, for what cannot be built.
    """
    return NETWORKS[config.name](config, out_channels)
