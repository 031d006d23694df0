"""Your own data: what they are is recognised, and everything else decided from them and from the device.

    python main.py --config=configs/auto.py --config.data.root=DIR                # plan, train, evaluate
    python main.py --config=configs/auto.py --config.data.root=DIR --mode=plan    # the plan alone

Every decision is printed with its reason, and written to plan.json and, as a config that can be edited and run, to
plan.py in the work directory. What is set on the command line stays, and the rest follows from it, such as
--config.train.minutes=30 or --config.data.size=192,192. A run that goes on has the plan that it was started with.
"""
from unet_jax.config import default


def get_config():
    config = default()
    with config.unlocked():
        config.data.format = 'auto'
        config.train.plan = True
    return config.lock()
