"""What people open in a browser: it comes whole from the service, so that it is there without internet."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import pytest

from tests.acceptance.service import Service

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
BROWSER_S: Final = 120
HARMLESS: Final = re.compile("'none'|'self'|'unsafe-inline'|'sha256-[A-Za-z0-9+/=]+'|data:")
"""The sources of a policy that no outside host is among."""


class References(HTMLParser):
    """Every address that a page loads or links to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "poster", "srcset") and value:
                (self.linked if tag == "a" else self.loaded).append(value)


def is_outside(service: Service, page: str, reference: str) -> bool:
    """Whether a reference on a page leads to another host. A `data:` address leads nowhere."""
    target = urlsplit(urljoin(f"{service.url}{page}", reference))
    return target.scheme != "data" and f"{target.scheme}://{target.netloc}" != service.url


@pytest.mark.parametrize("page", ["/", "/docs"])
def test_page_refers_to_this_service_only(service: Service, page: str) -> None:
    """No page loads anything from an outside host or links to one, its style sheets included; all it names is there."""
    answer = service.http.get(page)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    found = References(answer.text)
    assert found.loaded or found.linked
    assert [each for each in (*found.loaded, *found.linked) if is_outside(service, page, each)] == []
    for each in (*found.loaded, *found.linked):
        if not each.startswith("data:"):
            file = service.http.get(urljoin(page, each))
            assert (file.status_code, bool(file.content)) == (200, True), each
            if file.headers["content-type"].startswith("text/css"):
                inner = re.findall(r"url\(\s*[\"']?([^\"')]+)", file.text)
                assert [address for address in inner if is_outside(service, page, address)] == []


def test_policy_of_the_documentation_lets_nothing_in(service: Service) -> None:
    """The browser is told to refuse whatever is not from here: only sources that name no host, and scripts not at
    large."""
    policy = service.http.get("/docs").headers["content-security-policy"]
    directives = {name: sources for name, *sources in (part.split() for part in policy.split(";"))}
    assert directives["default-src"] == ["'none'"]
    assert "'unsafe-inline'" not in directives["script-src"]
    assert [each for sources in directives.values() for each in sources if not HARMLESS.fullmatch(each)] == []


def test_there_is_one_page_of_documentation(service: Service) -> None:
    """FastAPI's second page, which loads from outside as well, is not offered."""
    answer = service.http.get("/redoc")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_documentation_lists_every_operation_without_internet(service: Service, tmp_path: Path) -> None:
    """A browser that reaches no host but this one shows every operation of the document, and refuses nothing."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"No browser: install one of {', '.join(BROWSERS)}.")
    document = service.http.get("/openapi.json").json()
    rendered, console = dump_dom(browser, f"{service.url}/docs", tmp_path)
    missing = [each for each in operations(document) if f'id="operations-{each}"' not in rendered]
    assert missing == [], f"not on the page; the browser said:\n{console}"
    assert "Content Security Policy" not in console


def operations(document: dict[str, Any]) -> list[str]:
    """Tag and id of each operation, as the page joins them; at least the creation of a batch."""
    found = [
        f"{operation['tags'][0]}-{operation['operationId']}"
        for path in document["paths"].values()
        for operation in path.values()
    ]
    assert "batches-create_batches_post" in found
    return found


def dump_dom(browser: str, url: str, profile: Path) -> tuple[str, str]:
    """The page as it stands when its scripts have run, and what was said on the console; outside hosts are blocked."""
    done = subprocess.run(
        [
            browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={profile}", "--no-first-run", "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            "--virtual-time-budget=20000", "--dump-dom", url,
        ],
        capture_output=True, text=True, timeout=BROWSER_S, check=True,
    )  # fmt: skip
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
