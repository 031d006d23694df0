"""The config: every field there is, once, with its default, what it may be, its unit and what it means.

    'section.name': Field(default, what it may be, 'what it means', unit, which formats of data alone use it)

Change any on the command line, --config.optimizer.learning_rate=1e-3, or in a file such as those of configs/. What is
checked before any work begins, the messages and the reference page come from this table. What has to fit together is
checked in config_check.py.
"""
import difflib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from unet_jax.annotations.schemas import SCHEMAS
from unet_jax.errors import InputError
from unet_jax.evaluation.lesions import CHALLENGES
from unet_jax.evaluation.overlap import CONVENTIONS
from unet_jax.fields import (
    Field,
    arguments,
    axes,
    example,
    factor,
    factors,
    file_patterns,
    literal,
    mask_values,
    number,
    one_of,
    path,
    per_level,
    regions,
    scale,
    several,
    text,
    truth,
    weighted,
    whole,
)
from unet_jax.formats import FORMATS
from unet_jax.model.networks import NETWORKS
from unet_jax.model.unet import CHOICES
from unet_jax.training.losses import LOSSES

VOLUMES, IMAGES, SEQUENCES = 'volumetric', 'unspaced', 'sequences'
share, positive, per_axis = number(0, 1), number(0, above=True), several(whole(1, 8192), (2, 3))
LEVELS = range(1, 11)
channels = several(whole(1, 16384), LEVELS)
seed = whole(0, 2**32 - 1)

