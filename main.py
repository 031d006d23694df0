"""unet_jax on the command line: python main.py --config=configs/phantom.py. What it takes: command_line.py."""
from unet_jax import console, huge_pages

if __name__ == '__main__':
    huge_pages.restart(__file__)  # before anything large is imported
    console.forgive()
    from unet_jax import command_line
    command_line.run()
