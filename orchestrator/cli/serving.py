"""Commands that run the service: serve, and demo, which also converts a sample batch."""

import datetime
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from actors import telemetry
from actors.settings import InvalidSetting, Settings
from orchestrator.cli.export_report import Display, show_metrics
from orchestrator.cli.remote import Remote, counts
from orchestrator.cli.watching import follow
from orchestrator.client import ArkeClient, ClientError
from orchestrator.supervisor import CannotServe, Ready, Supervisor, handle_signals

LOOK_EVERY_S: Final = 0.5


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--no-dashboard", is_flag=True, help="Do not start Ray's dashboard."),
        click.option(
            "--log",
            help="File for what Ray prints; - for standard error, with a copy of the log.  [DATA_DIR/logs/serve.log]",
        ),
        click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of all that is kept.  [data]"),
        click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [8787]"),
        click.option("--host", help="Address to listen on.  [127.0.0.1]"),
    ):
        command = option(command)
    return command


@click.command()
@_options
def serve(host: str | None, port: int | None, data_dir: Path | None, log: str | None, no_dashboard: bool) -> None:
    """Run the service until Ctrl-C.

    One line says when it is ready; another when something had to be restarted. What happens is logged in
    DATA_DIR/logs/engine.log. Everything else that can be set is an environment variable (`arke settings`
    lists them); options count more than variables.

    \b
      arke serve
      arke serve --port 9000 --data-dir /var/lib/arke
      API_KEYS=... ADMIN_KEY=... arke serve --host 0.0.0.0
    """
    settings = load(host, port, data_dir, no_dashboard)
    supervisor = Supervisor(
        settings,
        say=click.echo,
        on_ready=lambda ready: click.echo(ready_line(ready)),
        log=log_file(settings, log),
    )
    handle_signals(supervisor)
    _run(supervisor)


@click.command()
@_options
@click.option("--once", is_flag=True, help="Stop when the sample batch has ended; exit code 1 when not DONE.")
@click.option("--export", "pi", metavar="PI", help="Then export this entity, and all below it, as MODS.")
@click.pass_obj
def demo(
    remote: Remote,
    host: str | None,
    port: int | None,
    data_dir: Path | None,
    log: str | None,
    no_dashboard: bool,
    once: bool,
    pi: str | None,
) -> None:
    """Serve, and convert a sample batch.

    Makes some small TIFFs, converts them, says where the results are, and keeps serving until Ctrl-C.
    """
    settings = load(host, port, data_dir, no_dashboard)
    if settings.uses_s3:
        raise InvalidSetting("R2_ENDPOINT_URL", "unset for the demo, as R2_ACCOUNT_ID: it uses the local folder")
    sample = Sample(settings, remote, once, pi)
    click.echo("Starting (some 10 seconds) …")
    supervisor = Supervisor(settings, say=click.echo, on_ready=sample.begin, log=log_file(settings, log))
    sample.when_over = supervisor.stop
    handle_signals(supervisor)
    try:
        _run(supervisor)
    finally:
        sample.end()
    if once and not sample.succeeded:
        raise SystemExit(1)


class Sample:
    """Submits the sample batch beside the supervisor, in a thread, and shows how it goes."""

    def __init__(self, settings: Settings, remote: Remote, once: bool, pi: str | None) -> None:
        self.succeeded = False
        self.when_over: Callable[[], None] = lambda: None
        self._settings = settings
        self._remote = remote
        self._once = once
        self._pi = pi
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, ready: Ready) -> None:
        """Start; called when the service is ready."""
        self._thread = threading.Thread(target=self._run, args=(ready,), name="sample", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop showing progress. The batch itself goes on with the next start of the service."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=3)

    def _run(self, ready: Ready) -> None:
        try:
            self._convert(ready)
        except (ClientError, OSError) as error:
            click.echo(f"The sample batch could not be followed: {error}", err=True)
        finally:
            if self._once:
                self.when_over()

    def _convert(self, ready: Ready) -> None:
        from orchestrator.cli.samples import write_samples

        batch = f"sample-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}"
        folder = self._settings.objects_dir / self._settings.r2_bucket / "samples" / batch
        folder.mkdir(parents=True)
        write_samples(folder)
        keys = (self._settings.api_keys or (None,))[0]
        with self._remote.make(ready.url, api_key=self._remote.api_key or keys) as arke:
            arke.create({"batch_id": batch, "r2_prefix": f"samples/{batch}/"})
            status = follow(arke, batch, stop=self._stop)
            if status is None:
                return
            self.succeeded = status["status"] == "DONE"
            click.echo(self._summary(status, folder, ready))
            if self._pi is not None:
                self.succeeded = self._export(arke, self._pi) and self.succeeded
        if not self._once:
            click.echo("Serving until Ctrl-C.")

    def _export(self, arke: ArkeClient, pi: str) -> bool:
        task = arke.export(pi, options={"recursive": True})["task_id"]
        with Display() as display:
            while (status := arke.status(task))["status"] == "processing" and not self._stop.wait(LOOK_EVERY_S):
                display.update(status.get("progress") or {})
        if status["status"] == "success":
            path = self._settings.objects_dir / self._settings.r2_bucket_mods / status["output_r2_key"]
            show_metrics(str(path), status["metrics"] or {})
        else:
            click.echo(f"{task}: {status['status']}. {status['error'] or ''}", err=True)
        return bool(status["status"] == "success")

    def _summary(self, status: dict[str, Any], folder: Path, ready: Ready) -> str:
        total, completed, failed = counts(status)
        lines = [
            f"{status['status']}: {completed} of {total} converted, {failed} failed.",
            f"  batch      {status['batch_id']}",
            f"  results    {folder}",
            f"  API        {ready.url}/docs",
            f"  dashboard  {ready.way_in or 'not started'}",
            f"  log        {self._settings.log_dir / telemetry.FILE}",
        ]
        return "\n".join(lines)


def load(host: str | None, port: int | None, data_dir: Path | None, no_dashboard: bool) -> Settings:
    """The settings of the environment, with the options of the command line."""
    dashboard = False if no_dashboard else None
    return Settings.load(os.environ, host=host, port=port, data_dir=data_dir, dashboard=dashboard)


def log_file(settings: Settings, log: str | None) -> Path | None:
    """Where the log goes; None is standard error."""
    return None if log == "-" else Path(log) if log else settings.log_dir / "serve.log"


def _run(supervisor: Supervisor) -> None:
    try:
        supervisor.run()
    except CannotServe as error:
        raise click.ClickException(str(error)) from error


def ready_line(ready: Ready) -> str:
    """What `serve` says when it is ready."""
    more = f", Ray dashboard at {ready.way_in}" if ready.way_in else ""
    return f"Ready at {ready.url} (API at {ready.url}/docs{more}). Ctrl-C stops it."
