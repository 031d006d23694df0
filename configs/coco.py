"""Images with COCO JSON annotations, such as a Roboflow, CVAT or Kaggle export.

    python main.py --config=configs/coco.py --config.data.root=DIR

"""
from configs import default


def get_config():
    config = default.get_config()
    with config.unlocked():
        config.model.update({'stem': 4, 'features': (32, 64, 128, 256), 'encoder_blocks': (1, 2, 2, 2),
                             'decoder_blocks': (1, 1, 1), 'block': 'residual'})
        config.augment.update({'flip': (True, True), 'rotation': 30.0, 'spatial_probability': 0.9, 'elastic': 2.0,
                               'elastic_grid': 6, 'intensity_probability': 0.2})
        config.optimizer.update({'learning_rate': 3e-3, 'arguments': (('weight_decay', 1e-2),), 'ema': 0.995})
        config.train.update({'steps': 2600, 'batch_size': 12, 'evaluate_every': 650, 'checkpoint_every': 650})
        config.evaluation.flips = True
    return config.lock()
