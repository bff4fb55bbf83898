"""A stand-in of the Arke API and its IPFS gateway: `python -m tests.stand_ins.arke_api --help`."""

from tests.stand_ins.arke_api.app import ArkeStandIn, launched, serving
from tests.stand_ins.arke_api.archive import Archive, InMemory, cid_of, pi_of
from tests.stand_ins.arke_api.large import Large
from tests.stand_ins.arke_api.sample import ROOT, sample

__all__ = ["ROOT", "Archive", "ArkeStandIn", "InMemory", "Large", "cid_of", "launched", "pi_of", "sample", "serving"]
