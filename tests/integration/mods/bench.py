"""Exports of the stand-in's archives over HTTP."""

import io
import random
from collections.abc import Callable
from typing import Any

from lxml import etree

from tests.stand_ins.arke_api import ArkeStandIn, serving
from worker.kinds.mods.arke_api import ArkeApi
from worker.kinds.mods.crosswalk import Sites
from worker.kinds.mods.export import Metrics, Progress, export
from worker.kinds.mods.options import Format, Options
from worker.kinds.mods.schemas import Schemas
from worker.kinds.mods.writers import WRITERS


async def exported(
    stand_in: ArkeStandIn, pi: str, *, format: Format = "mods", schemas: Schemas | None = None,
    tell: Callable[[Progress], None] | None = None, **options: Any,
) -> tuple[bytes, Metrics]:  # fmt: skip
    """The file and the metrics of one export."""
    target = io.BytesIO()
    wanted = Options(**({"recursive": True} | options))
    async with serving(stand_in) as url, ArkeApi(url, url, rng=random.Random(1)) as archive:
        metrics = await export(
            pi, format=format, options=wanted, archive=archive, sites=Sites(), schemas=schemas, target=target, tell=tell
        )
    return target.getvalue(), metrics


def records(body: bytes, format: Format = "mods") -> list[Any]:
    """The elements of the records, read as any reader of libxml2 would: without huge_tree."""
    return etree.fromstring(body).findall(WRITERS[format].tag)
