"""What the tests share: one Ray session, and the real images where they are at hand."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")


@pytest.fixture(scope="session")
def ray_session():
    """One small Ray for the whole suite."""
    import ray
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=200 * 1024 * 1024, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real benchmark images: $TEXTRAY_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("TEXTRAY_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real images are not at {folder}: set TEXTRAY_DATA to the folder that holds words/")
    return folder


@pytest.fixture(scope="session")
def parity_data() -> Path:
    """The folder of reference inputs and outputs: $TEXTRAY_PARITY, or ../shared/parity beside the repository."""
    folder = Path(os.environ.get("TEXTRAY_PARITY", Path(__file__).parents[2] / "shared" / "parity"))
    if not folder.is_dir():
        pytest.skip(f"the parity fixtures are not at {folder}: set TEXTRAY_PARITY to the folder that holds fixture.py")
    return folder


@pytest.fixture(scope="module")
def one_thread():
    """Threads that wait for each other at every small layer make a busy machine a hundred times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
