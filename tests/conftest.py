"""Eight virtual CPU devices for every test, and the real data where it exists."""
import atexit
import os
import pathlib
import shutil
import tempfile

os.environ['JAX_PLATFORMS'] = 'cpu'
# level 0: half of the suite's time would go into optimising programs that run once
os.environ['XLA_FLAGS'] = (os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
                            ' --xla_backend_optimization_level=0')

if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:  # else this is one of several processes that share out the tests
    # many tests compile a program that another has compiled: with this, a quarter less time
    programs = os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='unet_jax-tests-')
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
    atexit.register(shutil.rmtree, programs, ignore_errors=True)

import pytest  # noqa: E402  (jax must not start before the flags are set)

SHARED = pathlib.Path(__file__).resolve().parents[1].parent / 'shared' / 'data'


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
    """The folder of real data beside the project; a test that needs it is skipped, saying so, where it is absent."""
    if not SHARED.is_dir():
        pytest.skip('needs the real data in ../shared/data, which is not part of the project')
    return SHARED