FIELDS = {
    'seed': Field(0, seed, 'seed of the initial weights, the order of samples and every augmentation'),

    'data.format': Field('coco', one_of(('auto', *FORMATS)),
        'what the data are: auto (finds out), coco (JSON and images), pairs (an image and its mask), brats_h5 (Kaggle '
        'slices), nifti (BraTS and what is called like it), nnunet_raw (volumes; nnunet_images in 2-D), table (paths '
        'in CSV or JSON; table_images), volumes (any NIfTI) or phantom (made up)'),
    'data.root': Field('', path, 'the folder of the data set; of COCO sets also one JSON file'),
    'data.size': Field((128, 128), per_axis,
        'height and width to which images are scaled, to fit, and padded; of volumes the three sides of a patch',
        'pixels or voxels'),
    'data.channels': Field(1, whole(1, 64),
        'channels of image files, 1 grey or 3 RGB; slices have their 4 modalities, and volumes those of '
        'data.modalities'),
    'data.standardise': Field(True, scale,
        'each image to mean 0 and standard deviation 1, black margins left out, or, by patient, all slices of one by '
        'their common mean and deviation (HDF5 slices and volumes are, inside the brain, anyway)'),
    'data.neighbours': Field(0, whole(0, 16),
        'slices of the patient on either side that the network sees too, as further channels; the middle one is '
        'segmented, and at the ends the last one is repeated'),
    'data.categories': Field((), several(whole(0), once=True),
        'foreground category ids; () is every category that has annotations'),
    'data.names': Field((), several(text), 'names of the categories, which are taken from the data'),
    'data.regions': Field((), regions, 'what is trained and scored; () makes each category a region of its own'),
    'data.unannotated': Field('negative', one_of(('negative', 'skip', 'error')),
        'an image without annotation: negative (it shows no tumour), skip or error'),
    'data.box_only': Field('error', one_of(('error', 'skip', 'box')),
        'an annotation without a mask: error, skip, or box to fill its bounding box'),
    'data.broken': Field('error', one_of(('error', 'skip')),
        'an annotation that cannot be drawn (NaN, under 3 points); of several polygons the bad ones'),
    'data.on_error': Field('raise', one_of(('raise', 'skip')),
        'a file that cannot be read: raise, or skip it (in evaluation its case) and say so'),
    'data.max_skipped': Field(0.01, share, 'the largest share of the samples that may be skipped'),
    'data.split': Field((0.7, 0.15, 0.15), several(share, (3,)),
        'shares of train, valid and test, by group, near copies together, where the data set has no subsets, or no '
        'valid beside train and test'),
    'data.split_seed': Field(0, seed,
        'seed of the split into subsets and folds, and of phantoms: runs of another seed have the same subsets'),
    'data.group_pattern': Field('', text,
        "of images, a regular expression over a path: (patient), or (patient) and (slice number); '' finds out, in "
        'pairs'),
    'data.mask_values': Field((), mask_values, 'of pairs, what the values of masks are; () takes what they hold'),
    'data.split_file': Field('', path,
        "JSON {'train': [cases], 'valid': [], 'test': []} to split by; every run writes its own, splits.json"),
    'data.folds': Field(0, whole(0, 1000),
        'split into so many folds: all but the test subset, of the data set or set aside; 0 takes '
        'data.split alone'),
    'data.fold': Field(0, whole(0, 999), 'the fold that is valid; the first is 0'),
    'data.empty_slices': Field(1.0, share,
        'share of tumour-free slices kept for training; evaluation always sees all'),
    'data.cache': Field('', path, "the folder of the decoded samples; '' is the user's cache folder"),
    'data.cache_limit': Field(100.0, positive,
        'how large their folder may become; samples that were not used for a day go, the oldest first', 'GB'),
    'data.schema': Field('auto', one_of(('auto', *SCHEMAS)),
        'the release that says what labels mean, whatever files are called; auto finds out', only=VOLUMES),
    'data.modalities': Field((), several(text, once=True),
        'the sequences that are the channels of volumes, in this order; () is all that the data have'),
    'data.files': Field((), file_patterns,
        "of the format volumes, how the files of each sequence, and of the 'label', are called; () finds out"),
    'data.missing_modalities': Field(False, truth,
        'cases may lack some modalities: channels of zeros', only=VOLUMES),
    'data.spacing': Field((), several(positive, (0, 3)),
        "spacing to resample to along each axis; () keeps the files'", 'mm', VOLUMES),
    'data.orientation': Field('', axes,
        "where the axes of volumes shall point, such as LPS; '' keeps the files'", only=VOLUMES),
    'data.foreground': Field(1 / 3, share,
        'share of the patches of volumes that are centred on a tumour voxel, every class alike'),
    'data.phantom.train': Field(160, whole(1, 10**6), 'phantoms made up to train on'),
    'data.phantom.valid': Field(40, whole(1, 10**6), 'phantoms made up to validate on'),
    'data.phantom.test': Field(40, whole(0, 10**6), 'phantoms made up to test on'),
    'data.phantom.size': Field(128, whole(16, 2048), 'height and width of phantoms', 'pixels'),

    'model.name': Field('unet', one_of(NETWORKS), 'the network, one of unet_jax/model/networks.py'),
    'model.features': Field((32, 64, 128, 256), channels, 'channels of each level, finest first'),
    'model.encoder_blocks': Field((2, 2, 2, 2), several(whole(1, 64), LEVELS),
        'convolution blocks of each level on the way down'),
    'model.decoder_blocks': Field((1, 1, 1), several(whole(1, 64), range(10)),
        'convolution blocks of each level but the coarsest on the way up, finest first'),
    'model.block': Field('plain', one_of(CHOICES['block']),
        'a block: plain (convolution, norm, activation) or residual (two of them and a skip)'),
    'model.norm': Field('instance', one_of(CHOICES['norm']), 'the norm behind each convolution'),
    'model.groups': Field(8, whole(1, 16384), 'groups of the group norm; must divide every entry of model.features'),
    'model.activation': Field('leaky_relu', one_of(CHOICES['activation']), 'the activation, of jax.nn'),
    'model.downsample': Field('conv', one_of(CHOICES['downsample']),
        'the way to the next level: conv (stride 2) or max (pooling)'),
    'model.stem': Field(1, whole(1, 16),
        'side of the blocks of pixels that become channels before the first level, and pixels again at the end',
        'pixels'),
    'model.strides': Field((), per_level(4),
        'how many times smaller each level is than the one before, along each axis, finest first; of the first, than '
        'the image, times model.stem; () halves all axes. Thick slices must not be halved like small pixels',
        'pixels'),
    'model.kernels': Field((), per_level(7, odd=True),
        'sides of the kernels of each level along each axis, finest first; () is 3 along all', 'pixels'),
    'model.attention_gates': Field(False, truth, 'attention gates on the skip connections'),
    'model.deep_supervision': Field(0, whole(0, 9), 'extra heads on this many coarser decoder levels, while training'),
    'model.dtype': Field('auto', one_of(CHOICES['dtype']),
        'type of the arithmetic; auto is bfloat16 on accelerators, float32 on CPUs; what is stored is float32'),
    'model.remat': Field(False, truth,
        'recompute activations in the backward pass: less memory, about a third more time'),

    'augment.flip': Field((False, True), several(truth, (2, 3)),
        'axes that may be mirrored, each with probability 1/2: (up-down, left-right), of volumes three'),
    'augment.spatial_probability': Field(0.8, share,
        'probability of rotating, scaling, shifting and bending, all in one resampling'),
    'augment.rotation': Field(15.0, number(0, 180),
        'the largest angle, either way; in 3-D about every axis, with lengths in mm', 'degrees'),
    'augment.scale': Field((0.8, 1.25), several(number(0, 100, above=True), (2,)),
        'the lowest and the highest zoom factor, drawn log-uniformly'),
    'augment.shift': Field(0.05, share, 'the largest shift, each way, as a share of the side'),
    'augment.elastic': Field(0.0, number(0),
        'standard deviation of the displacement when bending, cut off at three of them; 0 is off', 'pixels'),
    'augment.elastic_grid': Field(8, whole(2, 64), 'control points of the bending along each side'),
    # The image is standardised before, so the network sees what these do; outside the brain nothing changes.
    'augment.brightness': Field(0.15, share,
        'b: differences from black (of pictures), or from the mean inside the brain, times 1 + U(-b, b); 0 is off'),
    'augment.contrast': Field(0.25, share,
        'c: differences from the mean times 1 + U(-c, c), kept within the range of the image; 0 is off'),
    'augment.gamma': Field(0.3, number(0),
        'g: the exponent is drawn from 1 / (1 + g) to 1 + g, log-uniformly; mean and deviation are kept; 0 is off'),
    'augment.noise': Field(0.05, number(0),
        'noise of a standard deviation drawn from 0 to this; 0 is off', 'standard deviations of the image'),
    'augment.blur': Field(1.0, number(0), 'sigma is drawn from 0.5 to 0.5 + blur; 0 is off', 'pixels'),
    'augment.low_resolution': Field(2.0, factor,
        'down- and up-sampled by a factor drawn from 1 to this; 0 and 1 are off'),
    'augment.modality_dropout': Field(0.0, share,
        'probability of each channel to become 0, as a missing one is; one always stays'),
    'augment.intensity_probability': Field(0.15, share,
        'probability of each of brightness, contrast, gamma, noise, blur and low resolution'),

    'loss.activation': Field('sigmoid', one_of(('sigmoid', 'softmax')),
        'sigmoid (regions may overlap) or softmax (regions exclude each other)'),
    'loss.terms': Field((('dice', 1.0), ('cross_entropy', 1.0)), weighted(LOSSES),
        'the losses that are added up, and their weights'),
    'loss.batch_dice': Field(False, truth, 'Dice of the whole batch as if it were one image'),
    'loss.class_weights': Field((), several(positive),
        'weights of the regions in cross-entropy and focal loss, one for each; () is all alike'),
    'loss.focal_gamma': Field(2.0, number(0), 'exponent of the focal loss; 0 makes it cross-entropy'),
    'loss.tversky': Field((0.3, 0.7), several(positive, (2,)),
        'weights of false positives and false negatives in the Tversky loss'),

    'optimizer.name': Field('adamw', text, 'any optimiser of optax, by its name'),
    'optimizer.arguments': Field((('weight_decay', 1e-4),), arguments, 'its other keyword arguments'),
    'optimizer.learning_rate': Field(1e-3, positive, 'the highest learning rate'),
    'optimizer.factors': Field((), factors,
        'of the learning rate, for parts of the network; of several that fit a parameter the first counts'),
    'optimizer.schedule': Field('cosine', one_of(('cosine', 'polynomial', 'constant')),
        'the learning rate after the warm-up'),
    'optimizer.warmup': Field(100, whole(0),
        'length of the warm-up; the first step has 1 / warmup of the rate', 'steps'),
    'optimizer.power': Field(0.9, positive, 'exponent of the polynomial decay'),
    'optimizer.clip': Field(1.0, number(0), 'the largest global norm of the gradient; 0 is off'),
    'optimizer.accumulate': Field(1, whole(1),
        'batches of one update; divides train.steps; the Dice of a whole batch stays that of each'),
    'optimizer.ema': Field(0.99, number(0, 1, below=True),
        'decay of the averaged parameters that are evaluated; 0 is off'),

    'train.steps': Field(1000, whole(1), 'length of the training', 'steps'),
    'train.init_from': Field('', path,
        'a model file, or a work directory with its best checkpoint, whose parameters the training starts from'),
    'train.init_seal': Field('', text, 'the digest of those parameters, which the run itself writes down'),
    'train.minutes': Field(0.0, number(0, 1e6),
        'how long training and evaluation may take together: the first steps are timed, train.steps is fixed once and '
        'noted in time.json; 0 takes train.steps', 'minutes'),
    'train.plan': Field(False, truth,
        'what this config leaves at its default is decided at the first start, from the data and the device, and '
        'written down with reasons in plan.json and plan.py'),
    'train.seeds': Field((), several(seed, once=True),
        'a run for each of these in place of seed, trained in one program, in W/seed_1 and so on'),
    'train.batch_size': Field(16, whole(1, 10**6), 'samples of a step, on all devices together'),
    'train.log_every': Field(50, whole(1), 'from one line of metrics to the next', 'steps'),
    'train.validate': Field('valid', one_of(('valid', 'train')),
        'the subset by which the best checkpoint is chosen; train where all else is empty'),
    'train.evaluate_every': Field(500, whole(1),
        'from one validation to the next; the last step is always validated', 'steps'),
    'train.checkpoint_every': Field(500, whole(1), 'from one checkpoint to the next', 'steps'),
    'train.skip_nonfinite': Field(5, whole(0),
        'updates in a row that may be skipped because loss or gradient were not finite'),
    'train.keep': Field(2, whole(1, 10**6), 'newest checkpoints kept, beside the best'),
    'train.input_timeout': Field(600.0, number(0, 1e6, above=True),
        'wait for a batch before the run ends and says so', 'seconds'),
    'train.resident': Field(False, truth,
        "keep all images in the devices' memory, shared out, where half of it holds them"),
    'train.steps_per_dispatch': Field(1, whole(1),
        'in one program; more help where a step takes under some milliseconds', 'steps'),
    'train.fsdp': Field(1, whole(1),
        'devices that share one copy of parameters, averages and optimiser state; divides their number'),
    'train.spatial': Field(1, whole(1),
        'devices that share each sample, cut along its first axis; for volumes too large for one'),
    'train.deterministic': Field(False, truth,
        'on a GPU one order of summation, so equal runs are equal bits; its cost was not measured'),

    'evaluation.batch_size': Field(16, whole(1, 10**6), 'samples segmented together'),
    'evaluation.engine': Field('auto', one_of(('auto', 'jax', 'openvino', 'onnxruntime')),
        'what computes the masks on a CPU; auto takes the fastest that is installed and agrees with jax; jax on '
        'accelerators'),
    'evaluation.threshold': Field(0.5, number(0, 1, above=True, below=True),
        'the probability above which a pixel belongs to a region'),
    'evaluation.flips': Field(False, truth, 'average over mirrored inputs, along the axes of augment.flip'),
    'evaluation.convention': Field('brats', one_of(CONVENTIONS), 'whose rules give numbers to empty masks'),
    'evaluation.tolerance': Field(1.0, number(0),
        'tolerance of the surface Dice, and of the NSD of lesions', 'mm, or pixels of images'),
    'evaluation.whole_tolerance': Field(0.5, number(0),
        'of the convention brats2025, tolerance of the NSD of whole regions', 'mm, or pixels of images'),
    'evaluation.lesions': Field('', one_of(('', *CHALLENGES)),
        'lesion-wise scores by the rules of this BraTS challenge in 2023-24, of volumes and stacked slices; with the '
        'convention brats2025, which has its own, MET adds large and small lesions'),
    'evaluation.large_lesion': Field(20.0, positive,
        'of brats2025 with evaluation.lesions=MET, volume from which a lesion is large', 'mm³'),
    'evaluation.found_dice': Field(0.1, number(0, 1, above=True),
        'of brats2025 with evaluation.lesions=MET, Dice from which a lesion is found'),
    'evaluation.spacing': Field((), several(positive, (0, 3)),
        'height and width of a pixel of image files and the way from slice to slice; () is unknown: distances are in '
        'pixels, and slices of a patient count as one pixel apart', 'mm', IMAGES),
    'evaluation.uncertainty': Field(False, truth,
        'the score of QU-BraTS 2020; to predict, a map beside each mask; unsure is what has a probability near 1/2'),
    'evaluation.overlap': Field(0.5, number(0, 1, below=True),
        'of volumes, the share of a window that its neighbour sees too'),
    'evaluation.calibrate': Field(False, truth,
        'probabilities are calibrated by a temperature a region, fitted on the subset train.validate'),
    'evaluation.postprocess': Field(False, truth,
        'masks are cleaned by the steps of inference/postprocess.py that help those patients of the subset '
        'train.validate on whom their limits were not tuned'),
    'evaluation.modality_subsets': Field(False, truth,
        'Dice with each of the subsets of modalities alone (15 of four)', only=SEQUENCES),
    'evaluation.pictures': Field(3, whole(0, 1000), 'overlays each of the worst, median and best cases'),

    'report.channel': Field(-1, whole(-1, 63),
        'the channel that pictures show, the first being 0; -1 shows image files of three channels in colour, and of '
        'others the first'),
}


