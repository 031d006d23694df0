"""unet_jax on the command line, from any folder: unet_jax --config=phantom, or python -m unet_jax --config=phantom.

Both do what main.py of a checkout does. What they take: command_line.py.
"""
import sys

from unet_jax import console, huge_pages


def run(program: str) -> None:
    """The whole program; `program` is what the user started, as `huge_pages.restart` takes it."""
    huge_pages.restart(program)  # before anything large is imported
    console.forgive()
    from unet_jax import command_line
    command_line.run()


def command() -> None:
    """The console command, which pip installs."""
    run(sys.argv[0])


if __name__ == '__main__':
    run('-m unet_jax')
