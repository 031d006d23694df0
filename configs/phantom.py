"""Made-up brains, so that everything can be tried without any data.

    python main.py --config=configs/phantom.py

"""
from configs import default


def get_config():
    config = default.get_config()
    with config.unlocked():
        config.data.format = 'phantom'
        config.data.phantom = {'train': 240, 'valid': 40, 'test': 60, 'size': 128}
        config.data.size = (128, 128)
        config.train.steps = 400
    return config.lock()
