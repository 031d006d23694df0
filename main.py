"""unet_jax on the command line: python main.py --config=configs/phantom.py. What it takes: command_line.py."""
from unet_jax.__main__ import run

if __name__ == '__main__':
    run(__file__)
