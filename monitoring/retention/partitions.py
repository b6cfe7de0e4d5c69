"""The request log, its seals and content on Postgres: a partition for each day (UTC), by the time in an id.

So the primary key stays the id alone, and ON CONFLICT as it is. What fits no day goes to the default
partition: a row is never refused. SQLite has one table of each.
"""

import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from django.db import connection, models, transaction

from monitoring.content.models import RequestContent
from monitoring.request_log.models import RequestLog, RowSeal
from proxy.ids import first_id

AHEAD = 7  # days made before they come: so long may Celery be away
TABLES: tuple[type[models.Model], ...] = (RequestLog, RowSeal, RequestContent)
LOCK_TIMEOUT = "3s"  # who can't have the table soon tries again in an hour; rows are not held up


@dataclass(frozen=True, slots=True)
class Day:
    """One day's part of a table."""

    table: str
    day: date

    @property
    def name(self) -> str:
        return f"{self.table}_{self.day:%Y%m%d}"

    @property
    def bounds(self) -> tuple[uuid.UUID, uuid.UUID]:
        """(the first id, the first id after)."""
        return first_id_of(self.day), first_id_of(self.day + timedelta(days=1))


def first_id_of(day: date) -> uuid.UUID:
    return first_id(datetime.combine(day, time(), UTC).timestamp())


def in_use() -> bool:
    return connection.vendor == "postgresql"


def make_ahead(today: date) -> int:
    """The partitions of yesterday to a week from now; how many were missing."""
    days = [today + timedelta(days=number) for number in range(-1, AHEAD + 1)]
    return make(days) if in_use() else 0


def make(days: Iterable[date]) -> int:
    made, wanted = 0, list(days)
    for model in TABLES:
        there = {one.day for one in existing(model)}
        for day in wanted:
            if day not in there:
                _make(model, Day(model._meta.db_table, day))
                made += 1
    return made


def existing(model: type[models.Model]) -> Iterator[Day]:
    """Oldest first, without the default one."""
    table = model._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
            "WHERE inhparent = %s::regclass ORDER BY 1",
            [table],
        )
        names = [row[0] for row in cursor.fetchall()]
    for name in names:
        if re.fullmatch(rf"{table}_\d{{8}}", name):
            yield Day(table, datetime.strptime(name[-8:], "%Y%m%d").date())


@transaction.atomic
def _make(model: type[models.Model], part: Day) -> None:
    """Rows of that day that came before it was made move there from the default partition."""
    quote = connection.ops.quote_name
    columns = ", ".join(quote(str(field.column)) for field in model._meta.concrete_fields)
    table, name, spare = quote(part.table), quote(part.name), quote(f"{part.table}_default")
    first, after = part.bounds
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.execute(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
        cursor.execute(f"LOCK TABLE {spare} IN ACCESS EXCLUSIVE MODE")
        cursor.execute(
            f"WITH moved AS (DELETE FROM {spare} WHERE id >= '{first}' AND id < '{after}' "
            f"RETURNING {columns}) INSERT INTO {name} ({columns}) SELECT {columns} FROM moved"
        )
        cursor.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{after}')"
        )


def drop(part: Day) -> None:
    """Inside a transaction. Raises OperationalError where the table could not be had soon."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.execute(f"DROP TABLE {connection.ops.quote_name(part.name)}")


def close(part: Day) -> None:
    """Until the transaction ends no row comes in."""
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.execute(f"LOCK TABLE {connection.ops.quote_name(part.name)} IN SHARE MODE")
