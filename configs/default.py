"""All defaults. Every field there is, with what it means and may be, stands in unet_jax/config.py, as the one table.

The other configs start from here and say what they change. On the command line: --config.optimizer.learning_rate=1e-3.
"""
from unet_jax.config import default


def get_config():
    return default()
