"""What is written about machines and about actors of which there is one."""

from typing import Any, Final

import msgspec
from sqlalchemy import bindparam, select, update

from actors.errors import Fenced
from actors.rules.costs import Charge
from actors.rules.model import Machine
from actors.rules.states import MachineState
from actors.store.statements import Db, Sql, delete_some, upsert
from actors.store.tables import COSTS, MACHINES, costs, jobs, machines, singletons

_decode_machines = msgspec.msgpack.Decoder(list[Machine]).decode
_decode_charges = msgspec.msgpack.Decoder(list[Charge]).decode

_new_singleton = upsert(singletons).values(name=bindparam("key_name"), epoch=1, seq=0)
_ACTIVATE = Sql(
    _new_singleton.on_conflict_do_update(
        index_elements=["name"], set_={"epoch": singletons.c.epoch + 1, "seq": 0}
    ).returning(singletons.c.epoch)
)
_TURN = Sql(
    update(singletons)
    .where(
        singletons.c.name == bindparam("key_name"),
        singletons.c.epoch == bindparam("key_epoch"),
        singletons.c.seq == bindparam("former_seq"),
    )
    .values(seq=bindparam("new_seq"))
)
_SELECT_FENCE = Sql(select(singletons.c.epoch, singletons.c.seq).where(singletons.c.name == bindparam("name")))
_put_machine = upsert(machines)
_UPSERT_MACHINE = Sql(
    _put_machine.on_conflict_do_update(
        index_elements=["id"],
        set_={name: _put_machine.excluded[name] for name in MACHINES.columns if name != "id"},
    ),
    MACHINES.columns,
)
_MACHINE_ROW = _UPSERT_MACHINE.picker(MACHINES.columns)
_SUMS: Final = [name for name in COSTS.columns if name != "job_id"]
_charge = upsert(costs).from_select(
    COSTS.columns,
    select(jobs.c.id, *(bindparam(name, type_=costs.c[name].type) for name in _SUMS))
    .where(jobs.c.id == bindparam("job_id"))
    .with_for_update(read=True, key_share=True),  # whoever removes the job would leave what it has not seen
)
_CHARGE = Sql(  # of a job that is there no more nobody wants to know
    _charge.on_conflict_do_update(
        index_elements=["job_id"], set_={name: costs.c[name] + _charge.excluded[name] for name in _SUMS}
    ),
    COSTS.columns,
)
_CHARGE_ROW = _CHARGE.picker(COSTS.columns)
_FORGET = Sql(
    delete_some(machines, machines.c.state == MachineState.GONE.value, machines.c.ended_at < bindparam("before"))
)


def activate_singleton(db: Db, request: dict[str, Any]) -> int:
    """The next epoch of the actor of this name (invariant 2), from 1."""
    ((epoch,),) = db.rows(_ACTIVATE, {"key_name": request["name"]})
    return int(epoch)


def commit_machines(db: Db, request: dict[str, Any]) -> None:
    """Insert or replace machines, fenced as a commit of a job is, and charge jobs. May be sent again."""
    name, epoch, seq = request["name"], request["epoch"], request["seq"]
    values = {"key_name": name, "key_epoch": epoch, "former_seq": seq - 1, "new_seq": seq}
    if db.run(_TURN, values) == 0:
        if db.row(_SELECT_FENCE, {"name": name}) == (epoch, seq):
            return
        raise Fenced
    rows = [_MACHINE_ROW(MACHINES.row(machine)) for machine in _decode_machines(request["machines"])]
    db.run_many(_UPSERT_MACHINE, rows)
    charges = [_CHARGE_ROW(COSTS.row(charge)) for charge in _decode_charges(request["charges"])]
    if charges:
        db.run_many(_CHARGE, charges)


def forget_machines(db: Db, request: dict[str, Any]) -> int:
    """Delete machines that are gone since before a time; answers how many."""
    return db.run(_FORGET, {"before": request["before"], "most": request["limit"]})


OPERATIONS: Final = {
    "activate_singleton": activate_singleton,
    "commit_machines": commit_machines,
    "forget_machines": forget_machines,
}
