"""Settings: names, defaults, bounds, secrets, and the reference page that is made from them."""

import dataclasses
import os
from pathlib import Path

import pytest

from actors.settings import InvalidSetting, Settings, reference_page

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "settings.md"


def test_defaults_are_those_of_the_originals() -> None:
    """Without any variable the documented defaults hold."""
    settings = Settings.load({})
    assert settings.batch_size_tiff_conversion == 1000
    assert settings.alarm_delay_tiff_conversion == 5000
    assert settings.task_timeout_tiff_conversion == 60_000
    assert settings.max_retry_attempts == 5
    assert settings.r2_bucket == "arke-staging"


def test_computed_defaults_follow_other_settings(tmp_path: Path) -> None:
    """What depends on other settings is filled in, so that no reader has to."""
    settings = Settings.load({}, port=9000, data_dir=tmp_path)
    assert settings.orchestrator_url == "http://127.0.0.1:9000"
    assert settings.max_machines == os.cpu_count()
    assert settings.store == tmp_path / "arke.db"
    assert settings.objects_dir == tmp_path / "objects"


def test_where_the_store_is() -> None:
    """A file, or a database of Postgres, whose URL is a secret."""
    assert Settings.load({"DATABASE_URL": "sqlite:////var/arke.db"}).store == Path("/var/arke.db")
    for scheme in ("postgresql", "postgresql+psycopg"):
        settings = Settings.load({"DATABASE_URL": f"{scheme}://u:word@h/d"})
        assert settings.store == f"{scheme}://u:word@h/d"
        assert "word" not in repr(settings) + str(settings.masked())
    with pytest.raises(InvalidSetting) as caught:
        Settings.load({"DATABASE_URL": "mysql://u:word@h/d"})
    assert "word" not in str(caught.value)


def test_all_interfaces_are_reached_over_loopback() -> None:
    """A worker on this machine cannot call 0.0.0.0; it gets an address that works."""
    assert Settings.load({"HOST": "0.0.0.0"}).orchestrator_url == "http://127.0.0.1:8787"
    assert Settings.load({"HOST": "::1"}).orchestrator_url == "http://[::1]:8787"


def test_override_counts_more_than_the_environment() -> None:
    """An option of the command line wins; one that is not given (None) does not."""
    assert Settings.load({"PORT": "1000"}, port=2000).port == 2000
    assert Settings.load({"PORT": "1000"}, port=None).port == 1000


def test_empty_variable_counts_as_not_set() -> None:
    """`WORKER_URL=` in a file of variables is not an empty address."""
    assert Settings.load({"WORKER_URL": " ", "PORT": ""}) == Settings.load({})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "eighty"),
        ("PORT", "-1"),
        ("PORT", "١"),
        ("MAX_RETRY_ATTEMPTS", "1.5"),
        ("MACHINE_PROVIDER", "magic"),
        ("WORKER_URL", "ftp://x"),
        ("R2_BUCKET", "../x"),
        ("API_KEYS", "a,,b"),
        ("DASHBOARD", "maybe"),
        ("DATABASE_URL", "mysql://x"),
        ("ADMIN_KEY", "a\x00b"),
        ("FLY_API_TOKEN", "a\u00e9b"),
        ("FLY_APP_NAME", "Has/Slash"),
        ("FLY_APP_NAMES", "one,,two"),
        ("FLY_APP_NAMES", "one,Two"),
        ("FLY_REGIONS", "ord,ohare"),
        ("WORKER_CPU_KIND", "fast"),
        ("WORKER_MEMORY_MB_TIFF", "12"),
    ],
)
def test_invalid_value_is_refused_by_name(variable: str, value: str) -> None:
    """The message names the variable and says what is allowed."""
    with pytest.raises(InvalidSetting, match=rf"^{variable} must be .+\.$") as caught:
        Settings.load({variable: value})
    assert caught.value.variable == variable


