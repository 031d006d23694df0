"""unet_jax on the command line: python main.py --config=configs/phantom.py. What it takes: command_line.py."""
from unet_jax import huge_pages

if __name__ == '__main__':
    huge_pages.restart()  # before anything large is imported
    from unet_jax import command_line
    command_line.run()
