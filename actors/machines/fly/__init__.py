"""Machines of Fly.io, by its Machines API.

provider    spawn, inspect, list, destroy; prepare, start, stop, wait for a pool
making      the way to a machine: turns, regions, apps, adoption
looking     finding machines, and asking until there is an answer
bodies      what is sent to make a machine
api         one request: its turn, sent once, judged
answers     what an answer means
limits      token buckets; pauses between tries
shown       machines as the API shows them
options     what the provider is told
"""

from actors.machines.fly.options import FlyOptions, Size
from actors.machines.fly.provider import FlyMachines

__all__ = ["FlyMachines", "FlyOptions", "Size"]
