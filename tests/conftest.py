"""Eight virtual CPU devices for every test, and the real data where it exists."""
import os
import pathlib

os.environ['JAX_PLATFORMS'] = 'cpu'
# level 0: half of the suite's time would go into optimising programs that run once
os.environ['XLA_FLAGS'] = (os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
                            ' --xla_backend_optimization_level=0')

import pytest  # noqa: E402  (jax must not start before the flags are set)

SHARED = pathlib.Path(__file__).resolve().parents[1].parent / 'shared' / 'data'


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
    """The folder of real data beside the project; a test that needs it is skipped, saying so, where it is absent."""
    if not SHARED.is_dir():
        pytest.skip('needs the real data in ../shared/data, which is not part of the project')
    return SHARED
