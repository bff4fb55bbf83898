"""Delivery of callbacks and claims: the URL verbatim, tried again with jitter until it is answered or time is up.

Tried again: no connection, 5xx, 429, 408, and a 404 whose body is not our `{"error": …}`, which is what a proxy answers
while the service behind it restarts. Anything else is an answer.
"""

import contextlib
import http.client
import json
import logging
import random
import threading
import time
from collections.abc import Callable

import msgspec

from worker import urls, web
from worker.contract import Callback, CallbackAnswer, Claim, ClaimAnswer, Environment
from worker.errors import Refused, Retired, Unavailable, Undelivered, one_line

log = logging.getLogger("worker.callback")

STOP_GRACE_S = 4.0
"""How long a request may still be tried once the process was asked to stop: platforms kill after 5 s."""
BACKOFF_FIRST_S = 0.2
BACKOFF_CAP_S = 5.0
REQUEST_TIMEOUT_S = 15.0
HEARTBEAT_TIMEOUT_S = 5.0
CLAIM_SLACK_S = 10.0
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}


def deliver(url: str, callback: Callback, *, give_up_s: float, stop: threading.Event) -> CallbackAnswer:
    """Posts a callback until it is answered. Raises Undelivered when the time is up or the answer is a refusal."""
    body = msgspec.json.encode(callback)

    def send() -> web.Reply:
        return web.send("POST", url, body=body, headers=_JSON, timeout_s=REQUEST_TIMEOUT_S)

    reply = _persist(url, send, give_up_s=give_up_s, stop=stop)
    if reply.status >= 300:
        raise Refused(f"the callback of {callback.task_id} was refused: {_reason(reply)}")
    return _answer(reply.body)


def heartbeat(url: str, callback: Callback) -> bool:
    """Says once that a task still runs; True when the answer asks to stop it. A sign of life that is lost is only
    logged: the next one comes soon."""
    try:
        reply = web.send("POST", url, body=msgspec.json.encode(callback), headers=_JSON, timeout_s=HEARTBEAT_TIMEOUT_S)
    except Unavailable as error:
        log.warning("[Worker] sign of life of %s not delivered: %s", callback.task_id, error)
        return False
    return reply.status < 300 and _answer(reply.body).stop


def claim(
    url: str,
    request: Claim,
    token: str | None,
    *,
    give_up_s: float,
    stop: threading.Event,
    opened: Callable[[http.client.HTTPConnection], None] | None = None,
) -> tuple[Environment, ...]:
    """Asks for work under one claim id, however often it must be sent; empty when there is none. Not repeated once
    `stop` is set. Raises Retired (410) or Undelivered."""
    headers = _JSON | ({"Authorization": f"Bearer {token}"} if token else {})
    timeout_s = request.wait_ms / 1000 + CLAIM_SLACK_S

    def send() -> web.Reply:
        body = msgspec.json.encode(request)
        return web.send("POST", url, body=body, headers=headers, timeout_s=timeout_s, opened=opened)

    reply = _persist(url, send, give_up_s=give_up_s, stop=stop, grace_s=0)
    if reply.status == 410:
        raise Retired("the orchestrator retired this machine")
    if reply.status == 204:
        return ()
    if reply.status >= 300:
        raise Refused(f"the claim was refused: {_reason(reply)}")
    try:
        return msgspec.json.decode(reply.body, type=ClaimAnswer).tasks
    except msgspec.MsgspecError as error:
        raise Undelivered(f"the answer to the claim is not readable: {error}") from error


def is_ours(body: bytes) -> bool:
    """Whether the body of a 404 is the service's own: a JSON object with `error`."""
    try:
        return "error" in msgspec.json.decode(body, type=dict[str, object])
    except msgspec.MsgspecError:
        return False


def _persist(
    url: str,
    send: Callable[[], web.Reply],
    *,
    give_up_s: float,
    stop: threading.Event,
    grace_s: float = STOP_GRACE_S,
) -> web.Reply:
    """Sends until an answer comes that is not to be tried again; at most `grace_s` longer once `stop` is set."""
    begun = time.monotonic()
    deadline = begun + give_up_s
    stopping = False
    tries = 0
    while True:
        reply, problem = _attempt(send)
        if reply is not None and not _again(reply):
            return reply
        now = time.monotonic()
        if stop.is_set() and not stopping:
            stopping, deadline = True, min(deadline, now + grace_s)
        wait_s = _backoff(tries, reply)
        if now + wait_s > deadline:
            raise Undelivered(f"{urls.place(url)}: {problem}, after {tries + 1} tries in {now - begun:.0f} s")
        log.info("[Worker] %s: %s; again in %.1f s", urls.place(url), problem, wait_s)
        tries += 1
        _pause(wait_s, stop)


def _attempt(send: Callable[[], web.Reply]) -> tuple[web.Reply | None, str]:
    try:
        reply = send()
    except Unavailable as error:
        return None, str(error)
    return reply, f"answered {reply.status}"


def _again(reply: web.Reply) -> bool:
    return reply.status >= 500 or reply.status in (408, 429) or (reply.status == 404 and not is_ours(reply.body))


def _backoff(tries: int, reply: web.Reply | None) -> float:
    """Seconds to wait: what Retry-After says, else a random part of a doubling bound."""
    if reply is not None:
        with contextlib.suppress(ValueError):
            return min(float(reply.headers.get("Retry-After") or ""), BACKOFF_CAP_S) * random.uniform(1.0, 1.25)
    return random.uniform(0.5, 1.0) * min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2.0 ** min(tries, 10))


def _pause(wait_s: float, stop: threading.Event) -> None:
    """Waits; a stop that arrives meanwhile ends the wait, one that was there before does not."""
    if stop.is_set():
        time.sleep(wait_s)
    else:
        stop.wait(wait_s)


def _answer(body: bytes) -> CallbackAnswer:
    """The answer to a callback; what cannot be read is taken for a plain ok, as the originals' workers do."""
    try:
        return msgspec.json.decode(body, type=CallbackAnswer)
    except msgspec.MsgspecError:
        return CallbackAnswer(ok=True)


def _reason(reply: web.Reply) -> str:
    try:
        text = str(json.loads(reply.body)["error"])
    except (ValueError, KeyError, TypeError):
        text = ""
    return f"{reply.status} {one_line(text)}".strip()
