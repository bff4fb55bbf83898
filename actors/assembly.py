"""The parts of the engine put together from the settings; each process of the service builds the ones it needs."""

import asyncio
import hashlib
import ipaddress
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec

from actors import archives, telemetry, wire
from actors.archives import ArchiveRequest, Archives, Division
from actors.channels.base import Channel
from actors.channels.catalog import CatalogChannel
from actors.channels.final_callback import FinalCallback
from actors.clock import TimeSource, WallClock
from actors.directory import Directory, Ensure
from actors.errors import CANNOT_WRITE, ArkeError, CannotStart, Conflict, NotFound, Unavailable
from actors.exports import ExportRequest, Exports
from actors.fleet import SWEEP_MS, TICK_MS, Fleet
from actors.host import Host, task_environment
from actors.intake import Intake
from actors.machines.base import Provider
from actors.maintenance import admit, drain, expire, read_on, sweep, uploads, wake
from actors.maintenance.base import Activator, Report
from actors.network import Network, Tls
from actors.perform import Performer
from actors.phases import all_phases
from actors.presigning import Presigner
from actors.readers import Read
from actors.rules.batch import longest_wait_ms
from actors.rules.costs import Charge
from actors.rules.effects import Policy
from actors.rules.model import Job
from actors.rules.placement import ARCHIVES_ACTOR, EXPORTS_ACTOR
from actors.rules.states import JobState, TaskStatus
from actors.settings import Settings
from actors.signing import load_or_make_secret, machine_token, sign_download
from actors.store import PATIENCE_S, PatientWriteSide, Store
from actors.store.catalog_rows import Catalog, StorageFile
from actors.store.catalogs import open_catalog
from worker import objects as worker_objects
from worker.contract import Environment
from worker.limits import MB, cores, machine_memory
from worker.objects.uploads import Uploads

if TYPE_CHECKING:
    from actors.machines.fly import FlyOptions

TIFF = "tiff"
MODS = "mods"
ZIP = "zip"
KINDS = (TIFF, MODS, ZIP)
"""Kinds of work, each with settings of its own."""

HEALTH_TIMEOUT_S = 3.0
DOWNLOAD_S = 3600
"""How long a URL is valid that is given to somebody who downloads an archive."""
UNASKED_S = 60.0
"""How long the process of one batch stands without one."""
PLACE_LOOK_S = 10.0
"""How often an actor looks whether those who ask for it still come to it."""
MACHINES_SHARE = 0.75
"""Of this machine's memory, for all machines that run on it together; the rest is the service's."""


def policy(settings: Settings) -> Policy:
    """The numbers of the rules, for batches of files."""
    return Policy(
        max_attempts=settings.max_retry_attempts,
        task_timeout_ms=settings.task_timeout_tiff_conversion,
        boot_timeout_ms=settings.boot_timeout_ms,
        task_max_ms=settings.task_max_ms_tiff,
        alarm_delay_ms=settings.alarm_delay_tiff_conversion,
        backoff_cap_ms=settings.alarm_delay_error_retry,
        spawn_give_up_ms=settings.spawn_give_up_s * 1000,
        intake_timeout_ms=settings.intake_timeout_s * 1000,
        batch_size=settings.batch_size_tiff_conversion,
        memory_most_mb=settings.worker_memory_max_mb,
        delivery_give_up_ms=settings.delivery_give_up_s * 1000,
        delivers=settings.worker_url is not None,
        kinds={name: phase.kind for name, phase in all_phases().items()},
    )


def exports_policy(settings: Settings) -> Policy:
    """The same for exports: their tasks may take hours, nobody is told of their end, and they are removed after it."""
    return msgspec.structs.replace(
        policy(settings),
        task_timeout_ms=settings.task_timeout_mods,
        task_max_ms=settings.task_max_ms_mods,
        delivers=False,
        kept_ms=settings.export_kept_s * 1000,
        removal_delay_ms=settings.export_removal_delay_s * 1000,
        unfinished_ms=settings.export_unfinished_s * 1000,
    )


