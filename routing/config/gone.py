"""Targets that a file made and doesn't list any longer: disabled by one load, deleted by the next.

Only what its text says counts: an entry that could not be taken, or a list without entries, ends nothing.
"""

from collections.abc import Iterable

from routing.config.memory import Memory
from routing.config.plan import Plan, TargetId
from routing.config.rows import Writer
from routing.config.stamps import edited
from routing.models import LoadedRow, RouteTarget
from routing.models.loaded import LoadedState

_DELETE = "delete it in the admin, or load with --prune"
_MEANT = "nothing, if that is meant; else write the entry again"


def settle_gone(plan: Plan, targets: Iterable[RouteTarget], memory: Memory, writer: Writer) -> None:
    """After all that the file lists is written; `targets` are all that were there before."""
    rows = {row.pk: row for row in targets}
    rows = {pk: row for pk, row in rows.items() if not writer.deletes(row)}  # by --prune
    for mark in memory.targets():
        if mark.row not in rows:
            memory.drop(mark)
    known = {mark.row: mark for mark in memory.targets() if mark.row in rows}
    if not plan.lists_models:
        _say_that_all_stay(known, writer)
        return
    left = [row for row in rows.values() if row.pk not in memory.seen and not _may_be_listed(row, plan)]
    for row in left:
        if row.pk in known:
            _end(known[row.pk], row, memory, writer)
    _report_strangers([row for row in left if row.pk not in known], plan, memory, writer)
    _report_empty_routes(plan, rows, writer)


def identity_of(row: RouteTarget) -> TargetId:
    return TargetId(row.route.name, row.provider.slug, row.upstream_model)


def what(row: RouteTarget) -> str:
    return f"target {row.route.name} → {identity_of(row).model}"


def _may_be_listed(row: RouteTarget, plan: Plan) -> bool:
    """Also where its entry's target could not be written, whatever the provider was to be."""
    listed = {(target.route, target.upstream_model) for target in plan.targets if target not in plan.written}
    return (row.route.name, row.upstream_model) in listed or plan.may_mean(identity_of(row))


def _say_that_all_stay(known: dict[int, LoadedRow], writer: Writer) -> None:
    if known:
        reason = "has no entry: the targets that this file made before stay as they are"
        writer.notes.say("model_list", reason, "list the models, or delete the targets in the admin")


def _end(mark: LoadedRow, row: RouteTarget, memory: Memory, writer: Writer) -> None:
    say = writer.notes.say
    if others := memory.others_of(row):
        say(what(row), f"its entry is gone, and {others[0]} lists it too: it stays", _MEANT)
        memory.drop(mark)
    elif not mark.made:
        say(what(row), "its entry is gone, and no file made it: it stays", _DELETE)
    elif fields := edited(row, mark.written):
        reason = f"its entry is gone, and an admin edited it since ({', '.join(fields)}): it stays"
        say(what(row), reason, _DELETE)
    elif mark.state == LoadedState.GONE:
        say(what(row), "its entry was gone at the load before, too: it is deleted", _MEANT)
        writer.delete(row, what(row))
        memory.drop(mark)
    else:
        reason = "its entry is gone: it is disabled, and the next load without it deletes it"
        say(what(row), reason, _MEANT)
        if row.enabled:
            writer.disable(row, what(row))
        memory.end(mark, row)


def _report_strangers(rows: list[RouteTarget], plan: Plan, memory: Memory, writer: Writer) -> None:
    """Beside the file's own targets of a route: callers are served from both."""
    routes = {target.route for target in plan.targets}
    for row in rows:
        if row.route.name in routes and not memory.is_of_a_file(row):
            reason = "is none of this file's targets, and stays beside them"
            writer.notes.say(what(row), reason, _DELETE)


def _report_empty_routes(plan: Plan, rows: dict[int, RouteTarget], writer: Writer) -> None:
    deleted = [row for row in rows.values() if writer.deletes(row)]
    kept = {row.route_id for row in rows.values() if not writer.deletes(row)}
    served = {target.route for target in plan.targets}
    for name in sorted({row.route.name for row in deleted if row.route_id not in kept} - served):
        writer.notes.say(f"route {name}", "has no target left", _DELETE)
