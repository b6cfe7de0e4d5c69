"""Turns a table of Postgres into one that is partitioned by the day in its ids; for migrations."""

import uuid
from datetime import UTC, datetime, time, timedelta

AHEAD = 7  # days


def first_id(day):
    milliseconds = int(datetime.combine(day, time(), UTC).timestamp()) * 1000
    return uuid.UUID(hex=f'{milliseconds:012x}{0:020x}')


def partition_table(cursor, table):
    cursor.execute(
        "SELECT indexdef FROM pg_indexes WHERE tablename = %s AND schemaname = current_schema() "
        "AND indexname <> %s", [table, f'{table}_pkey'],
    )
    indexes = [row[0] for row in cursor.fetchall()]
    cursor.execute(f"SELECT min(received_at) FROM {table}")
    today = datetime.now(UTC).date()
    oldest = cursor.fetchone()[0]
    first = min(oldest.astimezone(UTC).date() if oldest else today, today) - timedelta(days=1)
    cursor.execute(f"ALTER TABLE {table} RENAME TO {table}_before")
    cursor.execute(
        f"CREATE TABLE {table} (LIKE {table}_before INCLUDING DEFAULTS INCLUDING CONSTRAINTS) "
        f"PARTITION BY RANGE (id)"
    )
    for number in range((today - first).days + AHEAD + 1):
        day = first + timedelta(days=number)
        cursor.execute(
            f"CREATE TABLE {table}_{day:%Y%m%d} PARTITION OF {table} "
            f"FOR VALUES FROM ('{first_id(day)}') TO ('{first_id(day + timedelta(days=1))}')"
        )
    cursor.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    cursor.execute(f"INSERT INTO {table} SELECT * FROM {table}_before")
    cursor.execute(f"DROP TABLE {table}_before")
    cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT {table}_pkey PRIMARY KEY (id)")
    for definition in indexes:
        cursor.execute(definition)