def archives_policy(settings: Settings) -> Policy:
    """The same for archives: each end is told to the catalog, and what was cancelled goes at once."""
    return msgspec.structs.replace(
        exports_policy(settings),
        task_timeout_ms=settings.task_timeout_zip,
        task_max_ms=settings.task_max_ms_zip,
        delivers=True,
        tells_each_end=True,
        kept_ms=settings.archive_kept_s * 1000,
        cancelled_kept_ms=0,
    )


def secrets(settings: Settings) -> tuple[str, ...]:
    """The accepted callback secrets, the one that signs first."""
    current = settings.callback_secret or load_or_make_secret(settings.callback_secret_file)
    return (current, settings.callback_secret_former) if settings.callback_secret_former else (current,)


def check(settings: Settings) -> None:
    """Make or read the secret, and open the database: what would end each actor that needs it, again and again.

    Raises CannotStart.
    """
    from actors.store.check import check as check_store  # SQL: other processes need none of it

    try:
        secrets(settings)
    except ValueError as error:
        raise CannotStart(f"In {settings.data_dir}: {error}") from error
    except OSError as error:
        raise CannotStart(f"{settings.callback_secret_file} cannot be used ({error.strerror}).") from error
    if settings.arke_cluster:
        _check_cluster(settings)
    if settings.machine_provider == "fly":
        check_fly(settings)
    check_store(settings.store)
    if settings.catalog_url:
        _check_catalog(settings.catalog_url)


def _check_cluster(settings: Settings) -> None:
    """What all nodes must have in common. Raises CannotStart."""
    if not settings.callback_secret:
        raise CannotStart("CALLBACK_SECRET must be set in a cluster, to the same on all nodes.")
    try:
        network(settings)
    except OSError as error:
        raise CannotStart(f"Ray's certificates cannot be used ({error.strerror or type(error).__name__}).") from error


def _check_catalog(url: str) -> None:
    """Raises CannotStart where it is none, or has not the columns. One that is away may come back."""
    from actors.store.foreign_catalog import ForeignCatalog

    async def look() -> None:
        found = ForeignCatalog(url)
        try:
            await found.check()
        except Unavailable as error:
            telemetry.warning("store.catalog_away", why=error)
        finally:
            await found.close()

    asyncio.run(look())


def check_fly(settings: Settings) -> None:
    """What machines of Fly need, and what they can reach. Raises CannotStart.

    An API on this computer stands in for the real one, and its machines are here: they need neither S3 nor a way in.
    """
    needed = {"FLY_API_TOKEN": settings.fly_api_token, "FLY_WORKER_IMAGE": settings.fly_worker_image}
    missing = [name for name, value in needed.items() if not value]
    if missing:
        raise CannotStart(
            f"MACHINE_PROVIDER=fly needs {' and '.join(missing)}: set {'it' if len(missing) == 1 else 'them'}."
        )
    _check_sizes(settings)
    if _is_here(settings.fly_api_url):
        return
    if _is_here(settings.orchestrator_url):
        raise CannotStart(
            f"Machines of Fly cannot reach {settings.orchestrator_url}: set ORCHESTRATOR_URL to an address of this "
            "service that they can."
        )
    if not settings.uses_s3:
        raise CannotStart(
            "Machines of Fly cannot reach the objects in DATA_DIR: set R2_ACCOUNT_ID or R2_ENDPOINT_URL, and its keys."
        )


def _check_sizes(settings: Settings) -> None:
    """Raises CannotStart where Fly has no machine of a size that is set: each task would be refused, one by one."""
    options = fly_options(settings)
    for kind, size in options.sizes.items() if options is not None else ():
        if size.fault is not None:
            suffix = f"_{kind.upper()}" if kind else ""
            names = f"WORKER_CPU_KIND{suffix}, WORKER_CPUS{suffix} and WORKER_MEMORY_MB{suffix}"
            raise CannotStart(f"Fly has no machine of this size: {size.fault}. Set {names}.")
        if size.memory_mb > settings.worker_memory_max_mb:
            raise CannotStart(
                f"WORKER_MEMORY_MAX_MB is below the {size.memory_mb} MB that a machine has to begin with: set it to "
                f"{size.memory_mb} (no machine gets more) or higher."
            )
    priced = Counter(each.partition("=")[0] for each in settings.machine_prices)
    if twice := [size for size, count in priced.items() if count > 1]:
        raise CannotStart(f"MACHINE_PRICES gives {twice[0]} two prices: leave one of them.")


