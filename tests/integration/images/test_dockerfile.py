"""The Dockerfile, read: what holds for every image, seen without building one."""

import re
from typing import Final

import pytest

from tests.integration.images.dockerfile import ROOT, Stage, Step, line_of, read

ARGUMENTS, STAGES = read()
TARGETS: Final = ("worker", "orchestrator")
NEEDED: Final = frozenset({"requirements.lock", "pyproject.toml", "README.md", "LICENSE", "orchestrator", "actors",
                           "worker", "deploy/node_certificate.sh"})  # fmt: skip


def last(target: str, name: str) -> Step | None:
    """The last instruction of this name, also of the stages below."""
    found = [step for stage in line_of(STAGES, target) if (step := stage.last(name))]
    return found[-1] if found else None


def steps(name: str) -> list[tuple[Stage, Step]]:
    """All instructions of this name."""
    return [(stage, step) for stage in STAGES.values() for step in stage.steps if step.name == name]


def test_the_base_is_named_with_its_whole_version() -> None:
    """Not `latest`, not a tag that moves to the next minor version; one place to add its digest."""
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", ARGUMENTS["BASE"])
    bases = {stage.base for stage in STAGES.values()} - set(STAGES)
    assert bases == {"${BASE}", "scratch"}


@pytest.mark.parametrize("target", TARGETS)
def test_it_runs_as_a_user_by_number(target: str) -> None:
    """Kubernetes takes a name for root (`runAsNonRoot`). Nothing is done after the user is changed."""
    user = last(target, "USER")
    assert user is not None
    assert re.fullmatch(r"[1-9]\d{4,}:[1-9]\d{4,}", user.text)
    own = STAGES[target].steps
    after = {step.name for step in own[own.index(user) + 1 :]}
    assert not after & {"RUN", "COPY", "ADD"}


@pytest.mark.parametrize("target", TARGETS)
def test_signals_reach_the_program(target: str) -> None:
    """JSON forms: with a shell in between SIGTERM would end the shell. The signal is Docker's own, or said to be it."""
    for name in ("ENTRYPOINT", "CMD"):
        step = last(target, name)
        assert step is None or step.text.startswith("["), name
    assert last(target, "ENTRYPOINT") is not None
    stop = last(target, "STOPSIGNAL")
    assert stop is None or stop.text == "SIGTERM"


def test_only_what_is_needed_is_copied() -> None:
    """By name, never the whole folder; and what is not needed does not even reach the builder."""
    sources = {word for _, step in steps("COPY") if "from" not in step.flags
               for word in step.words[:-1] if not word.startswith("--")}  # fmt: skip
    assert sources == NEEDED
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == NEEDED
    assert not steps("ADD")


def test_the_worker_gets_nothing_of_the_service() -> None:
    """Neither its code nor its dependencies; of the builder's stage one folder."""
    line = [step for stage in line_of(STAGES, "worker-build") for step in stage.steps]
    copied = {word for step in line if step.name == "COPY" for word in step.words[:-1]}
    assert copied == {"requirements.lock", "pyproject.toml", "README.md", "LICENSE", "worker"}
    assert not any("[service]" in step.text for step in line)
    taken = [step.text for stage in line_of(STAGES, "worker") for step in stage.steps if step.name == "COPY"]
    assert taken == ["--from=schemas / /usr/share/arke/schemas/", "--from=worker-build /opt/arke /opt/arke"]


def test_every_installation_is_pinned() -> None:
    """By the lock file, or with a version of its own; nothing is downloaded by the way."""
    for _, step in steps("RUN"):
        for command in re.findall(r"pip (?:\S+ \S+ )?install [^&]+", step.text):
            assert "--constraint requirements.lock" in command or re.search(r" \S+==\S+ *$", command), command
        for command in re.findall(r"pip wheel [^&]+", step.text):
            assert "--no-deps" in command
            assert "--no-build-isolation" in command
        assert not re.search(r"\b(curl|git clone|sudo)\b|(^|&& )wget", step.text)
        if "apt-get install" in step.text:
            assert "--no-install-recommends" in step.text
            assert "rm -rf /var/lib/apt/lists/*" in step.text


def test_the_service_is_asked_whether_it_is_well() -> None:
    """At the address that it is given; the worker has none."""
    check = last("orchestrator", "HEALTHCHECK")
    assert check is not None
    assert '/health"' in check.text
    assert "$PORT" in check.text
    assert last("worker", "HEALTHCHECK") is None


def test_no_secret_is_in_it() -> None:
    """Neither as a value nor as an argument of the build, which the history of an image shows."""
    names = [word for kind in ("ENV", "ARG") for _, step in steps(kind) for word in step.words]
    assert not [name for name in names if re.search("KEY|TOKEN|SECRET|PASSWORD", name)]
