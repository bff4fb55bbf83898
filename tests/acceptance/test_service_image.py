"""The service's image: its entry point, with what its dependencies bring and nothing else.

Installing Ray takes minutes, so every run links the packages that are installed here instead, those alone which
`service` of pyproject.toml asks for; `make soak` takes the steps of the Dockerfile as they are.
"""

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.acceptance.service import eventually, free_port
from tests.integration.images.dockerfile import ROOT, Builder, read, size_of

OURS: Final = "arke-orchestrator"
ABSENT: Final = ("pytest", "hypothesis", "mypy", "imagecodecs", "tests", "pip", "setuptools")


def closure(extra: str) -> set[str]:
    """The distributions that an extra of ours leads to, ours apart."""
    found: set[str] = set()
    todo = [Requirement(f"{OURS}[{extra}]")]
    seen: set[str] = set()
    while todo:
        wanted = todo.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        found.add(canonicalize_name(wanted.name))
        for line in importlib.metadata.requires(wanted.name) or []:
            needed = Requirement(line)
            extras = ("", *wanted.extras)
            if needed.marker is None or any(needed.marker.evaluate({"extra": each}) for each in extras):
                todo.append(needed)
    return found - {OURS}


def test_everything_that_is_installed_has_a_version_in_the_lock_file() -> None:
    """Else two builds of one tree could differ."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    assert closure("service") - locked == set()
    assert "ray" in closure("service")


@pytest.fixture
def linked() -> Iterator[Path]:
    """A folder with the image's `opt/arke`: our three packages as they are copied, the others linked."""
    folder = Path(tempfile.mkdtemp(prefix="arke-i-"))
    venv.create(folder / "opt/arke", with_pip=False, symlinks=True)
    (site,) = (folder / "opt/arke/lib").glob("python3*/site-packages")
    for name in closure("service"):
        distribution = importlib.metadata.distribution(name)
        for top in {path.parts[0] for path in distribution.files or [] if path.parts[0] not in ("..", "__pycache__")}:
            target = site / top
            if not target.is_symlink():
                target.symlink_to(Path(str(distribution.locate_file(top))))
    for step in read()[1]["orchestrator-build"].steps:
        if step.name == "COPY" and (ROOT / step.words[0]).is_dir():
            shutil.copytree(ROOT / step.words[0], site / step.words[0], ignore=shutil.ignore_patterns("__pycache__"))
    script = folder / "opt/arke/bin/arke"
    script.write_text(
        f"#!{folder}/opt/arke/bin/python\nimport sys\nfrom orchestrator.cli.main import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """A clean one, with the image's PATH in front."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ARKE_", "PYTHON"))}
    return {**kept, "PATH": f"{folder / 'opt/arke/bin'}:{kept['PATH']}", "PYTHONDONTWRITEBYTECODE": "1", **more}


def commands() -> tuple[list[str], list[str], str]:
    """The entry point, its arguments, and how the image is asked whether it is well."""
    stage = read()[1]["orchestrator"]
    entry, arguments, check = (stage.last(name) for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK"))
    assert entry is not None
    assert arguments is not None
    assert check is not None
    return entry.words, arguments.words, check.text.partition(" CMD ")[2]


def test_it_serves_with_nothing_else_importable(linked: Path) -> None:
    """Ready, well by the image's own check, and ended by SIGTERM to the process of the entry point."""
    entry, arguments, check = commands()
    port = free_port()
    env = environment(linked, PORT=str(port), DATA_DIR=str(linked / "data"), HOST="127.0.0.1", MAX_MACHINES="1")
    look = "import importlib.util, sys; print([n for n in sys.argv[1:] if importlib.util.find_spec(n)])"
    python = str(linked / "opt/arke/bin/python")
    said = subprocess.run([python, "-P", "-c", look, *ABSENT], env=env, cwd=linked, text=True, capture_output=True,
                          check=True)  # fmt: skip
    assert said.stdout.strip() == "[]"
    assert subprocess.run(["sh", "-c", check], env=env, capture_output=True, check=False).returncode == 1

    program = str(linked / "opt/arke/bin" / entry[0])
    with open(linked / "said", "w+") as output:
        service = subprocess.Popen([program, *entry[1:], *arguments], env=env, cwd=linked, stdout=output, stderr=output,
                                   start_new_session=True)  # fmt: skip
    try:
        eventually(lambda: service.poll() is not None or _is_well(check, env), "the service is well", 120)
        assert service.poll() is None, (linked / "said").read_text()[-3000:]
        service.send_signal(signal.SIGTERM)
        assert service.wait(40) == 0
    finally:
        service.send_signal(signal.SIGTERM)
        try:
            service.wait(30)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()


def _is_well(check: str, env: dict[str, str]) -> bool:
    return subprocess.run(["sh", "-c", check], env=env, capture_output=True, check=False).returncode == 0


@pytest.mark.soak
def test_its_steps_can_be_taken(tmp_path: Path) -> None:
    """With Ray installed as the image has it: minutes."""
    builder = Builder(tmp_path)
    builder.give("schemas")
    folder = builder.build("orchestrator")
    (folder / "data").mkdir(exist_ok=True)
    run = subprocess.run([str(folder / "opt/arke/bin/arke"), "--help"], env=environment(folder), cwd=folder / "data",
                         text=True, capture_output=True, check=False)  # fmt: skip
    assert (run.returncode, "serve" in run.stdout) == (0, True), run.stderr
    assert (folder / "opt/arke/haproxy").stat().st_mode & 0o005
    sys.stdout.write(f"the service's layers: {size_of([folder / 'opt/arke']) / 1e6:.0f} MB\n")
    assert sysconfig.get_python_version() in str(next((folder / "opt/arke/lib").iterdir()))
