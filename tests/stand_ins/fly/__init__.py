"""A stand-in of Fly.io's Machines API: strict, with the documented limits, machines that run, and faults on demand.

By hand: `python -m tests.stand_ins.fly --help`. In a test: `FlyStandIn`, behind a socket with `serving`, or as a
process with `launched`. FLY_API_URL is all that the service needs to use it.

    api, admission       HTTP: endpoints; token, limits and faults before them
    bodies, limits       what a request may say; token buckets
    fleet, life          what can be asked of machines; what takes each from state to state
    machine              one machine, and its permitted moves
    simulated            a program that behaves as our worker, with its reports and their delivery
    process              a program that is our worker
    processor            the allowance of shared processors
    faults, chance       the switches; seeded draws
    journal              what happened

Where documentation and observation differ or are silent, `settings` says what was chosen.
"""

from tests.stand_ins.fly.chance import Duration
from tests.stand_ins.fly.settings import Settings, always
from tests.stand_ins.fly.stand_in import FlyStandIn, launched, serving

__all__ = ["Duration", "FlyStandIn", "Settings", "always", "launched", "serving"]
