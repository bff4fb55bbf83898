"""Addresses that the environment gives, what servers say, and what of both may be shown."""

import pytest

from worker import objects
from worker.callback import is_ours
from worker.errors import BadInput, Unavailable, one_line
from worker.limits import MB, killed
from worker.urls import is_valid, place, split, without_secrets


@pytest.mark.parametrize(
    "url",
    ["notaurl", "", "file:///etc/passwd", "ftp://h/x", "http://", "http://h:99999/", "http://h:0/", "http://h:port/",
     "http://h/a b?sig=SECRET", "http://h/x?sig=SECRET\n", "http://h/\x7f?sig=SECRET", "http://h/\udcff?sig=SECRET",
     "http://[::1/?sig=SECRET", "http://a..b/?sig=SECRET", f"http://{'a' * 64}.example/?sig=SECRET"],
)  # fmt: skip
def test_what_is_no_url_is_refused_by_name(url: str) -> None:
    """One sentence with the variable's name, final, and nothing of the URL; `place` shows nothing of it either."""
    with pytest.raises(BadInput, match=r"^INPUT_URL is not a valid URL") as caught:
        split(url, "INPUT_URL")
    assert "SECRET" not in str(caught.value) + place(url)
    assert caught.value.__cause__ is None
    assert not is_valid(url)


def test_urls_are_sent_as_browsers_send_them() -> None:
    """Other characters than ASCII as UTF-8 with '%'; all else verbatim, since a signature covers it."""
    parts = split("https://h.example:8/übung%2F+~'(1).tif?sig=a%2Fb+ü==&x#part")
    assert (parts.path, parts.query) == ("/%C3%BCbung%2F+~'(1).tif", "sig=a%2Fb+%C3%BC==&x")
    assert (parts.hostname, parts.port, parts.fragment) == ("h.example", 8, "")


def test_what_servers_say_is_one_bounded_line() -> None:
    """No control characters, paths, URLs or parts of the query, and not more than 200 characters."""
    told = "Denied\r\n\x1b[31mfor /var/lib/x.key at http://h/x?sig=s; and/or 1.5"
    assert one_line(told) == "Denied [31mfor (path) at (URL) and/or 1.5"
    assert len(one_line("x" * 9999)) == 200
    assert without_secrets("not 0123/4567 or 0123%2F4567 but abc", "sig=0123%2F4567&x=abc") == "not … or … but abc"


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"INPUT_URL": "http://h:99999/", "OUTPUT_URL": "http://h/"}, "^INPUT_URL is not a valid URL$"),
        ({"INPUT_URL": "http://h/", "OUTPUT_URL": "http://h/a b"}, "^OUTPUT_URL is not a valid URL$"),
        ({"R2_ENDPOINT_URL": "nonsense"}, "^R2_ENDPOINT_URL is not a valid URL"),
        ({"R2_ACCOUNT_ID": "an account"}, "^R2_ACCOUNT_ID is not valid"),
    ],
)
def test_addresses_of_objects_are_checked_first(env: dict[str, str], sentence: str) -> None:
    """Before anything is fetched; another try cannot help."""
    with pytest.raises(BadInput, match=sentence):
        objects.from_environment(env | {"R2_ACCESS_KEY_ID": "k", "R2_SECRET_ACCESS_KEY": "s"})


@pytest.mark.parametrize("env", [{}, {"INPUT_URL": "http://h/"}, {"R2_ENDPOINT_URL": "http://h"}])
def test_want_of_objects_is_the_machines_fault(env: dict[str, str]) -> None:
    """A machine that was not told of objects, or not of their keys, does not fail a task for good."""
    with pytest.raises(Unavailable, match=r"OBJECTS_DIR|R2_ACCESS_KEY_ID"):
        objects.from_environment(env)


def test_killed_converter_is_no_proof_of_want_of_memory() -> None:
    """The figure comes from the pixels, however much this machine has; without pixels there is none."""
    assert killed(10**6, base_bytes=100 * MB).endswith("perhaps for want of memory: the image of 1000000 pixels needs "
                                                      "a machine with 108 MB")  # fmt: skip
    assert killed(None) == "The converter was killed (SIGKILL), perhaps for want of memory"


@pytest.mark.parametrize(
    ("body", "ours"),
    [
        (b'{"error":"No batch has the id b1.","code":"not_found"}', True),
        (b'{"error":"The batch has no task with this id.","code":"not_found"}', True),
        (b"Path '/callback/b/t' not found.", False),
        (b'["error"]', False),
        (b"", False),
    ],
)
def test_own_404_is_told_from_a_proxys(body: bytes, ours: bool) -> None:
    """What the service answers for an unknown batch or task, and what stands before it while it restarts."""
    assert is_ours(body) is ours
