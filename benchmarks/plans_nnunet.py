"""The plans of configs/auto.py beside those of nnU-Net 2, for the same five fingerprints; needs no data and no GPU.

    python -m venv NNUNET && NNUNET/bin/pip install 'nnunetv2==2.8.*'
    python benchmarks/plans_nnunet.py --theirs=NNUNET/bin/python

nnU-Net runs in its own environment and is asked for its planner alone. Both plan for one GPU with 8 GB, which is what
nnU-Net's formula starts from. Ours is what is proposed before the compiled step has its say, as that needs the GPU's
compiler. Axes are left, back, up; nnU-Net's, which has the thickest first, are turned round.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# name: (voxels of the body's box, mm, channels, cases); pictures have one voxel along the last axis
SETS = {
    'BraTS: 1 mm, 4 sequences': ((140, 174, 140), (1.0, 1.0, 1.0), 4, 1000),
    'thick slices: 5 mm': ((230, 230, 24), (0.9, 0.9, 5.0), 2, 200),
    'thin and thick: 0.5 and 6 mm': ((400, 420, 22), (0.5, 0.5, 6.0), 1, 60),
    'tiny: 40 voxels a side': ((40, 44, 36), (1.0, 1.0, 1.0), 1, 30),
    'pictures: 256×256 RGB': ((256, 256, 1), (1.0, 1.0, 999.0), 3, 4000)}


def theirs() -> None:
    """In nnU-Net's environment: SETS as JSON on the standard input, a plan a line as the last line's JSON."""
    sets = json.load(sys.stdin)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ('raw', 'preprocessed', 'results'):
            os.environ[f'nnUNet_{name}'] = os.path.join(folder, name)
        from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
        for number, (name, (box, mm, channels, cases)) in enumerate(sets.items(), 1):
            data = f'Dataset{number:03d}_X'
            for part in ('raw', 'preprocessed'):
                os.makedirs(os.path.join(folder, part, data, 'imagesTr'))
                os.makedirs(os.path.join(folder, part, data, 'labelsTr'))
            for k in range(channels):
                Path(folder, 'raw', data, 'imagesTr', f'a_{k:04d}.nii.gz').touch()
            Path(folder, 'raw', data, 'labelsTr', 'a.nii.gz').touch()
            Path(folder, 'raw', data, 'dataset.json').write_text(json.dumps({
                'channel_names': {str(k): 'MRI' for k in range(channels)}, 'labels': {'background': 0, 'tumour': 1},
                'numTraining': cases, 'file_ending': '.nii.gz', 'overwrite_image_reader_writer': 'SimpleITKIO'}))
            Path(folder, 'preprocessed', data, 'dataset_fingerprint.json').write_text(json.dumps({
                'spacings': [mm[::-1]] * cases, 'shapes_after_crop': [box[::-1]] * cases,
                'median_relative_size_after_cropping': 0.5, 'foreground_intensity_properties_per_channel': {}}))
            planner = ExperimentPlanner(number)
            planner.plan_experiment()
            made = planner.plans['configurations']
            one = made.get('3d_fullres', made['2d'])
            kwargs = one['architecture']['arch_kwargs']
            found[name] = {
                'size': one['patch_size'][::-1], 'spacing': one['spacing'][::-1], 'batch': one['batch_size'],
                'features': kwargs['features_per_stage'], 'strides': [s[::-1] for s in kwargs['strides']],
                'kernels': [k[::-1] for k in kwargs['kernel_sizes']], 'batch_dice': one['batch_dice'],
                'type': 'float16 and 32'}
    print(json.dumps(found, default=float))


def ours(name: str) -> dict:
    from configs import default
    from unet_jax.config import flat
    from unet_jax.model import unet
    from unet_jax.planning import decisions
    box, mm, _, cases = SETS[name]
    axes = 2 if box[2] == 1 else 3
    region = {'name': 'tumour', 'ids': [1], 'images': 1.0 if axes == 3 else 0.35, 'share': 0.02, 'pixels': 0.01,
              'diameter': [0.06] * 5 if axes == 2 else [20.0] * 5}
    found = {'kind': 'volume' if axes == 3 else 'image', 'format': 'nifti' if axes == 3 else 'pairs',
             'images': cases, 'positive': region['images'], 'stacked': axes == 2, 'subsets': {'train': cases},
             'colour': 1.0, 'shape': [box[:axes]] * 5, 'spacing': [mm[:axes]] * 5, 'box': [box[:axes]] * 5,
             'classes': [region], 'regions': [region], 'intensities': {'apart': [0.5]}, 'mirror': [0.9] * axes,
             'missing': {}, 'alike': [], 'odd': []}
    config = default.get_config()
    with config.unlocked():
        config.data.format = found['format']
    plan = decisions.applied(config, decisions.decide(config, found, decisions.Device('gpu', 'GPU', 1, 8e9)))
    values, model = flat(plan), plan.model
    return {'size': values['data.size'], 'spacing': values['data.spacing'] or mm[:axes],
            'batch': values['train.batch_size'], 'features': model.features, 'strides': unet.steps(model, axes),
            'kernels': model.kernels or ((3,) * axes,) * len(model.features), 'batch_dice': values['loss.batch_dice'],
            'type': model.dtype}


def text(value) -> str:
    if isinstance(value, (list, tuple)):
        return ', '.join(text(v) for v in value) if isinstance(value[0], (list, tuple)) else '×'.join(
            f'{v:g}' for v in value)
    return f'{value:g}' if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--theirs', default='', help='Python of an environment with nnunetv2')
    given = parser.parse_args()
    if not given.theirs:
        return theirs()
    done = subprocess.run([given.theirs, __file__], input=json.dumps(SETS), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    from common import commit, table
    plans = json.loads(done.stdout.splitlines()[-1])
    for name in SETS:
        mine = ours(name)
        print(f'\n### {name}\n\n' + table(['', 'ours', 'nnU-Net'], [[k, text(mine[k]), text(plans[name][k])]
                                                                    for k in mine]))
    print(f'\ncommit {commit()}')


if __name__ == '__main__':
    main()
