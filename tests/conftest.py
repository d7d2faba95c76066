"""What the tests share: one Ray session, and the real images where they are at hand."""

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when PyTorch is imported: two processes share the tests, and threads that wait for each other on busy cores take several times as long

import pytest  # noqa: E402
import torch  # noqa: E402

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # as a local Ray that a command starts
for proxy in ("http_proxy", "https_proxy", "all_proxy"):  # the servers of the tests are on loopback
    for name in (proxy, proxy.upper()):
        os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """What is brought in on the way goes into a folder of the tests, not of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEXTRAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def stores():
    """Servers that speak S3's and Google's protocols on loopback; addresses and credentials stand in the environment, as every tool takes them."""
    from moto.server import ThreadedMotoServer
    s3 = ThreadedMotoServer(port=0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        google_port = probe.getsockname()[1]
    google = subprocess.Popen([Path(sys.executable).with_name("gcp-storage-emulator"), "start", "--host=127.0.0.1", f"--port={google_port}",
                               "--in-memory", "--default-bucket=words"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                            "AWS_REGION": "us-east-1", "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{google_port}",
                            "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}.items():  # not those of whoever runs the tests
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_PROFILE"):
            patch.delenv(name, raising=False)
        while socket.socket().connect_ex(("127.0.0.1", google_port)):
            assert google.poll() is None
            time.sleep(0.1)
        yield
    google.kill()
    google.wait()
    s3.stop()


@pytest.fixture(scope="session")
def ray_of_process(stores):
    """One small Ray for all tests of a process, whose own processes know the object stores."""
    import ray
    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=200 * 1024 * 1024, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def ray_session(ray_of_process, monkeypatch):
    """Work on that Ray, as RAY_ADDRESS asks for it, however little there is to do."""
    monkeypatch.setenv("RAY_ADDRESS", "local")


NOT_AT_HAND = "not at hand"  # how the reason of every test begins that is skipped for want of data


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real benchmark images: $TEXTRAY_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("TEXTRAY_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"{NOT_AT_HAND}: the real images, at {folder}; set TEXTRAY_DATA to the folder that holds words/")
    return folder


@pytest.fixture(scope="session")
def parity_data() -> Path:
    """The folder of reference inputs and outputs: $TEXTRAY_PARITY, or ../shared/parity beside the repository."""
    folder = Path(os.environ.get("TEXTRAY_PARITY", Path(__file__).parents[2] / "shared" / "parity"))
    if not folder.is_dir():
        pytest.skip(f"{NOT_AT_HAND}: the records of the reference implementations, at {folder}; "
                    "set TEXTRAY_PARITY to the folder that holds fixture.py")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that need Ray come first: they take longest, and two processes that share the files then end together."""
    slow = {item.path for item in items if "ray_of_process" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in slow)  # stable: the order within a file and among files stays


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says loudly, at the end, what was not tested for want of data: a green run without it is only half a run."""
    reasons = [report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])]
    missing = Counter(reason for reason in reasons if reason.startswith(NOT_AT_HAND))
    if missing:
        terminalreporter.write_sep("!", f"{missing.total()} TESTS DID NOT RUN", red=True, bold=True)
        for reason, count in missing.items():
            terminalreporter.write_line(f"{count} tests: {reason}", red=True, bold=True)


@pytest.fixture(scope="module")
def one_thread():
    """Threads that wait for each other at every small layer make a busy machine a hundred times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
