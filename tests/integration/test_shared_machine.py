"""What the service gives to machines that run beside it on one computer."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors import assembly
from actors.clock import Clock
from actors.machines.subprocess import COMMAND
from actors.settings import Settings
from orchestrator.supervisor import DRIVER
from worker.limits import MB, machine_memory

ROOT = Path(assembly.__file__).resolve().parents[1]


def environment_of_a_machine(tmp_path: Path, provider: str) -> dict[str, str]:
    """As one of four gets it."""
    settings = Settings.load({}, data_dir=tmp_path, machine_provider=provider, max_machines=4)
    nothing: Any = SimpleNamespace(call=None, capacity=None)
    return dict(assembly.fleet(settings, nothing, nothing, Clock(), nothing)._making._base_env("m", "tiff"))


@pytest.mark.parametrize("provider", ["ray", "subprocess"])
def test_machines_share_the_memory(tmp_path: Path, provider: str) -> None:
    """All together leave some of it to the service: each does not take the whole for its own."""
    each = int(environment_of_a_machine(tmp_path, provider)["WORKER_MEMORY_MB"])
    assert machine_memory() // MB // 8 < each < machine_memory() // MB // 4


def test_machines_elsewhere_have_their_own_memory(tmp_path: Path) -> None:
    """Nothing is known of it here; of a machine of Fly the worker sees what it has itself."""
    for provider in ("external", "fly"):
        assert "WORKER_MEMORY_MB" not in environment_of_a_machine(tmp_path, provider)


@pytest.mark.parametrize("command", [COMMAND, (*DRIVER[:-1], "orchestrator.cli.main")])
def test_processes_do_not_execute_what_lies_in_the_current_folder(tmp_path: Path, command: tuple[str, ...]) -> None:
    """The service may be started anywhere: files there are not taken for its modules."""
    for name in ("worker", "orchestrator", "actors", "msgspec"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('executed')")
    done = subprocess.run(
        [*command, "--help"], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
