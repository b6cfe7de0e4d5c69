"""The tests' own servers."""

import psycopg
import pytest
import redis

from tests.optional import needs


@needs("Redis")
def test_a_frozen_redis_answers_again_when_thawed(redis_server):
    redis_server.freeze()
    impatient = redis.Redis(port=redis_server.port, socket_timeout=0.2)
    with pytest.raises(redis.TimeoutError):
        impatient.ping()
    redis_server.thaw()
    assert redis_server.client.ping()


@needs("Postgres")
def test_postgres_survives_a_stop_and_a_start(postgres_server):
    url = postgres_server.create_database("restarted")
    postgres_server.stop()
    postgres_server.start()
    assert psycopg.connect(url).execute("SELECT 1").fetchone() == (1,)