def default() -> ConfigDict:
    """The config of all defaults."""
    return build({name: field.default for name, field in FIELDS.items()})


def build(values: Mapping[str, Any]) -> ConfigDict:
    """The config of {'section.name': value}, every value read by the table. Raises InputError, naming the field, for a
    value that it may not be, for a field that there is not and for one that is missing."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        check_name(name)
        *sections, last = name.split('.')
        section = nested
        for part in sections:
            section = section.setdefault(part, {})
        section[last] = read(name, value)
    missing = [name for name in FIELDS if name not in values]
    if missing:
        raise InputError(f'config.{missing[0]} is missing; its default is {FIELDS[missing[0]].default!r}')
    # without types of its own: a field may hold True or a name, and the table checks more than a type
    return ConfigDict(nested, type_safe=False).lock()


def flat(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """{'section.name': value} of a config or of what JSON made of one."""
    found = {}
    for key, value in config.items():
        name = f'{prefix}{key}'
        inside = isinstance(value, (Mapping, ConfigDict)) and name not in FIELDS
        found |= flat(value, f'{name}.') if inside else {name: value}
    return found


def read(name: str, value: Any) -> Any:
    """A value as the field `name` holds it. Raises InputError for a value that it may not be."""
    field = FIELDS[name]
    try:
        return field.kind.read(value)
    except (ValueError, TypeError, OverflowError) as error:
        unit = f' ({field.unit})' if field.unit else ''
        raise InputError(f'config.{name} is {value!r:.200}; give {field.kind.words}{unit}, such as '
                         f'--config.{name}={example(field)}. It is: {field.meaning}') from error


def read_typed(name: str, typed: str) -> Any:
    """`read` of what was typed on the command line."""
    check_name(name)
    return read(name, typed if FIELDS[name].kind.typed else literal(typed))


def check_name(name: str) -> None:
    """Raises InputError, with names that are close, unless there is such a field."""
    if name in FIELDS:
        return
    group = [field for field in FIELDS if field.startswith(f'{name}.')]
    same = [field for field in FIELDS if field.split('.')[-1] == name.split('.')[-1]]
    close = group or same or difflib.get_close_matches(name, FIELDS, n=2, cutoff=0.7)
    said = ', '.join(f'config.{field}' for field in close) or 'one of unet_jax/config.py'
    raise InputError(f'config.{name}: no such field; {"a group: name one of" if group else "did you mean"} {said}'
                     + ('' if group else '?'))
