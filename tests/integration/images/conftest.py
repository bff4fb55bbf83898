"""The worker's image, built once for all tests here."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.images.addresses import answered
from tests.integration.images.dockerfile import Builder
from worker.kinds.mods.fetching import FILES

COPIES = {"mods-3-8.xsd": "mods-3-8.published.xsd"}
"""Of this one the data of the tests has what was published under another name."""


class Built:
    """The folder of a finished image, and its builder."""

    def __init__(self, builder: Builder, name: str, *, has_schemas: bool) -> None:
        self.builder, self.stage, self.has_schemas = builder, builder.stages[name], has_schemas
        self.folder = builder.build(name)

    def environment(self, **more: str) -> dict[str, str]:
        """What ENV says, and `more`; of this process only where its home and temporary files are."""
        kept = {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
        kept["PATH"] = os.environ["PATH"]
        for step in [*self.builder.stages["base"].steps, *self.stage.steps]:
            if step.name == "ENV":
                said = [word.partition("=") for word in step.words]
                for key, _, value in said:
                    kept[key] = self.builder.here(value.replace("$PATH", kept["PATH"]), self.folder)
        return kept | more


@pytest.fixture(scope="session")
def worker_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """Its stage, by the steps of the Dockerfile. Without ARKE_TEST_DATA its schemas are an empty folder."""
    folder = tmp_path_factory.mktemp("images")
    data = os.environ.get("ARKE_TEST_DATA")
    if data is None:
        builder = Builder(folder)
        builder.give("schemas")
        yield Built(builder, "worker", has_schemas=False)
        return
    schemas = Path(data) / "schemas"
    bodies = {file.url: (schemas / COPIES.get(file.name, file.name)).read_bytes() for file in FILES}
    with answered(folder, bodies) as addresses:
        yield Built(Builder(folder, addresses, only="schemas-build"), "worker", has_schemas=True)
