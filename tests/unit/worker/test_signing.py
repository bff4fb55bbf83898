"""Signed requests: what the signature covers. That it is boto3's, test_presigning tests."""

import pytest

from worker.objects.signing import LONGEST_S, Signer

AT_S = 1_700_000_000


def signer(region: str = "auto", endpoint: str = "https://acc.example") -> Signer:
    return Signer(endpoint, "bucket", access_key_id="id", secret="secret-key", region=region)


@pytest.mark.parametrize("change", [{"method": "HEAD"}, {"key": "b"}, {"at_s": AT_S + 1}, {"expires_s": 61}])
def test_all_that_is_asked_is_signed(change: dict[str, object]) -> None:
    """A signature is for one method, one key and one time."""
    asked = {"method": "GET", "key": "a", "at_s": AT_S, "expires_s": 60}
    signed = {signer().target(**given).rpartition("=")[2] for given in (asked, asked | change)}  # type: ignore[arg-type]
    assert len(signed) == 2


def test_the_region_is_signed() -> None:
    """As R2 and S3 have them."""
    assert "%2F20231114%2Feu-west-1%2Fs3%2F" in signer("eu-west-1").target("GET", "a", AT_S, 60)


def test_a_path_before_the_bucket_stays() -> None:
    """A server may be below one."""
    signs = signer(endpoint="http://127.0.0.1:9000/s3/")
    assert signs.origin == "http://127.0.0.1:9000"
    assert signs.target("GET", "a b", AT_S, LONGEST_S + 1).startswith("/s3/bucket/a%20b?")
    assert f"X-Amz-Expires={LONGEST_S}&" in signs.target("GET", "a", AT_S, LONGEST_S + 1)
