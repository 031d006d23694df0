"""BraTS volumes (NIfTI folders of 2018 to 2024, Decathlon task 1): patches, residual encoder, deep supervision.

    python main.py --config=configs/brats3d.py --config.data.root=DIR

After nnU-Net (Isensee et al. 2021; its residual presets, Isensee et al. 2024): patches of 128³ in batches of 2, six
levels, a third of the patches about a tumour voxel, regions WT, TC and ET.

    python main.py --config=configs/brats3d.py:small --config.data.root=DIR

runs on a laptop's processor. One real case (BraTS2021_00006) was learnt by heart on 2 cores (AVX2) with

    --config.data.split='(1,0,0)' --config.train.validate=train --config.data.foreground=0.6
    --config.augment.spatial_probability=0 --config.augment.intensity_probability=0
    --config.augment.flip='(False,False,False)'

added: 700 steps of about 1.5 s, then --mode=evaluate --subset=train, Dice by sliding window over the whole volume:
WT 0.971, TC 0.983, ET 0.944.

    python main.py --config=configs/brats3d.py:missing --config.data.root=DIR

(or :small_missing) trains for places that do not have all four sequences, on cases that need not have them all either:
each is left out of half of the patches, and the scores come for each of the 15 subsets.
"""
from unet_jax.config import default


def get_config(variant: str = 'full'):
    if variant not in ('full', 'small', 'missing', 'small_missing'):
        raise ValueError(f'configs/brats3d.py:{variant} is unknown; choose configs/brats3d.py:full, :small, :missing '
                         'or :small_missing')
    config = default()
    with config.unlocked():
        config.data.update({'format': 'nifti', 'size': (128, 128, 128), 'standardise': False, 'orientation': 'LPS'})
        config.model.update({'features': (32, 64, 128, 256, 320, 320), 'encoder_blocks': (1, 3, 4, 6, 6, 6),
                             'decoder_blocks': (1, 1, 1, 1, 1), 'block': 'residual', 'deep_supervision': 3})
        config.augment.update({'flip': (True, True, True), 'rotation': 30.0, 'scale': (0.7, 1.4), 'shift': 0.0,
                               'spatial_probability': 0.3, 'elastic': 0.0})  # bending is off in nnU-Net 2 as well
        config.loss.batch_dice = True
        config.optimizer.update({'learning_rate': 1e-3, 'arguments': (('weight_decay', 1e-2),), 'warmup': 500,
                                 'ema': 0.999})
        config.train.update({'steps': 50_000, 'batch_size': 2, 'evaluate_every': 2500, 'checkpoint_every': 500})
        config.evaluation.update({'batch_size': 2, 'lesions': 'GLI'})
        if variant.startswith('small'):
            small(config)
        if variant.endswith('missing'):
            config.data.missing_modalities = True
            config.augment.modality_dropout = 0.5  # all 15 subsets are nearly equally frequent
            config.evaluation.modality_subsets = True
    return config.lock()


def small(config) -> None:
    """For two processor cores."""
    config.data.size = (64, 64, 64)
    # 32 channels at the finest level: its head gives 2³ positions × 3 regions, 24 numbers, which 16 cannot tell apart
    config.model.update({'stem': 2, 'features': (32, 64, 96, 128), 'encoder_blocks': (1, 1, 1, 1),
                         'decoder_blocks': (1, 1, 1), 'deep_supervision': 1})
    config.optimizer.update({'learning_rate': 3e-3, 'warmup': 20, 'ema': 0.98})
    config.train.update({'steps': 700, 'log_every': 20, 'evaluate_every': 350, 'checkpoint_every': 100})
