"""The guards that a file asks for -> rows that staff must acknowledge. One that the file drops is gone."""

from functools import partial

from routing.config.guards import Guard
from routing.config.rows import Writer
from routing.models import InactiveGuard

_LONGEST_PLACE = 300


def write(guards: list[Guard], writer: Writer) -> None:
    source = writer.memory.source
    there = {row.name: row for row in InactiveGuard.objects.filter(source=source)}
    wanted = {guard.name: guard.place[:_LONGEST_PLACE] for guard in reversed(guards)}
    new = [
        InactiveGuard(source=source, name=name, place=place)
        for name, place in wanted.items()
        if name not in there
    ]
    gone = [row.pk for name, row in there.items() if name not in wanted]
    if new:
        writer.then(partial(InactiveGuard.objects.bulk_create, new))
    if gone:
        writer.then(InactiveGuard.objects.filter(pk__in=gone).delete)