def test_one_app_and_region_are_lists_of_one() -> None:
    """The originals have one of each; several are given in their order, each once."""
    one = Settings.load({"FLY_APP_NAME": "mine", "FLY_REGION": "ams"})
    assert (one.fly_app_names, one.fly_regions) == (("mine",), ("ams",))
    several = Settings.load({"FLY_APP_NAME": "mine", "FLY_APP_NAMES": "b,a,b", "FLY_REGIONS": "ord, iad"})
    assert (several.fly_app_names, several.fly_regions) == (("b", "a"), ("ord", "iad"))


def test_a_kind_has_the_common_size_unless_it_has_its_own() -> None:
    """WORKER_MEMORY_MB_TIFF and the like count more than the name without the kind."""
    settings = Settings.load({"WORKER_CPU_KIND": "performance", "WORKER_CPUS": "4", "WORKER_MEMORY_MB_TIFF": "4096"})
    assert (settings.worker_cpu_kind_tiff, settings.worker_cpus_tiff) == ("performance", 4)
    assert (settings.worker_memory_mb, settings.worker_memory_mb_tiff) == (1024, 4096)


def test_fly_has_room_for_more_machines_than_this_computer() -> None:
    """The default of MAX_MACHINES follows from who runs them."""
    assert Settings.load({"MACHINE_PROVIDER": "fly"}).max_machines == 1000
    assert Settings.load({"MACHINE_PROVIDER": "fly", "MAX_MACHINES": "5"}).max_machines == 5


def test_message_does_not_repeat_a_secret() -> None:
    """A secret that is not valid does not appear in the error."""
    with pytest.raises(InvalidSetting) as caught:
        Settings.load({"API_KEYS": "hidden1,,hidden2"})
    assert "hidden" not in str(caught.value)


def test_secrets_are_masked() -> None:
    """Neither repr nor the masked form shows a secret."""
    secrets = {
        field.name.upper(): "tell-nobody"
        for field in dataclasses.fields(Settings)
        if field.metadata["spec"].secret and field.name not in ("database_url", "catalog_url")
    }
    settings = Settings.load(secrets)
    assert len(secrets) >= 8
    assert "tell-nobody" not in repr(settings)
    assert "tell-nobody" not in str(settings.masked())
    assert settings.masked()["ADMIN_KEY"] == "***"


def test_environment_round_trip(tmp_path: Path) -> None:
    """A child process that is given `to_environ()` has the same settings."""
    settings = Settings.load({"API_KEYS": "a, b", "DASHBOARD": "no", "HOST": "::1"}, data_dir=tmp_path)
    assert settings.api_keys == ("a", "b")
    assert Settings.load(settings.to_environ()) == settings


def test_exposure_needs_both_keys() -> None:
    """Without API_KEYS and ADMIN_KEY only loopback is allowed, and the refusal says why."""
    for environ in ({}, {"API_KEYS": "k"}, {"ADMIN_KEY": "k"}):
        with pytest.raises(InvalidSetting, match=r"HOST must be .* because anyone"):
            Settings.load({"HOST": "0.0.0.0", **environ}).check_exposure()
    Settings.load({"HOST": "0.0.0.0", "API_KEYS": "k", "ADMIN_KEY": "k"}).check_exposure()
    for host in ("127.0.0.1", "127.0.0.9", "::1", "localhost"):
        Settings.load({"HOST": host}).check_exposure()


def test_prepare_makes_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bucket exists, and the socket folder is short and closed to others."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = Settings.load({}, data_dir=tmp_path / "d")
    settings.prepare()
    settings.prepare()
    assert (settings.objects_dir / "arke-staging").is_dir()
    assert settings.run_dir.stat().st_mode & 0o777 == 0o700
    assert len(settings.run_dir.name) < 30


def test_prepare_refuses_a_socket_folder_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket folder that others may enter is not used."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = Settings.load({}, data_dir=tmp_path / "d")
    settings.run_dir.mkdir()
    settings.run_dir.chmod(0o777)
    with pytest.raises(InvalidSetting, match="TMPDIR"):
        settings.prepare()


