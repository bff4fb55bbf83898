"""The OpenAPI document: what generated clients and the page at /docs are made from."""

from typing import Any

import httpx
from fastapi import FastAPI

from orchestrator.routes import batches, documentation


async def operations(http: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    """Each operation by its id."""
    document = (await http.get("/openapi.json")).json()
    return {each["operationId"]: each for path in document["paths"].values() for each in path.values()}


async def test_what_asks_for_a_key_says_so(http: httpx.AsyncClient) -> None:
    """Where 401 is possible the document asks for a key, so that the page can send one; elsewhere it does not."""
    found = await operations(http)
    assert found["create_batches_post"]["security"] == [{"key": []}]
    assert "security" not in found["health_health_get"]
    assert all(("401" in each["responses"]) == ("security" in each) for each in found.values())
    document = (await http.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


async def test_an_operation_is_named_by_its_first_sentence(http: httpx.AsyncClient) -> None:
    """The line that a list of operations shows is a sentence, not the name of a function; the rest follows below."""
    created = (await operations(http))["create_batches_post"]
    assert batches.create.__doc__ == f"{created['summary']}. {created['description']}"
    assert "description" not in (await operations(http))["status_status__job_id__get"]


def test_a_route_without_a_sentence_keeps_its_name() -> None:
    """A docstring that is missing costs the description, not the whole document."""
    app = FastAPI(title="t")

    async def some_route(key: int) -> None: ...

    app.add_api_route("/x", some_route)
    documentation.install(app)
    assert app.openapi()["paths"]["/x"]["get"]["summary"] == "Some Route"
