"""The Dockerfile as its own steps: read, and taken in a folder in place of an image.

Each stage is a folder. COPY copies between folders, RUN runs its own text with the absolute paths of the images turned
into those of the folder. What needs root and changes nothing that is looked at (NEEDS_ROOT) is left out by name;
everything else that cannot be done here fails, so the test cannot drift from the file.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[3]
NEEDS_ROOT: Final = ("useradd ", "install -d -o ", "apt-get ", "rm -rf /var/lib/apt/lists/", "ln -s /opt/arke/bin/")
PLACES: Final = ("/opt", "/build", "/usr/share/arke", "/data")
"""The folders of the images that are looked at."""


class Step(NamedTuple):
    """One instruction, its continued lines joined, without comments."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The arguments in JSON form, else as a shell splits them."""
        if self.text.startswith("["):
            found: list[str] = json.loads(self.text)
            return found
        return shlex.split(self.text)

    @property
    def flags(self) -> dict[str, str]:
        """`--from=build` and the like at the beginning."""
        flags = [word.removeprefix("--").partition("=") for word in self.words if word.startswith("--")]
        return {name: value for name, _, value in flags}


class Stage(NamedTuple):
    """What FROM names, and the steps until the next one."""

    name: str
    base: str
    steps: list[Step]

    def last(self, name: str) -> Step | None:
        """The last instruction of this name: the one that counts."""
        return next((step for step in reversed(self.steps) if step.name == name), None)


def read(path: Path = ROOT / "Dockerfile") -> tuple[dict[str, str], dict[str, Stage]]:
    """The arguments before the first stage, and the stages by name, in their order."""
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    current: Stage | None = None
    for step in _steps(path.read_text()):
        if step.name == "FROM":
            base, _, name = step.text.partition(" AS ")
            current = stages[name] = Stage(name, base, [])
        elif current is None:
            assert step.name == "ARG", f"{step.name} before the first FROM"
            key, _, value = step.text.partition("=")
            arguments[key] = value
        else:
            current.steps.append(step)
    return arguments, stages


def _steps(text: str) -> list[Step]:
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    return [Step(*line.strip().split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def line_of(stages: Mapping[str, Stage], name: str) -> list[Stage]:
    """The stage and those that it is made from, the first one first."""
    found = [stages[name]]
    while (base := found[0].base) in stages:
        found.insert(0, stages[base])
    return found


class Builder:
    """Takes the steps below one folder. `environment` is added to that of the RUN steps of the stage `only`."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None, only: str = "") -> None:
        self.folder = folder
        self.arguments, self.stages = read()
        self._environment, self._only = dict(environment or {}), only
        self._done: set[str] = set()
        self.skipped: list[str] = []

    def give(self, name: str) -> Path:
        """An empty folder in place of a stage, as `--build-context {name}=FOLDER` does; returns it."""
        place = self.folder / name
        place.mkdir(parents=True)
        self._done.add(name)
        return place

    def build(self, name: str) -> Path:
        """The folder of the finished stage."""
        stage, place = self.stages[name], self.folder / name
        if name in self._done:
            return place
        if stage.base in self.stages:
            # A virtual environment has its own path in its scripts, so later stages work on in the same place.
            shutil.copytree(self.build(stage.base), place, symlinks=True)
            _move_paths(place, self.folder / stage.base, place)
        else:
            place.mkdir(parents=True)
            if stage.base != "scratch":
                self._make_base(place, with_pip=any("pip " in step.text for step in stage.steps))
        directory = place
        for step in stage.steps:
            if step.name == "WORKDIR":
                directory = place / step.text.lstrip("/")
                directory.mkdir(parents=True, exist_ok=True)
            elif step.name == "COPY":
                self._copy(step, place, self._workdir(stage, directory, place))
            elif step.name == "RUN":
                more = self._environment if name == self._only else {}
                self._run(step, place, self._workdir(stage, directory, place), more)
        self._done.add(name)
        return place

    def _make_base(self, place: Path, *, with_pip: bool) -> None:
        """The base image has a Python; its pip takes seconds to make."""
        without = [] if with_pip else ["--without-pip"]
        subprocess.run([sys.executable, "-m", "venv", *without, str(place / "usr/local")], check=True)

    def _workdir(self, stage: Stage, directory: Path, place: Path) -> Path:
        if directory != place:
            return directory
        above = [step for each in line_of(self.stages, stage.name)[:-1] for step in each.steps]
        named = [step.text for step in above if step.name == "WORKDIR"]
        return place / named[-1].lstrip("/") if named else place

    def _copy(self, step: Step, place: Path, directory: Path) -> None:
        *sources, target = [word for word in step.words if not word.startswith("--")]
        origin = self.build(step.flags["from"]) if "from" in step.flags else ROOT
        destination = place / target.lstrip("/") if target.startswith("/") else directory / target
        for source in sources:
            found = origin / source.lstrip("/")
            assert found.exists(), f"COPY of {source}, which is not there"
            ignored = shutil.ignore_patterns("__pycache__") if origin == ROOT else None  # as .dockerignore says
            if found.is_dir():
                shutil.copytree(found, destination, symlinks=True, dirs_exist_ok=True, ignore=ignored)
                _move_paths(destination, origin, place)
            else:
                into = destination / found.name if target.endswith("/") else destination
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, into)

    def _run(self, step: Step, place: Path, directory: Path, more: Mapping[str, str]) -> None:
        taken = []
        for command in step.text.split("&&"):
            if command.strip().startswith(NEEDS_ROOT):
                self.skipped.append(command.strip())
            else:
                taken.append(self.here(command.strip(), place))
        if not taken:
            return
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ARKE_", "RAY_"))}
        path = f"{place / 'usr/local/bin'}:{os.environ['PATH']}"
        run = subprocess.run(
            ["/bin/sh", "-ec", " && ".join(taken)], cwd=directory, text=True, capture_output=True, check=False,
            env={**clean, **more, "PATH": path, "PIP_NO_CACHE_DIR": "1"},
        )  # fmt: skip
        assert run.returncode == 0, f"RUN {step.text}\n{run.stdout[-2000:]}\n{run.stderr[-3000:]}"

    def here(self, text: str, place: Path) -> str:
        """A command with the paths of the images turned into those below `place`."""
        for each in PLACES:
            text = re.sub(rf"(?<![\w/.-]){re.escape(each)}(?=[/\s\"]|$)", f"{place}{each}", text)
        return text


def _move_paths(folder: Path, former: Path, now: Path) -> None:
    """Have the scripts and links of a virtual environment that was copied name where it is now."""
    for scripts in folder.rglob("bin"):
        for path in scripts.iterdir():
            if path.is_symlink() and (to := os.readlink(path)).startswith(str(former)):
                path.unlink()
                path.symlink_to(str(now) + to.removeprefix(str(former)))
            elif path.is_file() and not path.is_symlink() and path.stat().st_size < 100_000:
                content = path.read_bytes()
                if (old := os.fsencode(f"{former}/")) in content:
                    path.write_bytes(content.replace(old, os.fsencode(f"{now}/")))
    for path in folder.rglob("pyvenv.cfg"):
        path.write_text(path.read_text().replace(f"{former}/", f"{now}/"))


def size_of(folders: Sequence[Path]) -> int:
    """Bytes of all files, links not followed: what a layer holds, before it is compressed."""
    return sum(path.lstat().st_size for folder in folders for path in folder.rglob("*") if not path.is_dir())
