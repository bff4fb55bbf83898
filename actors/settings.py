"""Everything that a person can set, each in one place: unit, default, bounds, reason.

The name of a field in capitals is the name of its environment variable; the names and milliseconds
of the systems being replaced are kept. An empty variable counts as not set. The reference page
(`docs/reference/settings.md`) is made from this table by `reference_table()`.
"""

import dataclasses
import hashlib
import ipaddress
import os
import re
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

FLAGS: Final = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
LARGEST_MS: Final = 7 * 24 * 3_600_000
FLY_APP: Final = "[a-z0-9][a-z0-9-]{0,62}"
FLY_REGION: Final = "[a-z]{3}"
FLY_MACHINES: Final = 1000
SQLITE: Final = "sqlite:///"
_DATABASE: Final = r"(sqlite:///|postgresql://|postgresql\+psycopg://).+"


class InvalidSetting(ValueError):
    """A setting is not usable. The message names the variable and what is allowed."""

    def __init__(self, variable: str, allowed: str) -> None:
        super().__init__(f"{variable} must be {allowed}.")
        self.variable = variable
        self.allowed = allowed


@dataclasses.dataclass(frozen=True)
class _Spec:
    """What the table says about one setting, beside its type and default."""

    kind: str  # text, whole, flag, words, path, url
    reason: str
    unit: str = ""
    least: int = 0
    most: int = 0
    choices: tuple[str, ...] = ()
    pattern: str = ""
    secret: bool = False
    computed: str = ""  # how the default follows from other settings, in words

    @property
    def allowed(self) -> str:
        """What a value may be, as the end of "X must be …"."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind == "whole":
            return f"a whole number from {self.least} to {self.most}" + (f" ({self.unit})" if self.unit else "")
        return {
            "flag": "true or false",
            "words": "a list separated by commas, without empty entries"
            + (f", each of which matches {self.pattern}" if self.pattern else ""),
            "path": "a path",
            "url": "a URL that begins with http:// or https://",
        }.get(self.kind, f"a text that matches {self.pattern}" if self.pattern else "a text without control characters")


def _setting(default: Any, spec: _Spec) -> Any:
    return dataclasses.field(default=default, metadata={"spec": spec}, repr=not spec.secret)


def _text(default: str | None, reason: str, **more: Any) -> Any:
    return _setting(default, _Spec("text", reason, **more))


def _url(default: str | None, reason: str, **more: Any) -> Any:
    return _setting(default, _Spec("url", reason, **more))


def _whole(default: int, unit: str, least: int, most: int, reason: str, **more: Any) -> Any:
    return _setting(default, _Spec("whole", reason, unit=unit, least=least, most=most, **more))


def _path(default: str, reason: str) -> Any:
    return _setting(Path(default), _Spec("path", reason))


def _flag(default: bool, reason: str) -> Any:
    return _setting(default, _Spec("flag", reason))


def _words(reason: str, **more: Any) -> Any:
    return _setting((), _Spec("words", reason, **more))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one service, made by `load`. Computed defaults are filled in: no reader has to."""

    # Where it serves, and where it keeps things
    host: str = _text("127.0.0.1", "Address to listen on. Other than loopback only with API_KEYS and ADMIN_KEY.")
    port: int = _whole(8787, "", 1, 65535, "Port to listen on.")
    data_dir: Path = _path("data", "Folder of the database, the objects and the secrets.")
    database_url: str | None = _text(
        None,
        "Where the store is: an SQLite file, or in a cluster a database of Postgres (`arke db`).",
        pattern=_DATABASE,
        secret=True,
        computed="sqlite:///{DATA_DIR}/arke.db",
    )
    orchestrator_url: str = _url(
        "", "Base of the callback and claim addresses that workers get.", computed="http://{HOST}:{PORT}"
    )
    worker_url: str | None = _url(None, "Receiver of the final callback. Without it none is sent.")
    service_name: str = _text("arke-preprocessing-orchestrator", "Name that GET /health gives.")
    environment: str = _text(
        "development", "POST /test exists in development only.", choices=("development", "staging", "production")
    )
    arke_cluster: bool = _flag(
        False,
        "The service is on several nodes of a Ray cluster: its actors reach each other over TCP. Set on every node by "
        "`orchestrator.cluster`; wants CALLBACK_SECRET.",
    )
    arke_cluster_ports: str | None = _text(
        None,
        "Ports on which the actors of a node listen in a cluster, as 21000-21999: one for each batch, and ten.",
        pattern="[0-9]{4,5}-[0-9]{4,5}",
        computed="any that is free",
    )
    dashboard: bool = _flag(True, "Start Ray's dashboard, on loopback.")
    log_level: str = _text("INFO", "Least level that is logged.", choices=("DEBUG", "INFO", "WARNING", "ERROR"))

    # Who may do what
    api_keys: tuple[str, ...] = _words("Keys that callers send as `Authorization: Bearer KEY`.", secret=True)
    admin_key: str | None = _text(None, "Key that guards /admin.", secret=True)
    worker_keys: tuple[str, ...] = _words("Keys of workers that are run by people (`--pull`).", secret=True)
    callback_secret: str | None = _text(
        None, "Signs callbacks and machine tokens.", secret=True, computed="made and kept in {DATA_DIR}"
    )
    callback_secret_former: str | None = _text(None, "Also accepted, while CALLBACK_SECRET is changed.", secret=True)

    # Objects
    r2_account_id: str | None = _text(None, "R2 account; makes the service use S3 instead of the local folder.")
    r2_endpoint_url: str | None = _url(
        None,
        "S3 server; makes the service use S3 instead of the local folder.",
        computed="R2's, when R2_ACCOUNT_ID is set",
    )
    r2_access_key_id: str | None = _text(None, "Access key of the object store.", secret=True)
    r2_secret_access_key: str | None = _text(None, "Secret key of the object store.", secret=True)
    r2_bucket: str = _text("arke-staging", "Bucket.", pattern=r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

    r2_bucket_mods: str = _text(
        "", "Bucket of metadata exports.", pattern=r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", computed="R2_BUCKET"
    )

    r2_bucket_zip: str = _text(
        "", "Bucket of the files that go into archives, and of the archives.",
        pattern=r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", computed="R2_BUCKET",
    )  # fmt: skip

    # Archives of people's files
    catalog_url: str | None = _text(
        None,
        "Database with the tables storage_files and storage_exports. It is read and written to, and never changed.",
        pattern=_DATABASE,
        secret=True,
        computed="tables of the service's own database",
    )
    part_size_limit: int = _whole(
        1_000_000_000, "bytes", 1024, 10**13, "Files of more bytes than this become several archives."
    )
    part_files_limit: int = _whole(100_000, "files", 1, 1_000_000, "So do more files than this.")
    zip_chunk_delay: int = _whole(
        0, "ms", 0, 60_000, "Pause between two chunks (100 files or 50 MB) while the files of an archive are verified."
    )
    archive_kept_s: int = _whole(
        7 * 86_400, "s", 10, 365 * 86_400, "How long archives are kept after their end. Their rows are kept for longer."
    )

    # The archive, and exports of its metadata
    arke_api_url: str = _url("https://api.arke.institute", "The Arke API, from which entities are read.")
    ipfs_gateway: str = _url("https://ipfs.arke.institute", "Gateway of which their components are asked.")
    arke_schemas: Path | None = _setting(
        None,
        _Spec("path", "Folder of the official XML schemas.", computed="where `arke schemas fetch` puts them"),
    )
    export_unfinished_s: int = _whole(
        3600, "s", 10, 7 * 86_400, "An export that has no machine at work so long after its creation has failed."
    )
    export_kept_s: int = _whole(
        86_400, "s", 10, 365 * 86_400, "How long an export and its file are kept after its end."
    )
    export_remove_after_download: bool = _flag(
        False, "Remove an export once its file was downloaded as a whole; each can say otherwise."
    )
    export_removal_delay_s: int = _whole(
        120, "s", 0, 7 * 86_400, "How long after that: what was lost on the way can be downloaded again until then."
    )

    # Machines
    machine_provider: str = _text("ray", "Who runs the workers.", choices=("ray", "subprocess", "fly", "external"))
    max_machines: int = _whole(
        0, "machines", 1, 100_000, "Most machines at a time.", computed="one per core; 1000 on Fly"
    )
    max_machines_tiff: int = _whole(
        0, "machines", 1, 100_000, "The same for machines that convert TIFFs.", computed="MAX_MACHINES"
    )
    max_machines_mods: int = _whole(
        0, "machines", 1, 100_000, "The same for machines that export metadata.", computed="MAX_MACHINES"
    )
    max_machines_zip: int = _whole(
        0, "machines", 1, 100_000, "The same for machines that make archives.", computed="MAX_MACHINES"
    )
    worker_concurrency: int = _whole(
        2, "tasks", 1, 64, "Tasks that one machine has in hand: one is downloaded while another is converted."
    )
    worker_presigned: bool = _flag(
        False,
        "Give workers presigned URLs of their task's objects, and machines no keys. With S3 only; the original workers "
        "need the keys.",
    )
    worker_contract: str = _text(
        "ours",
        "Whose worker the machines run. One of the originals does one task, and ends; it asks for nothing.",
        choices=("ours", "original"),
    )

    # Machines of Fly.io, with MACHINE_PROVIDER=fly
    fly_api_url: str = _url(
        "https://api.machines.dev/v1", "The Machines API. Inside Fly's network: http://_api.internal:4280/v1."
    )
    fly_api_token: str | None = _text(
        None, "Token of the Machines API, as `fly tokens create` prints it.", secret=True, pattern="[!-~]+( [!-~]+)*"
    )
    fly_app_name: str = _text("arke-tiff-worker", "App in which machines are made.", pattern=FLY_APP)
    fly_app_names: tuple[str, ...] = _words(
        "Apps in which machines are made: Fly makes one machine a second in each.",
        computed="FLY_APP_NAME",
        pattern=FLY_APP,
    )
    fly_app_name_mods: str = _text("", "The same for metadata exports.", computed="FLY_APP_NAME", pattern=FLY_APP)
    fly_app_names_mods: tuple[str, ...] = _words(
        "The same for metadata exports.", computed="FLY_APP_NAME_MODS, else FLY_APP_NAMES", pattern=FLY_APP
    )
    fly_app_name_zip: str = _text("", "The same for archives.", computed="FLY_APP_NAME", pattern=FLY_APP)
    fly_app_names_zip: tuple[str, ...] = _words(
        "The same for archives.", computed="FLY_APP_NAME_ZIP, else FLY_APP_NAMES", pattern=FLY_APP
    )
    fly_worker_image: str | None = _text(None, "Image of the machines, best with its digest.")
    fly_worker_image_mods: str | None = _text(None, "The same for metadata exports.", computed="FLY_WORKER_IMAGE")
    fly_worker_image_zip: str | None = _text(None, "The same for archives.", computed="FLY_WORKER_IMAGE")
    fly_region: str = _text("ord", "Region of the machines.", pattern=FLY_REGION)
    fly_regions: tuple[str, ...] = _words(
        "Regions of the machines: where one has no place, the next is asked.", computed="FLY_REGION", pattern=FLY_REGION
    )
    fly_creations_per_s: int = _whole(
        1, "machines per s", 1, 10_000, "Fly's limit of creations in each app: 1, unless it was raised for you."
    )
    machine_prices: tuple[str, ...] = _words(
        "Dollars per second of a running Fly machine by its size, such as shared-2x-1024=0.0000024: batches tell what "
        "they cost.",
        pattern=r"(shared|performance)-[0-9]{1,2}x-[0-9]{3,6}=[0-9]{0,3}(\.[0-9]{1,12})?(?<!=)",
    )
    machine_pool: int = _whole(
        0,
        "machines",
        0,
        100_000,
        "Machines of each kind that are made ahead and wait stopped: started at once.",
    )
    machine_pool_tiff: int = _whole(
        -1, "machines", 0, 100_000, "The same for machines that convert TIFFs.", computed="MACHINE_POOL"
    )
    machine_pool_mods: int = _whole(
        0, "machines", 0, 100_000, "The same for machines that export metadata. MACHINE_POOL does not count here."
    )
    machine_pool_zip: int = _whole(
        0, "machines", 0, 100_000, "The same for machines that make archives. MACHINE_POOL does not count here."
    )
    fly_cpu_burst_ms: int = _whole(
        5000, "ms", 0, LARGEST_MS, "What a new shared processor may use at full speed: then its machine is spent."
    )
    fly_cpu_rate: int = _whole(62, "ms per s", 0, 1000, "So much more in each second of its age.")
    worker_cpu_kind: str = _text(
        "shared", "Processors of a Fly machine: shared ones slow down after a burst.", choices=("shared", "performance")
    )
    worker_cpus: int = _whole(2, "cpus", 1, 16, "Processors of a Fly machine.")
    worker_memory_mb: int = _whole(
        1024,
        "MB",
        256,
        131_072,
        "Memory of a Fly machine. Its worker uses what it finds there: this is not passed on to it.",
    )
    worker_memory_max_mb: int = _whole(
        8192,
        "MB",
        256,
        131_072,
        "Where a Fly machine runs out of memory, the next one for its tasks has twice as much, but no more than this.",
    )
    worker_cpu_kind_tiff: str = _text(
        "", "The same for machines that convert TIFFs.", choices=("shared", "performance"), computed="WORKER_CPU_KIND"
    )
    worker_cpus_tiff: int = _whole(
        0, "cpus", 1, 16, "The same for machines that convert TIFFs.", computed="WORKER_CPUS"
    )
    worker_memory_mb_tiff: int = _whole(
        0, "MB", 256, 131_072, "The same for machines that convert TIFFs.", computed="WORKER_MEMORY_MB"
    )
    worker_cpu_kind_mods: str = _text(
        "", "The same for metadata exports.", choices=("shared", "performance"), computed="WORKER_CPU_KIND"
    )
    worker_cpus_mods: int = _whole(0, "cpus", 1, 16, "The same for metadata exports.", computed="WORKER_CPUS")
    worker_memory_mb_mods: int = _whole(
        0, "MB", 256, 131_072, "The same for metadata exports.", computed="WORKER_MEMORY_MB"
    )
    worker_cpu_kind_zip: str = _text(
        "", "The same for archives.", choices=("shared", "performance"), computed="WORKER_CPU_KIND"
    )
    worker_cpus_zip: int = _whole(0, "cpus", 1, 16, "The same for archives.", computed="WORKER_CPUS")
    worker_memory_mb_zip: int = _whole(0, "MB", 256, 131_072, "The same for archives.", computed="WORKER_MEMORY_MB")

    # Tasks: the originals' names, milliseconds
    batch_size_tiff_conversion: int = _whole(
        1000, "tasks", 1, 100_000, "Most tasks for which a batch asks the fleet in one turn."
    )
    alarm_delay_tiff_conversion: int = _whole(
        5000, "ms", 100, LARGEST_MS, "How often a running batch looks at its tasks."
    )
    alarm_delay_error_retry: int = _whole(
        30_000, "ms", 1, LARGEST_MS, "Cap of the wait before another try: min(cap, 1000·2^n), with full jitter."
    )
    task_timeout_tiff_conversion: int = _whole(
        60_000, "ms", 1000, LARGEST_MS, "Silence after which a task's machine is inspected."
    )
    task_max_ms_tiff: int = _whole(600_000, "ms", 1000, LARGEST_MS, "Longest a task may run, signs of life or not.")
    task_timeout_mods: int = _whole(60_000, "ms", 1000, LARGEST_MS, "The same silence, of an export.")
    task_max_ms_mods: int = _whole(21_600_000, "ms", 1000, LARGEST_MS, "Longest that an export may run.")
    task_timeout_zip: int = _whole(60_000, "ms", 1000, LARGEST_MS, "The same silence, of an archive.")
    task_max_ms_zip: int = _whole(21_600_000, "ms", 1000, LARGEST_MS, "Longest that an archive may take.")
    boot_timeout_ms: int = _whole(60_000, "ms", 1000, LARGEST_MS, "Time from spawn to a machine's first sign of life.")
    max_retry_attempts: int = _whole(5, "tries", 1, 100, "Tries of one task before it has failed.")
    spawn_give_up_s: int = _whole(
        600, "s", 1, 86_400, "How long the provider may refuse machines before the batch ends in ERROR."
    )

    # Batches
    max_active_batches: int = _whole(
        16, "batches", 1, 1000, "Batches with an actor, thus a process (some 50 MB), of their own."
    )
    small_batch_tasks: int = _whole(
        50, "tasks", 0, 100_000, "A batch of at most this many shares an actor when no slot is free."
    )
    shared_hosts: int = _whole(2, "actors", 1, 64, "Standing actors that small batches share.")
    max_body_bytes: int = _whole(32 << 20, "bytes", 1024, 1 << 30, "Largest request body.")
    max_files_per_batch: int = _whole(5_000_000, "files", 1, 100_000_000, "Most files in one batch.")
    intake_timeout_s: int = _whole(300, "s", 1, 86_400, "An intake that nobody continues for so long has failed.")
    hibernate_after_s: int = _whole(60, "s", 1, 86_400, "An actor with nothing due for so long exits.")
    delivery_give_up_s: int = _whole(86_400, "s", 1, 30 * 86_400, "How long the final callback is tried.")
    retention_days: int = _whole(30, "days", 1, 3650, "How long rows are kept after a job's end.")

    @classmethod
    def load(cls, environ: Mapping[str, str], **overrides: Any) -> Self:
        """Read the settings; `overrides` (by field, None = not given) count more than the environment.

        Raises InvalidSetting for a value that is not allowed.
        """
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            text = environ.get(field.name.upper(), "").strip()
            given = overrides.pop(field.name, None)
            if given is not None:
                text = ",".join(given) if isinstance(given, tuple) else str(given)
            if text:
                values[field.name] = _parse(field.name.upper(), text, field.metadata["spec"])
        if overrides:
            raise TypeError(f"no such setting: {', '.join(overrides)}")
        return cls(**values)

    def __post_init__(self) -> None:
        most = self.max_machines or (FLY_MACHINES if self.machine_provider == "fly" else os.cpu_count() or 1)
        computed = {
            "data_dir": Path(self.data_dir).expanduser().absolute(),
            "orchestrator_url": self.orchestrator_url.rstrip("/") or f"http://{_reachable(self.host)}:{self.port}",
            "worker_url": self.worker_url.rstrip("/") if self.worker_url else None,
            "max_machines": most,
            "max_machines_tiff": self.max_machines_tiff or most,
            "max_machines_mods": self.max_machines_mods or most,
            "max_machines_zip": self.max_machines_zip or most,
            "r2_bucket_mods": self.r2_bucket_mods or self.r2_bucket,
            "r2_bucket_zip": self.r2_bucket_zip or self.r2_bucket,
            "arke_api_url": self.arke_api_url.rstrip("/"),
            "ipfs_gateway": self.ipfs_gateway.rstrip("/"),
            "fly_api_url": self.fly_api_url.rstrip("/"),
            "fly_app_names": self._apps((), ""),
            "fly_app_names_mods": self._apps(self.fly_app_names_mods, self.fly_app_name_mods),
            "fly_app_names_zip": self._apps(self.fly_app_names_zip, self.fly_app_name_zip),
            "fly_worker_image_mods": self.fly_worker_image_mods or self.fly_worker_image,
            "fly_worker_image_zip": self.fly_worker_image_zip or self.fly_worker_image,
            "fly_regions": tuple(dict.fromkeys(self.fly_regions)) or (self.fly_region,),
            "machine_pool_tiff": self.machine_pool if self.machine_pool_tiff < 0 else self.machine_pool_tiff,
            "worker_cpu_kind_tiff": self.worker_cpu_kind_tiff or self.worker_cpu_kind,
            "worker_cpus_tiff": self.worker_cpus_tiff or self.worker_cpus,
            "worker_cpu_kind_mods": self.worker_cpu_kind_mods or self.worker_cpu_kind,
            "worker_cpus_mods": self.worker_cpus_mods or self.worker_cpus,
            "worker_memory_mb_mods": self.worker_memory_mb_mods or self.worker_memory_mb,
            "worker_cpu_kind_zip": self.worker_cpu_kind_zip or self.worker_cpu_kind,
            "worker_cpus_zip": self.worker_cpus_zip or self.worker_cpus,
            "worker_memory_mb_zip": self.worker_memory_mb_zip or self.worker_memory_mb,
            "worker_memory_mb_tiff": self.worker_memory_mb_tiff or self.worker_memory_mb,
        }
        for name, value in computed.items():
            object.__setattr__(self, name, value)
        if self.arke_cluster_ports:
            first, last = map(int, self.arke_cluster_ports.split("-"))
            if not 1024 <= first <= last <= 65_535:
                raise InvalidSetting("ARKE_CLUSTER_PORTS", "two ports from 1024 to 65535, the lower one first")
        if self.uses_s3 and not (self.r2_access_key_id and self.r2_secret_access_key):
            raise InvalidSetting(
                "R2_ACCESS_KEY_ID and R2_SECRET_ACCESS_KEY", "set where R2_ACCOUNT_ID or R2_ENDPOINT_URL is"
            )
        if self.worker_presigned and not self.uses_s3:
            raise InvalidSetting(
                "WORKER_PRESIGNED", "false unless R2_ACCOUNT_ID or R2_ENDPOINT_URL is set: a local folder has no URLs"
            )
        if self.worker_presigned and self.worker_contract == "original":
            raise InvalidSetting("WORKER_PRESIGNED", "false while WORKER_CONTRACT is original: those workers need keys")
        if self.worker_contract == "original" and self._has_pool:
            raise InvalidSetting(
                "MACHINE_POOL", "0 while WORKER_CONTRACT is original: those workers do not ask for work"
            )
        if self.machine_provider != "fly" and self._has_pool:
            raise InvalidSetting("MACHINE_POOL", "0 unless MACHINE_PROVIDER is fly: only Fly.io keeps machines stopped")

    @property
    def _has_pool(self) -> bool:
        return bool(self.machine_pool or self.machine_pool_tiff or self.machine_pool_mods or self.machine_pool_zip)

    def _apps(self, names: tuple[str, ...], name: str) -> tuple[str, ...]:
        """Those of one kind, else those of all."""
        every = self.fly_app_names or (self.fly_app_name,)
        return tuple(dict.fromkeys(names or ((name,) if name else every)))

    @property
    def cluster_ports(self) -> range | None:
        """The ports on which actors listen in a cluster; None: any."""
        if not self.arke_cluster_ports:
            return None
        first, last = map(int, self.arke_cluster_ports.split("-"))
        return range(first, last + 1)

    @property
    def objects_dir(self) -> Path:
        """Root of the local object store; a bucket is a folder in it."""
        return self.data_dir / "objects"

    @property
    def store(self) -> Path | str:
        """The SQLite file, or the URL of Postgres, password and all."""
        if not self.database_url:
            return self.data_dir / "arke.db"
        is_file = self.database_url.startswith(SQLITE)
        return Path(self.database_url.removeprefix(SQLITE)) if is_file else self.database_url

    @property
    def log_dir(self) -> Path:
        """Folder of the logs: the service's, its standard error, and those of machines that are processes."""
        return self.data_dir / "logs"

    @property
    def run_dir(self) -> Path:
        """Folder of the unix sockets: short, since their path may have some 100 bytes, and one per data folder."""
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:10]
        return Path(tempfile.gettempdir()) / f"arke-{os.getuid()}-{digest}"

    @property
    def callback_secret_file(self) -> Path:
        """Where the secret is kept that is made when CALLBACK_SECRET is not set."""
        return self.data_dir / "callback.secret"

    @property
    def uses_s3(self) -> bool:
        """Whether objects are on an S3 server rather than in the local folder."""
        return bool(self.r2_endpoint_url or self.r2_account_id)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def prepare(self) -> None:
        """Make the folders. Raises InvalidSetting where that fails, or where the socket folder is another's."""
        try:
            for bucket in (self.r2_bucket, self.r2_bucket_mods, self.r2_bucket_zip):
                self.objects_dir.joinpath(bucket).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidSetting("DATA_DIR", f"a folder that can be written to ({error.strerror})") from error
        self.run_dir.mkdir(mode=0o700, exist_ok=True)
        found = self.run_dir.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise InvalidSetting("TMPDIR", f"a folder in which {self.run_dir.name} is yours alone (mode 0700)")

    def check_exposure(self) -> None:
        """Raise InvalidSetting when others could reach a service that has no keys."""
        if not self.is_loopback and not (self.api_keys and self.admin_key):
            raise InvalidSetting(
                "HOST",
                f"a loopback address such as 127.0.0.1 while API_KEYS and ADMIN_KEY are not both set, because anyone "
                f"who can reach {self.host} could otherwise read, cancel and reset every batch",
            )

    def to_environ(self) -> dict[str, str]:
        """The variables from which `load` makes these settings again; secrets included."""
        return {
            field.name.upper(): ",".join(value) if isinstance(value, tuple) else str(value)
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) not in (None, ())
        }

    def masked(self) -> dict[str, str]:
        """The same for people to read: secrets are shown as `***`."""
        secret = {f.name.upper() for f in dataclasses.fields(self) if f.metadata["spec"].secret}
        return {name: "***" if name in secret else value for name, value in self.to_environ().items()}