def test_data_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A data folder that cannot be made is a clear refusal."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSetting, match="DATA_DIR must be a folder"):
        Settings.load({}, data_dir=tmp_path / "file").prepare()


def test_s3_is_used_as_soon_as_it_is_named() -> None:
    """R2_ENDPOINT_URL or R2_ACCOUNT_ID switches from the folder to S3."""
    assert not Settings.load({}).uses_s3
    keys = {"R2_ACCESS_KEY_ID": "k", "R2_SECRET_ACCESS_KEY": "s"}
    assert not Settings.load(keys).uses_s3
    assert Settings.load(keys | {"R2_ACCOUNT_ID": "a"}).uses_s3
    assert Settings.load(keys | {"R2_ENDPOINT_URL": "http://127.0.0.1:1"}).uses_s3


@pytest.mark.parametrize("named", [{"R2_ACCOUNT_ID": "a"}, {"R2_ENDPOINT_URL": "http://127.0.0.1:1"}])
@pytest.mark.parametrize("half", [{}, {"R2_ACCESS_KEY_ID": "k"}, {"R2_SECRET_ACCESS_KEY": "s"}])
def test_s3_without_both_keys_is_refused(named: dict[str, str], half: dict[str, str]) -> None:
    """No task could be done without them, so the service does not start."""
    with pytest.raises(InvalidSetting, match=r"^R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY must be set where"):
        Settings.load(named | half)


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ({}, "unless R2_ACCOUNT_ID or R2_ENDPOINT_URL is set: a local folder has no URLs"),
        ({"R2_ACCOUNT_ID": "a", "WORKER_CONTRACT": "original"}, "while WORKER_CONTRACT is original"),
    ],
)
def test_presigned_urls_where_they_make_no_sense_are_refused(others: dict[str, str], sentence: str) -> None:
    """No task could be done, so the service does not start."""
    keys = {"R2_ACCESS_KEY_ID": "k", "R2_SECRET_ACCESS_KEY": "s"}
    with pytest.raises(InvalidSetting, match=f"^WORKER_PRESIGNED must be false {sentence}"):
        Settings.load(keys | others, worker_presigned=True)
    assert not Settings.load(keys | others).worker_presigned
    assert Settings.load(keys | {"R2_ACCOUNT_ID": "a", "WORKER_PRESIGNED": "true"}).worker_presigned


def test_reference_page_is_current() -> None:
    """docs/reference/settings.md is what `make docs` writes from the table."""
    assert REFERENCE.read_text() == reference_page(), "run `make docs`"


def test_every_setting_has_a_reason() -> None:
    """No setting without a sentence that says what it is for, and bounds where it is a number."""
    for field in dataclasses.fields(Settings):
        spec = field.metadata["spec"]
        assert spec.reason.endswith("."), field.name
        assert spec.kind != "whole" or spec.least < spec.most, field.name


def test_only_fly_keeps_machines_stopped() -> None:
    """A pool that no provider can have is told at the start; each kind may have one of its own size."""
    with pytest.raises(InvalidSetting, match="MACHINE_POOL must be 0 unless MACHINE_PROVIDER is fly"):
        Settings.load({"MACHINE_POOL": "3"})
    given = {"MACHINE_PROVIDER": "fly", "MACHINE_POOL": "3"}
    assert Settings.load(given).machine_pool_tiff == 3
    assert Settings.load(given | {"MACHINE_POOL_TIFF": "0"}).machine_pool_tiff == 0


def test_a_pool_needs_workers_that_ask_for_work() -> None:
    """Those of the originals do not."""
    with pytest.raises(InvalidSetting, match="MACHINE_POOL must be 0 while WORKER_CONTRACT is original"):
        Settings.load({"MACHINE_PROVIDER": "fly", "MACHINE_POOL": "3", "WORKER_CONTRACT": "original"})