def _is_here(url: str) -> bool:
    """Whether a URL is that of this computer, for this computer only."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def fly_options(settings: Settings) -> "FlyOptions | None":
    """What the provider of Fly's machines is told; None where it is not the one.

    Machines are told from those of another service by its name and the address that they call back to: no two have
    both in common.
    """
    if settings.machine_provider != "fly":
        return None
    from actors.machines.fly import FlyOptions, Size  # with it an HTTP client, which no other process needs

    digest = hashlib.sha256(settings.orchestrator_url.encode()).hexdigest()[:10]
    return FlyOptions(
        api_url=settings.fly_api_url,
        token=settings.fly_api_token or "",
        apps=settings.fly_app_names,
        kind_apps={MODS: settings.fly_app_names_mods, ZIP: settings.fly_app_names_zip},
        regions=settings.fly_regions,
        image=settings.fly_worker_image or "",
        kind_images={MODS: settings.fly_worker_image_mods or "", ZIP: settings.fly_worker_image_zip or ""},
        sizes={
            TIFF: Size(settings.worker_cpu_kind_tiff, settings.worker_cpus_tiff, settings.worker_memory_mb_tiff),
            MODS: Size(settings.worker_cpu_kind_mods, settings.worker_cpus_mods, settings.worker_memory_mb_mods),
            ZIP: Size(settings.worker_cpu_kind_zip, settings.worker_cpus_zip, settings.worker_memory_mb_zip),
            "": Size(settings.worker_cpu_kind, settings.worker_cpus, settings.worker_memory_mb),
        },
        service=f"{settings.service_name}-{digest}",
        creations_per_s=settings.fly_creations_per_s,
        cpu_burst_s=settings.fly_cpu_burst_ms / 1000,
        cpu_rate=settings.fly_cpu_rate / 1000,
    )


def store(settings: Settings, *, reads_file: bool = True, patient: bool = False, inline: bool = False) -> Store:
    """The store as every process but its owner sees it: writes over the socket, reads from the file or, in processes
    that read little and start often, over the socket too. `patient`: as the front has it, whose callers wait.

    Postgres has no owner: each process writes and reads by itself.
    """
    if isinstance(settings.store, str):
        return _in_postgres(settings.store, PATIENCE_S if patient else 0.0)
    owner = wire.Client(wire.socket_path(settings.run_dir, "store"))
    return Store(PatientWriteSide(owner) if patient else owner, settings.store if reads_file else None, inline=inline)


def _in_postgres(url: str, patience_s: float) -> Store:
    from actors.store.postgres_reads import PostgresReads  # SQL, which most processes do without where it is a file
    from actors.store.postgres_writer import PostgresWriter

    writer = PostgresWriter(url, patience_s=patience_s)
    return Store(writer, reads=PostgresReads(url, patience_s=patience_s), end_write=writer.close)


def bucket(settings: Settings, kind: str) -> str:
    """Where the objects of a kind of work are."""
    return {MODS: settings.r2_bucket_mods, ZIP: settings.r2_bucket_zip}.get(kind, settings.r2_bucket)


def task_bounds_ms(settings: Settings, kind: str) -> tuple[int, int]:
    """For a task of this kind: the silence after which its machine is inspected, and the longest it may run."""
    if kind == MODS:
        return settings.task_timeout_mods, settings.task_max_ms_mods
    if kind == ZIP:
        return settings.task_timeout_zip, settings.task_max_ms_zip
    return settings.task_timeout_tiff_conversion, settings.task_max_ms_tiff


def object_environment(settings: Settings, kind: str = TIFF) -> Environment:
    """Where the objects of a kind of work are, and the keys to them."""
    if not settings.uses_s3:
        return {"OBJECTS_DIR": str(settings.objects_dir), "R2_BUCKET": bucket(settings, kind)}
    given = {
        "R2_ACCOUNT_ID": settings.r2_account_id,
        "R2_ENDPOINT_URL": settings.r2_endpoint_url,
        "R2_ACCESS_KEY_ID": settings.r2_access_key_id,
        "R2_SECRET_ACCESS_KEY": settings.r2_secret_access_key,
        "R2_BUCKET": bucket(settings, kind),
    }
    return {name: value for name, value in given.items() if value}


def shared_object_environment(settings: Settings, kind: str = TIFF) -> Environment:
    """What leaves the service of that: with WORKER_PRESIGNED neither the place nor the keys."""
    if settings.worker_presigned:
        return {"R2_BUCKET": bucket(settings, kind)}
    return object_environment(settings, kind)


def presigner(settings: Settings, kind: str = TIFF) -> Presigner | None:
    """What signs the URLs of the objects of a task of this kind; None where workers have the keys or the folder.

    A URL outlives its task: the machine's boot, a silence, and the longest download, conversion and upload, each of
    which a worker ends by itself after TASK_MAX_MS of its kind, the last try of an upload included.
    """
    if not settings.worker_presigned:
        return None
    silence_ms, most_ms = task_bounds_ms(settings, kind)
    return _signs(settings, kind, (settings.boot_timeout_ms + silence_ms + 3 * most_ms) // 1000)


def _signs(settings: Settings, kind: str, expires_s: int) -> Presigner:
    return Presigner(
        worker_objects.endpoint(object_environment(settings, kind)),
        bucket(settings, kind),
        access_key_id=settings.r2_access_key_id or "",
        secret=settings.r2_secret_access_key or "",
        expires_s=expires_s,
        clock=WallClock(),
    )


def directory(settings: Settings, opened: Store, ensure: Ensure) -> Directory:
    """One process's way to all actors."""
    return Directory(
        store=opened,
        run_dir=settings.run_dir,
        ensure=ensure,
        max_active=settings.max_active_batches,
        small_tasks=settings.small_batch_tasks,
        hosts=settings.shared_hosts,
        network=network(settings),
    )


