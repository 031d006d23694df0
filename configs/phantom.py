"""Made-up brains, so that everything can be tried without any data.

    python main.py --config=configs/phantom.py

"""
from configs import default


def get_config():
    config = default.get_config()
    with config.unlocked():
        config.data.format = 'phantom'
        config.data.phantom = {'train': 240, 'valid': 40, 'test': 60, 'size': 128}
        config.model.update({'stem': 2, 'features': (24, 48, 96), 'encoder_blocks': (2, 2, 2),
                             'decoder_blocks': (1, 1)})
        config.optimizer.update({'learning_rate': 3e-3, 'warmup': 50})
        config.train.update({'steps': 500, 'batch_size': 12, 'evaluate_every': 250, 'checkpoint_every': 250})
    return config.lock()
