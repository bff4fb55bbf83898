"""What workers that make archives do to the object store: they read the list of their part, begin an upload, write
where they are, and put the archive. Theirs is a list of keys instead of a ZIP."""

import json
from typing import Any

import msgspec

from tests.simulation.chance import Chance
from tests.simulation.checks.archives import ArchiveChecks
from tests.simulation.objects import SimObjects
from worker.kinds.zip.source import Member

Env = dict[str, str]


class Zips:
    """Each attempt goes on with the upload that a checkpoint names, or begins its own. An attempt that dies leaves
    both."""

    def __init__(self, objects: SimObjects, checks: ArchiveChecks, chance: Chance) -> None:
        self._objects, self._checks = objects, checks
        self._plan = chance.stream("zips")
        self._open: dict[str, str] = {}  # the upload of an attempt, by its CALLBACK_URL
        self._lists: dict[str, bytes | None] = {}  # what it has read at its begin

    def begin(self, env: Env) -> None:
        """An attempt begins, and reads its list; some write at once where they are."""
        self._lists[env["CALLBACK_URL"]] = self._objects.objects.get(env["INPUT_R2_KEY"])
        key, checkpoint = env["OUTPUT_R2_KEY"], env["CHECKPOINT_R2_KEY"]
        saved = self._objects.objects.get(checkpoint, b"").decode()
        upload = saved if (key, saved) in self._objects.begun else self._objects.begin(key)
        self._open[env["CALLBACK_URL"]] = upload
        if self._plan.random() < 0.3:
            self._objects.store(checkpoint, upload.encode())

    def finish(self, env: Env) -> dict[str, Any]:
        """The archive is stored; what its callback says."""
        key, listed = env["OUTPUT_R2_KEY"], self._lists[env["CALLBACK_URL"]]
        if listed is None:
            self._checks.finds_no_list(env)
            return {"status": "error", "error": "404 Not Found", "retryable": False}
        members = [msgspec.json.decode(line, type=Member) for line in listed.splitlines()]
        self._checks.is_read(env, members)
        there = [one for one in members if self._is_there(one)]
        body = json.dumps([one.key for one in there]).encode()
        self._objects.store(key, body)
        self._checks.is_made(key, len(there), len(members) - len(there))
        self._close(env)
        self._objects.objects.pop(env["CHECKPOINT_R2_KEY"], None)
        told = {"files": len(there), "missing": len(members) - len(there), "bytes": sum(one.size for one in there),
                "written": len(body)}  # fmt: skip
        return {
            "status": "success", "output_r2_key": key, "output_file_name": key.rsplit("/", 1)[-1],
            "output_file_size": len(body), "performance": told, "cpu_ms": 5,
        }  # fmt: skip

    def give_up(self, env: Env) -> None:
        """It has failed. What a checkpoint names is left for the next attempt."""
        if self._objects.objects.get(env["CHECKPOINT_R2_KEY"]) != self._open.get(env["CALLBACK_URL"], "").encode():
            self._close(env)

    def _close(self, env: Env) -> None:
        self._objects.begun.pop((env["OUTPUT_R2_KEY"], self._open.pop(env["CALLBACK_URL"], "")), None)

    def _is_there(self, member: Member) -> bool:
        """The very one that was verified."""
        found = self._objects.objects.get(member.key)
        return found is not None and (self._objects.info(member.key)[1:] == (member.size, member.etag))