def network(settings: Settings) -> Network | None:
    """How actors reach each other between nodes; None on one host, where they have sockets in a folder.

    Raises OSError where Ray's certificates are to be used and cannot be read.
    """
    if not settings.arke_cluster:
        return None
    return Network(secrets(settings), tls=Tls.of_ray(os.environ), ports=settings.cluster_ports)


class ObjectStore(worker_objects.ObjectStore, Uploads, Protocol):
    """One that takes uploads in parts, as those of the service do."""


def objects(settings: Settings, kind: str = TIFF) -> ObjectStore:
    """The object store of a kind of work."""
    opened: Any = worker_objects.from_environment(object_environment(settings, kind))
    return opened  # type: ignore[no-any-return]


def intake(settings: Settings, opened: Store, clock: TimeSource, kept: ObjectStore | None = None) -> Intake:
    """What takes batches in."""
    return Intake(
        store=opened,
        objects=kept or objects(settings),
        clock=clock,
        max_files=settings.max_files_per_batch,
        timeout_ms=settings.intake_timeout_s * 1000,
        default_phases=("TIFF_CONVERSION",),
    )


def host(
    name: str,
    settings: Settings,
    opened: Store,
    way: Directory,
    clock: TimeSource,
    on_idle: Callable[[], None] | None = None,
    *,
    kept: ObjectStore | None = None,
    channel: Channel | None = None,
    rng: random.Random | None = None,
) -> Host:
    """What runs the loops of jobs in one process. A simulation hands in objects, receiver and randomness."""
    if name.startswith(ARCHIVES_ACTOR):
        runs = _archives_of(settings, opened, way, clock, kept)
    elif name.startswith(EXPORTS_ACTOR):
        runs = Runs(MODS, exports_policy(settings), None, kept or objects(settings, MODS), None)
    else:
        runs = _batches_of(settings, opened, way, clock, kept, channel)
    signs = presigner(settings, runs.kind)
    return Host(
        name=name,
        store=opened,
        perform=Performer(store=opened, call_fleet=way.fleet, channel=runs.channel, objects=runs.objects),
        policy=runs.policy,
        clock=clock,
        rng=rng or random.Random(),
        callback_base=settings.orchestrator_url,
        secret=secrets(settings)[0],
        hibernate_after_ms=settings.hibernate_after_s * 1000,
        continue_intake=runs.read,
        on_idle=on_idle,
        with_urls=signs.with_urls if signs is not None else None,
        more_env={} if runs.kind == TIFF else {"R2_BUCKET": bucket(settings, runs.kind)},
    )


