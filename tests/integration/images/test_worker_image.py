"""The worker's image, its steps taken in a virtual environment: what is in it, what is not, and that it works.

What only an engine for containers can show is not seen here: the user, the base image, the packages of Debian.
"""

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.images.conftest import Built
from tests.integration.images.dockerfile import ROOT, size_of
from tests.stand_ins.orchestrator import StandIn
from worker.kinds.mods.fetching import FILES

Record = Callable[[str, object], None]
SLOWEST_START_S = 20.0
"""No promise: a bound for a machine that does much else. What was measured is in the guide."""


def run(image: Built, *command: str, cwd: Path | None = None, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A command in the image, in a folder of nobody's."""
    return subprocess.run(
        command, env=image.environment(**environment), cwd=cwd or image.folder / "data", text=True, capture_output=True,
        timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def entry(worker_image: Built) -> list[str]:
    """The entry point, its program by the PATH of the image."""
    step = worker_image.stage.last("ENTRYPOINT")
    assert step is not None
    (worker_image.folder / "data").mkdir(exist_ok=True)
    program, *rest = step.words
    return [str(worker_image.folder / "opt/arke/bin" / program), *rest]


def test_nothing_else_is_importable(worker_image: Built, entry: list[str]) -> None:
    """No ray, no server, no database, no test, and none of the packages above the worker."""
    absent = ["ray", "fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "psycopg", "pydantic", "click",
              "orchestrator", "actors", "pytest", "numpy", "pip", "setuptools"]  # fmt: skip
    code = "import importlib.util, sys; print([n for n in sys.argv[1:] if importlib.util.find_spec(n)])"
    said = run(worker_image, entry[0], "-P", "-c", code, *absent)
    assert (said.stdout.strip(), said.stderr) == ("[]", "")
    assert not (worker_image.folder / "opt/arke/bin/arke").exists()


def test_versions_are_those_of_the_lock_file(worker_image: Built, entry: list[str]) -> None:
    """Each distribution, ours apart."""
    code = "from importlib.metadata import distributions as d\nfor x in d(): print(x.metadata['Name'], x.version)"
    said = run(worker_image, entry[0], "-P", "-c", code)
    found = {_plain(name): version for name, version in (line.split() for line in said.stdout.splitlines())}
    assert found.pop("arke-orchestrator")
    pins = [line.partition("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    locked = {_plain(name): version for name, _, version in pins}
    assert found.items() <= locked.items()


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_it_starts_in_a_moment(worker_image: Built, entry: list[str], record_property: Record) -> None:
    """Told, and bounded loosely. Nothing is compiled at a start: not even where the folder could be written to."""
    run(worker_image, *entry, "--help")  # the files are read from the disk once
    before = sorted(worker_image.folder.rglob("*.pyc"))
    begun = time.perf_counter()
    said = run(worker_image, *entry, "--help")
    took_s = time.perf_counter() - begun
    record_property("start_s", round(took_s, 3))
    sys.stdout.write(f"the worker's start: {took_s:.2f} s\n")
    assert (said.returncode, said.stderr) == (0, "")
    assert "--pull URL" in said.stdout
    assert took_s < SLOWEST_START_S
    assert sorted(worker_image.folder.rglob("*.pyc")) == before


def test_all_of_it_is_compiled(worker_image: Built) -> None:
    """The bytecode does not ask for its source's date: a copy of the image with other dates is not compiled anew."""
    sources = [path for path in (worker_image.folder / "opt/arke/lib").rglob("*.py") if path.stat().st_size]
    compiled = list((worker_image.folder / "opt/arke/lib").rglob("*.pyc"))
    assert len(compiled) >= len(sources) > 500
    flags = {path.read_bytes()[4:8] for path in compiled}
    assert flags == {b"\x01\x00\x00\x00"}  # PEP 552: by hash, not checked


def test_a_picture_is_converted(worker_image: Built, entry: list[str], tmp_path: Path) -> None:
    """A whole task: a TIFF from the folder of objects, its JPEG beside it, one report."""
    source = tmp_path / "objects/arke-staging/in/page.tif"
    source.parent.mkdir(parents=True)
    content = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(content, "TIFF", compression="tiff_lzw")
    source.write_bytes(content.getvalue())
    orchestrator = StandIn()
    try:
        said = run(
            worker_image, *entry, TASK_ID="t1", BATCH_ID="b", INPUT_R2_KEY="in/page.tif",
            CALLBACK_URL=f"{orchestrator.url}/callback/b/t1", OBJECTS_DIR=str(tmp_path / "objects"),
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
        (report,) = orchestrator.callbacks()
    finally:
        orchestrator.close()
    assert (report["status"], report["output_r2_key"]) == ("success", "in/page.jpg")
    assert source.with_suffix(".jpg").read_bytes().startswith(b"\xff\xd8\xff")


def test_an_s3_client_can_be_made(worker_image: Built, entry: list[str]) -> None:
    """What was removed of botocore is nothing that S3 needs: a request gets as far as its connection."""
    code = (
        "from worker.objects.s3 import S3Objects\n"
        "S3Objects('http://127.0.0.1:9', 'b', access_key_id='k', secret='s')\n"
        "import boto3; print(boto3.client('s3', region_name='auto').generate_presigned_url('get_object', "
        "Params={'Bucket': 'b', 'Key': 'k'})[:5])"
    )
    said = run(worker_image, entry[0], "-P", "-c", code, AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s")
    assert (said.stdout.strip(), said.returncode) == ("https", 0), said.stderr


def test_sigterm_ends_it(worker_image: Built, entry: list[str]) -> None:
    """The process of the entry point takes the signal itself: no shell is in between. It waits for work, and ends."""
    orchestrator = StandIn()
    worker = subprocess.Popen(
        [*entry, "--pull", orchestrator.url, "--key", "k"], stderr=subprocess.DEVNULL,
        env=worker_image.environment(OBJECTS_DIR=str(worker_image.folder / "data")), cwd=worker_image.folder / "data",
    )  # fmt: skip
    try:
        orchestrator.wait_for(lambda: bool(orchestrator.requests))
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
        orchestrator.close()


def test_the_schemas_are_in_it(worker_image: Built, entry: list[str]) -> None:
    """They came from their addresses, for which a stand-in answered with what was published; they are checked and
    can be used."""
    if not worker_image.has_schemas:
        pytest.skip("needs shared/data/schemas; set ARKE_TEST_DATA to its folder `data`")
    folder = Path(worker_image.environment()["ARKE_SCHEMAS"])
    sums = {file.name: hashlib.sha256((folder / file.name).read_bytes()).hexdigest() for file in FILES}
    assert all(sums[file.name] == file.sha256 for file in FILES if file.sha256)
    assert sorted(os.listdir(folder)) == sorted(sums)
    code = "import os; from worker.kinds.mods.schemas import find; find(os.environ).check(); print('usable')"
    said = run(worker_image, entry[0], "-P", "-c", code)
    assert said.stdout.strip() == "usable", said.stderr


def test_the_size_is_what_the_guide_says(worker_image: Built, record_property: Record) -> None:
    """What our image adds to its base: packages and schemas, within a tenth."""
    megabytes = size_of([worker_image.folder / "opt/arke", worker_image.folder / "usr/share/arke"]) / 1e6
    record_property("worker_mb", round(megabytes, 1))
    sys.stdout.write(f"the worker's layers: {megabytes:.1f} MB\n")
    guide = (ROOT / "docs/how-to/deploy-a-cluster.md").read_text()
    said = re.search(r"(\d+) MB more than its base", guide)
    assert said is not None
    assert megabytes == pytest.approx(int(said[1]), rel=0.1)