def reference_page() -> str:
    """docs/reference/settings.md, as `make docs` writes it."""
    return (
        "# Settings\n\n"
        "Environment variables. An empty one counts as not set; one that is not valid ends the start with a sentence\n"
        "that names it. This page is made from `actors/settings.py` by `make docs`.\n\n" + reference_table()
    )


def reference_table() -> str:
    """The table of all settings, in Markdown."""
    lines = ["| variable | default | unit | allowed | what it is for |", "| --- | --- | --- | --- | --- |"]
    for field in dataclasses.fields(Settings):
        spec: _Spec = field.metadata["spec"]
        cells = (f"`{field.name.upper()}`", _shown_default(field.default, spec), spec.unit or "-", _shown_allowed(spec))
        reason = spec.reason + (" Secret." if spec.secret else "")
        lines.append("| " + " | ".join((*cells, reason)) + " |")
    return "\n".join(lines) + "\n"


def _shown_default(default: object, spec: _Spec) -> str:
    if spec.computed:
        return spec.computed.replace("|", "\\|")
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return "-" if default in (None, ()) else f"`{default}`"


def _shown_allowed(spec: _Spec) -> str:
    return f"{spec.least} … {spec.most}" if spec.kind == "whole" else spec.allowed.replace("|", "\\|")


