"""The fleet: it alone owns machines. The loop that makes, watches and ends them; claims; no ray, no SQL, no HTTP.

fleet       the parts put together: one activation, its loop, its requests
claims      machines that ask for work: who waits, and who gets what
making      machines that are made, and spawns whose answer is not known
pace        how many more the provider would make soon
pool        machines that are made ahead of their work
refusals    how long a provider that has refused is not asked
watching    what the provider says of them; orphans; machines without work
endings     how a machine ends: destroyed, its batches told, forgotten
work        what batches want, and taking it from them
rows        the machines as they are written, under the fleet's epoch
activity    what the parts share: time, waiting, what runs in the background

A machine's row is written before anything is asked of a batch or of the provider (invariant 3), in this order:
PLANNED, `take` of the batch, SPAWNING with the name, `provider.spawn`, RUNNING. What a dead activation has left is
reconciled at the next start. A machine that ends is destroyed first, then the batches that took work on it are
told, then its row is GONE: so a task is never given out again while its machine may still run, and none is forgotten.

Requests that come over the wire are answered without waiting for a batch (batches wait for the fleet, so the
reverse would lock both), except claims: they wait (MAX_CLAIM_WAIT_MS), and the wire answers a list as
a whole. So whoever passes claims on uses a `wire.Client` of its own for each claim.

That a claim sent again gets the same answer ends with this process, as far as it depends on it: which batch a claim
was passed to is only in memory. After a restart the claim may be passed to another batch; what the first has given
to it is then given up by its deadline.

All times are milliseconds; `now` is the wall clock.
"""

from actors.fleet.activity import wait_real
from actors.fleet.fleet import SINGLETON, SWEEP_MS, TICK_MS, Fleet, FleetStore

__all__ = ["SINGLETON", "SWEEP_MS", "TICK_MS", "Fleet", "FleetStore", "wait_real"]