class Runs(NamedTuple):
    """What the jobs of one host have in common: the kind of their tasks, the numbers of their rules, who is told of
    their end, the objects that are removed with them, and how their lists are read."""

    kind: str
    policy: Policy
    channel: Channel | None
    objects: ObjectStore | None
    read: Read | None


def _batches_of(
    settings: Settings, opened: Store, way: Directory, clock: TimeSource, kept: ObjectStore | None,
    channel: Channel | None,
) -> Runs:  # fmt: skip
    if channel is None and settings.worker_url:
        channel = FinalCallback(settings.worker_url, opened)
    taking_in = intake(settings, opened, clock, kept)

    async def read_prefix(job: Job) -> None:
        queued = await taking_in.read_prefix(job)
        if queued.state is JobState.QUEUED:
            await way.admit(queued, clock.now())

    return Runs(TIFF, policy(settings), channel, None, lambda job: asyncio.ensure_future(read_prefix(job)))


def _archives_of(
    settings: Settings, opened: Store, way: Directory, clock: TimeSource, kept: ObjectStore | None
) -> Runs:
    from actors.verifying import Limits, Verifying  # with it the worker's writer of archives, which no other host needs

    stored, listed_by = kept or objects(settings, ZIP), catalog(settings, opened)
    verifying = Verifying(
        store=opened,
        objects=stored,
        clock=clock,
        listing=lambda job: archives.listing(job, stored, listed_by),
        limits=Limits(
            files=settings.max_files_per_batch,
            delay_ms=settings.zip_chunk_delay,
            timeout_ms=settings.intake_timeout_s * 1000,
            unfinished_ms=settings.export_unfinished_s * 1000,
        ),
    )

    async def verify(job: Job) -> None:
        await archives.note(listed_by, job, "processing")
        queued = await verifying.read(job)
        way.wake(queued.id)

    channel = CatalogChannel(opened, stored, listed_by)
    return Runs(ZIP, archives_policy(settings), channel, stored, lambda job: asyncio.ensure_future(verify(job)))


def catalog(settings: Settings, opened: Store) -> Catalog:
    """Where it is written whose files are where, for archives of them."""
    return open_catalog(settings.catalog_url, opened)