def _parse(variable: str, text: str, spec: _Spec) -> Any:
    """The value of `text`. Raises InvalidSetting; the text itself is never repeated, it may be a secret."""
    value = _PARSERS[spec.kind](text, spec)
    if value is None or (spec.choices and value not in spec.choices):
        raise InvalidSetting(variable, spec.allowed)
    return value


def _parse_text(text: str, spec: _Spec) -> str | None:
    if not text.isprintable():
        return None
    if spec.choices:
        return next((choice for choice in spec.choices if choice.lower() == text.lower()), None)
    return text if not spec.pattern or re.fullmatch(spec.pattern, text) else None


def _parse_whole(text: str, spec: _Spec) -> int | None:
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        return None
    return value if spec.least <= (value := int(text)) <= spec.most else None


def _parse_words(text: str, spec: _Spec) -> tuple[str, ...] | None:
    words = tuple(word.strip() for word in text.split(","))
    allowed = re.compile(spec.pattern or ".+")
    return words if all(word.isprintable() and allowed.fullmatch(word) for word in words) else None


def _parse_url(text: str, _spec: _Spec) -> str | None:
    return text if re.fullmatch(r"https?://[^\s/]+\S*", text) else None


_PARSERS: Final[dict[str, Any]] = {
    "text": _parse_text,
    "whole": _parse_whole,
    "words": _parse_words,
    "url": _parse_url,
    "flag": lambda text, _spec: FLAGS.get(text.lower()),
    "path": lambda text, _spec: Path(text) if "\0" not in text else None,
}


def _reachable(host: str) -> str:
    """The address by which this machine reaches what listens on `host`."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
