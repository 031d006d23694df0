"""Every field there is, with its default. The other configs start from here and say what they change.

Override any field on the command line: --config.optimizer.learning_rate=1e-3. A misspelt field is refused.
"""
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of the initial weights, the order of samples and every augmentation

    data = config.data = ConfigDict()
    data.format = 'coco'  # 'coco' (JSON and images), 'brats_h5' (Kaggle slices), 'nifti' (volumes) or 'phantom' (made)
    data.root = ''  # the folder of the data set; of COCO sets also one JSON file
    data.size = (128, 128)  # images are scaled to fit, and padded, to this (height, width); of volumes: the patch
    data.channels = 1  # of image files: 1 grey, 3 RGB; HDF5 slices always have their four modalities
    # each image to mean 0, standard deviation 1, black margins left out (HDF5 slices are, inside the brain, anyway)
    data.standardise = True
    data.categories = ()  # foreground category ids; () is every category that has annotations
    data.names = ()  # of the categories; taken from the data
    data.regions = ()  # ((name, (category ids), id to paint), ...); () makes each category a region of its own
    data.unannotated = 'negative'  # an image without annotation: 'negative' (no tumour), 'skip' or 'error'
    data.box_only = 'error'  # an annotation without a mask: 'error', 'skip', or 'box' to fill its bounding box
    data.broken = 'error'  # an annotation that cannot be drawn (NaN, under 3 points, ...): 'error' or 'skip'
    data.on_error = 'raise'  # a file that cannot be read: 'raise', or 'skip' it (in evaluation its case) and say so
    data.max_skipped = 0.01  # the largest share of the samples that may be skipped
    data.split = (0.7, 0.15, 0.15)  # train, valid, test shares, by group, where the data set has no subsets of its own
    data.split_file = ''  # JSON {'train': [cases], 'valid': [], 'test': []}; every run writes its own, splits.json
    data.folds = 0  # split into so many folds, after the test share was set aside; 0 takes data.split alone
    data.fold = 0  # the one that is valid
    data.empty_slices = 1.0  # share of tumour-free slices kept for training; evaluation always sees all of them
    data.cache = ''  # folder of the decoded samples; '' is the user's cache folder
    # of volumes only
    data.schema = 'auto'  # the release, 2018 ... 2024-PED or MSD, by which labels have meanings; 'auto' finds out
    data.modalities = ('flair', 't1', 't1ce', 't2')  # the channels, in this order
    data.missing_modalities = False  # cases may lack some: channels of zeros
    data.spacing = ()  # mm along each axis to resample to; () keeps the files'
    data.orientation = ''  # where the axes shall point, such as 'LPS'; '' keeps the files'
    data.foreground = 1 / 3  # share of the patches that are centred on a tumour voxel, every class alike

    model = config.model = ConfigDict()
    model.features = (32, 64, 128, 256)  # channels per level, finest first
    model.encoder_blocks = (2, 2, 2, 2)  # convolution blocks per level
    model.decoder_blocks = (1, 1, 1)  # per level, finest first
    model.block = 'plain'  # 'plain' (each block: convolution, norm, activation) or 'residual' (two of them and a skip)
    model.norm = 'instance'  # 'instance', 'group' or 'none'
    model.groups = 8  # of group norm
    model.activation = 'leaky_relu'  # any of jax.nn
    model.downsample = 'conv'  # 'conv' (stride 2) or 'max' (pooling)
    model.stem = 1  # side of the pixel blocks that become channels before the first level, and pixels again at the end
    model.attention_gates = False  # on the skip connections
    model.deep_supervision = 0  # extra heads on this many coarser decoder levels, while training
    model.dtype = 'float32'  # of the arithmetic: 'float32' or 'bfloat16'; parameters and outputs stay float32
    model.remat = False  # recompute activations in the backward pass: less memory, about a third more time

    augment = config.augment = ConfigDict()
    augment.flip = (False, True)  # axes that may be mirrored, each with probability 1/2: (up-down, left-right)
    # The image is standardised before, so all of this is what the network sees. What comes from beyond the border is
    # outside the brain (0), or black in pictures; of volumes it comes from what lies around the patch.
    augment.spatial_probability = 0.8  # of rotating, scaling, shifting and bending, all in one resampling
    augment.rotation = 15.0  # degrees, drawn from [-rotation, rotation] (3-D: about every axis, in mm)
    augment.scale = (0.8, 1.25)  # zoom factor, drawn log-uniformly
    augment.shift = 0.05  # share of the side, each way
    augment.elastic = 0.0  # standard deviation of the displacement in pixels; cut off at three of them
    augment.elastic_grid = 8  # control points along each side
    # Grey values change inside the brain alone, each channel by its own mean, deviation and range there.
    augment.brightness = 0.15  # differences from black (pictures) or from 0, the brain's mean, times 1 + U(-b, b)
    augment.contrast = 0.25  # differences from the mean times 1 + U(-c, c), kept within the range of the image
    augment.gamma = 0.3  # range to the power drawn log-uniformly from [1 / (1 + g), 1 + g], mean and deviation kept
    augment.noise = 0.05  # standard deviation drawn from [0, noise], in units of the image's own
    augment.blur = 1.0  # sigma drawn from [0.5, 0.5 + blur] pixels
    augment.low_resolution = 2.0  # down- and up-sampled by a factor drawn from [1, low_resolution]
    augment.modality_dropout = 0.0  # probability of each channel to become 0, as a missing one is; one always stays
    augment.intensity_probability = 0.15  # of each of the six above; 0 in one of them turns it off

    loss = config.loss = ConfigDict()
    loss.activation = 'sigmoid'  # 'sigmoid' (regions may overlap) or 'softmax' (regions exclude each other)
    loss.terms = (('dice', 1.0), ('cross_entropy', 1.0))  # (name, weight): also focal, tversky, generalised_dice
    loss.batch_dice = False  # Dice of the whole batch as if it were one image
    loss.focal_gamma = 2.0
    loss.tversky = (0.3, 0.7)  # weights of false positives and false negatives

    optimizer = config.optimizer = ConfigDict()
    optimizer.name = 'adamw'  # any optimiser of optax, by name
    optimizer.arguments = (('weight_decay', 1e-4),)  # (name, value) of its other keyword arguments
    optimizer.learning_rate = 1e-3  # the highest
    optimizer.schedule = 'cosine'  # 'cosine', 'polynomial' or 'constant', after the warm-up
    optimizer.warmup = 100  # steps
    optimizer.power = 0.9  # of the polynomial decay
    optimizer.clip = 1.0  # global norm of the gradient; 0 is off
    optimizer.accumulate = 1  # batches per update
    optimizer.ema = 0.99  # decay of the averaged parameters that are evaluated; 0 is off

    train = config.train = ConfigDict()
    train.steps = 1000
    train.seeds = ()  # a run for each of these in place of `seed`, trained in one program, in W/seed_1 and so on
    train.batch_size = 16  # of all devices together
    train.log_every = 50
    train.validate = 'valid'  # the subset by which the best checkpoint is chosen; 'train' where all else is empty
    train.evaluate_every = 500  # steps between validations; the last step is always validated
    train.checkpoint_every = 500
    train.skip_nonfinite = 5  # updates in a row that may be skipped because loss or gradient were not finite
    train.keep = 2  # newest checkpoints kept, beside the best
    train.input_timeout = 600.0  # seconds to wait for a batch before the run ends and says so
    train.resident = False  # keep all images in the devices' memory, shared out, where half of it holds them
    train.steps_per_dispatch = 1  # steps in one program; more help where a step takes under some milliseconds
    train.fsdp = 1  # devices that share one copy of parameters, averages and optimiser state; divides their number
    train.spatial = 1  # devices that share each sample, cut along its first axis; for volumes too large for one
    train.deterministic = False  # on a GPU: one order of summation, so equal runs are equal bits; cost not measured

    evaluation = config.evaluation = ConfigDict()
    evaluation.batch_size = 16
    evaluation.threshold = 0.5  # of the probability
    evaluation.flips = False  # average over mirrored inputs (the axes of augment.flip)
    evaluation.convention = 'brats'  # 'brats', 'nnunet', 'monai' or 'deepmind'
    evaluation.tolerance = 1.0  # of the surface Dice, in mm (pixels for images)
    evaluation.lesions = ''  # lesion-wise scores by the rules of 'GLI', 'PED', 'SSA', 'MEN' or 'MET'; '' is off
    evaluation.uncertainty = False  # the score of QU-BraTS 2020; unsure is what has a probability near 1/2
    evaluation.overlap = 0.5  # of volumes: share of a window that its neighbour sees too
    evaluation.postprocess = False  # of volumes: small components go, by limits tuned on the valid subset
    evaluation.modality_subsets = False  # of volumes: Dice with each of the subsets of modalities alone (15 of four)
    evaluation.pictures = 3  # overlays each of the worst, median and best cases
    return config.lock()