def machine_environment(settings: Settings, kind: str = TIFF) -> Environment:
    """What every machine for a kind of work has in its environment, beside its own name and token. The workers of the
    originals read only where the objects are, and the archive."""
    archive = archive_environment(settings) if kind == MODS else {}
    if settings.worker_contract == "original":
        return object_environment(settings, kind) | archive
    silence_ms, most_ms = task_bounds_ms(settings, kind)
    common = (
        shared_object_environment(settings, kind)
        | archive
        | {
            "CLAIM_URL": f"{settings.orchestrator_url}/machines/claim",
            "WORKER_CONCURRENCY": str(settings.worker_concurrency),
            "WORKER_TASK_MAX_S": str(max(1, most_ms // 1000)),
            # Four signs of life within the time after which silence counts as death.
            "WORKER_HEARTBEAT_S": str(max(1, silence_ms // 4000)),
        }
    )
    if settings.worker_presigned:
        common["WORKER_PRESIGNED"] = "true"
    if settings.machine_provider in ("ray", "subprocess"):  # the machines share the cores and the memory of this one
        common["WORKER_CONVERSIONS"] = str(max(1, cores() // settings.max_machines))
        common["WORKER_MEMORY_MB"] = str(max(1, int(machine_memory() * MACHINES_SHARE / MB) // settings.max_machines))
    return common


def archive_environment(settings: Settings) -> Environment:
    """Where the entities are, for machines that export them. The folder of the schemas is one of this computer."""
    given = {"ARKE_API_URL": settings.arke_api_url, "IPFS_GATEWAY": settings.ipfs_gateway}
    if settings.machine_provider in ("ray", "subprocess") and settings.arke_schemas is not None:
        given["ARKE_SCHEMAS"] = str(settings.arke_schemas)
    return given


def prices(settings: Settings) -> Callable[[str, int | None], int | None]:
    """What a machine for a kind of work costs that must have so much memory: 10^-9 dollars a second, None where
    MACHINE_PRICES does not say."""
    options = fly_options(settings)
    if options is None:
        return lambda kind, memory_mb: None
    known = {size: round(float(price) * 1e9) for size, price in (each.split("=") for each in settings.machine_prices)}
    return lambda kind, memory_mb: known.get(options.size(kind, memory_mb).name)


def fleet(
    settings: Settings,
    opened: Store,
    way: Directory,
    clock: TimeSource,
    provider: Provider,
    *,
    rng: random.Random | None = None,
    tick_ms: int = TICK_MS,
    sweep_ms: int = SWEEP_MS,
) -> Fleet:
    """What owns the machines."""
    secret, common = secrets(settings)[0], {kind: machine_environment(settings, kind) for kind in KINDS}
    return Fleet(
        opened,
        provider,
        call_host=way.call,
        base_env=lambda machine, kind: (
            common.get(kind, common[TIFF])
            | {
                "MACHINE_NAME": machine,
                "MACHINE_TOKEN": machine_token(secret, machine),
            }
        ),
        now=clock.now,
        max_machines=settings.max_machines,
        concurrency=settings.worker_concurrency if settings.worker_contract == "ours" else 1,
        pool={
            TIFF: settings.machine_pool_tiff,
            MODS: settings.machine_pool_mods,
            ZIP: settings.machine_pool_zip,
        },
        most_of={
            TIFF: settings.max_machines_tiff,
            MODS: settings.max_machines_mods,
            ZIP: settings.max_machines_zip,
        },
        price_of=prices(settings),
        rng=rng,
        tick_ms=tick_ms,
        sweep_ms=sweep_ms,
    )


class Duty:
    """One duty of maintenance and its interval in seconds."""

    def __init__(self, name: str, every_s: float, run_once: Callable[[], Awaitable[Report]]):
        self.name, self.every_s, self.run_once = name, every_s, run_once


def duties(
    settings: Settings, opened: Store, way: Directory, clock: TimeSource, *, kept: ObjectStore | None = None
) -> list[Duty]:
    """All duties of the service. A simulation hands in the objects."""

    activate = Activator(lambda job_id: way.call(job_id, {"op": "activate"}))

    async def wake_intake(job: Job) -> None:
        await activate(job.id)  # goes on with a prefix; its alarm fails a list that nobody continues

    async def admitting() -> Report:
        return await admit.run_once(
            opened,
            activate,
            wake_intake,
            now=clock.now(),
            max_active=settings.max_active_batches,
            small_tasks=settings.small_batch_tasks,
            shared_hosts=settings.shared_hosts,
            intake_timeout_ms=settings.intake_timeout_s * 1000,
        )

    stored = kept or objects(settings, ZIP)
    longest_ms = max(longest_wait_ms(policy(settings), state) for state in JobState if state is not JobState.RECEIVING)
    return [
        Duty("wake", 1.0, lambda: wake.run_once(opened, activate, now=clock.now(), longest_ms=longest_ms)),
        Duty("admit", 1.0, admitting),
        Duty("read_on", 1.0, lambda: read_on.run_once(opened, activate)),
        Duty("expire", 60.0, lambda: expire.run_once(opened, now=clock.now(), retention_days=settings.retention_days)),
        Duty("uploads", 300.0, lambda: uploads.run_once(opened, stored)),
        Duty("sweep", 30.0, lambda: sweep.run_once(way.fleet, settings.data_dir / "logs", now=clock.now())),
    ]


def draining(nodes: drain.Nodes, me: str) -> Duty:
    """The duty that only a cluster has; `me` is the actor that runs it."""
    return Duty(drain.DUTY, drain.EVERY_S, lambda: drain.run_once(nodes, me=me))


async def rounds(duty: Duty) -> None:
    """Run a duty until cancelled. A round that fails, whatever it raises, is logged; the next comes after the interval.

    It comes at once after a round that left something undone, if that one did something and nothing of it failed.
    """
    while True:
        try:
            report = await duty.run_once()
            if report.done or report.failed:
                telemetry.event(f"duty.{duty.name}", done=report.done, failed=report.failed)
            again_at_once = report.more and report.done > 0 and not report.failed
        except (ArkeError, OSError) as error:  # a part that starts again
            telemetry.warning(f"duty.{duty.name}_failed", why=type(error).__name__)
            again_at_once = False
        except Exception:  # noqa: BLE001 - a bug in one round must not end the duty for ever
            telemetry.fault(f"duty.{duty.name}_broken")
            again_at_once = False
        if not again_at_once:
            await asyncio.sleep(duty.every_s)


async def leave_when_idle(host: Host, leave: Callable[[], None], every_s: float = UNASKED_S) -> None:
    """Leave if nothing runs when it is looked at. Ray starts an actor again that died when its job was over: nobody
    asks it for anything, so no loop ends there."""
    while True:
        await asyncio.sleep(every_s)
        if host.idle:
            leave()
            return


async def leave_when_displaced(is_in_place: Callable[[], bool], leave: Callable[[], None]) -> None:
    """Leave once nobody comes here any more who asks for this actor. If it is the one that should be asked, Ray starts
    it again; if another one has its name, nothing is lost.

    For sockets in a folder: in a cluster nobody can take an actor's address from it (`leave_when_node_is_lost`)."""
    while is_in_place():  # noqa: ASYNC110  (a file, which sends no event)
        await asyncio.sleep(PLACE_LOOK_S)
    telemetry.warning("arke.place_taken")
    leave()


async def leave_when_node_is_lost(is_known: Callable[[], bool], leave: Callable[[], None]) -> None:
    """Leave when Ray has taken this node for dead, and started its actors elsewhere: it was suspended, or cut off. Who
    remembers this address would still come here. `is_known` may block."""
    while await asyncio.to_thread(is_known):  # noqa: ASYNC110  (as above)
        await asyncio.sleep(PLACE_LOOK_S)
    telemetry.warning("arke.node_lost")
    leave()


async def patiently(operation: Callable[[], Awaitable[None]]) -> None:
    """Repeat while the store is starting."""
    while True:
        try:
            return await operation()
        except (ConnectionError, Unavailable, FileNotFoundError):
            await asyncio.sleep(0.2)


class Engine:
    """The engine as the front sees it (`orchestrator.routing.Engine`)."""

    def __init__(
        self, settings: Settings, opened: Store, way: Directory, clock: TimeSource, kept: ObjectStore | None = None,
        token: Callable[[], str] | None = None,
    ):  # fmt: skip
        self.settings = settings
        self.secrets = secrets(settings)
        self.store = opened
        self._clock = clock
        self._directory = way
        self._objects = kept or objects(settings)
        self._intake = intake(settings, opened, clock, self._objects)
        self._exports = Exports(
            store=opened, clock=clock, unfinished_ms=settings.export_unfinished_s * 1000, token=token
        )
        self._kept = {TIFF: self._objects}
        for kind in (MODS, ZIP):
            is_one = bucket(settings, kind) == bucket(settings, TIFF)
            self._kept[kind] = self._objects if is_one else kept or objects(settings, kind)
        self._catalog = catalog(settings, opened)
        self._archives = Archives(
            store=opened, objects=self._kept[ZIP], catalog=self._catalog, clock=clock,
            timeout_ms=settings.intake_timeout_s * 1000,
            division=Division(settings.part_size_limit, settings.part_files_limit, settings.max_files_per_batch),
            token=token,
        )  # fmt: skip

    async def call(self, job_id: str, request: dict[str, Any]) -> Any:
        """Have the owner of the job handle `request`; a new run is given a place at once."""
        reply = await self._directory.call(job_id, request)
        if request["op"] == "retry":
            job = await self.store.job(job_id)
            if job is not None and job.state is JobState.QUEUED:
                await self._directory.admit(job, self._clock.now())
        return reply

    async def costs(self, job_id: str) -> Charge:
        """What the machines of a job have cost by now."""
        return await self.store.costs(job_id, self._clock.now())

    async def fleet(self, request: dict[str, Any]) -> Any:
        """Have the fleet handle `request`."""
        return await self._directory.fleet(request)

    async def create(self, body: dict[str, Any] | bytes, owner: str | None) -> tuple[Job, bool]:
        """Take a batch in, give it a place if one is free, and begin to read a prefix."""
        job, began = await self._intake.create(body, owner)
        if job.state is JobState.QUEUED:
            await self._directory.admit(job, self._clock.now())
        elif job.state is JobState.RECEIVING and job.source_cursor is not None:
            self._directory.wake(job.id)
        return job, began

    async def export(self, wanted: ExportRequest, owner: str | None) -> tuple[Job, list[str]]:
        """Take exports in; they have their place at once."""
        job, task_ids = await self._exports.create(wanted, owner)
        self._directory.wake(job.id)
        return job, task_ids

    async def archive(self, wanted: ArchiveRequest, owner: str | None) -> Job:
        """Take an archive in, and begin to verify its files."""
        if self.settings.worker_presigned:
            raise Conflict(
                "Machines that make archives need the keys of the object store: WORKER_PRESIGNED keeps them."
            )
        job = await self._archives.create(wanted, owner)
        self._directory.wake(job.id)
        return job

    def now(self) -> int:
        """The time, in milliseconds since 1970 UTC."""
        return self._clock.now()

    def download_url(self, export_id: str, r2_key: str | None, part: int | None = None) -> str:
        """Where the archive under this key can be fetched for a while without a key of the service: with S3 from there,
        else from the service, `part` of the export or the only one. None: the index of its parts."""
        if self.settings.uses_s3 and r2_key is not None:
            return _signs(self.settings, ZIP, DOWNLOAD_S).url("GET", r2_key)
        url = f"{self.settings.orchestrator_url}/download/{export_id}" + (f"/{part}" if part is not None else "")
        if not self.settings.api_keys:
            return url
        until = self._clock.now() + DOWNLOAD_S * 1000
        return f"{url}?until={until}&sig={sign_download(self.secrets[0], export_id, until)}"

    async def add_files(self, files: list[StorageFile]) -> None:
        """Add to the service's own catalog. Raises Conflict where it has none, or another file has a key."""
        if self.settings.catalog_url:
            raise Conflict("The catalog is that of CATALOG_URL: files are added there.")
        await self.store.add_storage_files(files)

    @property
    def catalog(self) -> Catalog:
        """Whose files are where, and their exports."""
        return self._catalog

    @property
    def export_objects(self) -> ObjectStore:
        """Where the files of exports are. Its methods block."""
        return self._kept[MODS]

    @property
    def archive_objects(self) -> ObjectStore:
        """Where archives are. Its methods block."""
        return self._kept[ZIP]

    async def task_environment(self, job_id: str, task_id: str) -> dict[str, str]:
        """The environment of a task for running a worker by hand, signed for its open attempt. With WORKER_PRESIGNED
        whoever runs it brings the access to the objects."""
        job = await self.store.job(job_id)
        rows = await self.store.tasks(job_id, [task_id])
        if job is None or not rows:
            raise NotFound("No task has this id.")
        if rows[0].status is not TaskStatus.PROCESSING:
            raise Conflict(f"The task is {rows[0].status}: only a task that was taken has an attempt to report on.")
        kind = all_phases()[job.phases[rows[0].phase]].kind
        more = shared_object_environment(self.settings, kind)
        if kind == MODS:
            more |= archive_environment(self.settings)
        return task_environment(self.settings.orchestrator_url, self.secrets[0], job, rows[0]) | more

    async def health(self) -> dict[str, str]:
        """`ok`, or one sentence, for the store and the objects."""
        starts_again = isinstance(self.settings.store, Path)  # Postgres is not ours to start, nor mended by our restart
        silence = "The store does not answer; it is being started again." if starts_again else CANNOT_WRITE
        return {
            "store": await _checked(self.store.ping(), silence),
            "objects": await _checked(
                asyncio.to_thread(self._objects.list, "", None, 1), "The object store does not answer."
            ),
        }


async def _checked(check: Any, sentence: str) -> str:
    try:
        await asyncio.wait_for(check, HEALTH_TIMEOUT_S)
    except Unavailable as error:  # says what does not go
        return error.message
    except Exception:  # noqa: BLE001 - health tells, whatever is wrong
        return sentence
    return "ok"
