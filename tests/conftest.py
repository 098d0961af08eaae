from __future__ import annotations

import logging
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from pyarrow.fs import FileSystem

# a shared machine is slow at times, and the files of one example do not disturb the next: each makes its own folder
settings.register_profile("lldwatch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lldwatch")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """`host:port` of a made-up S3 on this machine, with a bucket called `bucket`."""
    moto_server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of a folder of its own in that bucket; the environment says where it is and who asks."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server}")
    monkeypatch.setenv("LLDWATCH_STAGING", str(tmp_path / "staging"))
    made, _ = FileSystem.from_uri(f"s3://bucket?endpoint_override={s3_server}&scheme=http&allow_bucket_creation=true")
    made.create_dir("bucket")
    return f"s3://bucket/{uuid.uuid4().hex}"


# a shell's background jobs ignore Ctrl-C, and so would the processes that the tests start and interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
