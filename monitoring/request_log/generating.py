"""Made-up calls for measuring: as many as wanted, spread over days as a company's traffic is."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from proxy.ids import uuid7
from proxy.journal.records import Closed

FIRST_KEY = 1_000_000_000  # ids that no real key has
KEYS, TEAMS, TAGS = 60, 12, ("prod", "batch", "eval")
DAY_NS = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class _Model:
    route: str
    provider: str
    upstream_model: str
    target_id: int
    input_price: int  # nano-USD per token
    output_price: int
    ms_per_token: float


MODELS = (
    _Model("chat-small", "openai", "gpt-4o-mini", FIRST_KEY + 1, 150, 600, 9),
    _Model("chat-large", "openai", "gpt-4o", FIRST_KEY + 2, 2_500, 10_000, 14),
    _Model("chat-large", "azure", "gpt-4o", FIRST_KEY + 3, 2_500, 10_000, 16),
    _Model("assistant", "anthropic", "claude-sonnet", FIRST_KEY + 4, 3_000, 15_000, 15),
    _Model("reasoning", "openai", "o4-mini", FIRST_KEY + 5, 1_100, 4_400, 22),
    _Model("glm", "z-ai", "glm-4-flash", FIRST_KEY + 6, 100, 100, 8),
    _Model("embed", "openai", "text-embedding-3-small", FIRST_KEY + 7, 20, 0, 0.1),
)
_MODEL_WEIGHTS = (30, 18, 6, 20, 6, 12, 8)
_ENDINGS: tuple[tuple[str, int | None, str], ...] = (
    ("answered", 200, ""),
    ("client_gone", 200, ""),
    ("refused", 429, "rate_limit_exceeded"),
    ("refused", 400, "missing_field"),
    ("refused", 401, "invalid_api_key"),
    ("upstream_failed", 502, "upstream_error"),
    ("upstream_failed", 504, "upstream_timeout"),
    ("upstream_broken", 200, "upstream_error"),
    ("failed", 500, "internal_error"),
    ("unknown", None, ""),
)
_ENDING_WEIGHTS = (9600, 90, 130, 60, 40, 40, 20, 10, 5, 5)


def calls(rows: int, days: int, until: datetime, seed: int = 1) -> Iterator[Closed]:
    """In the order of time; the last one ends now. The same seed gives the same calls under other ids."""
    dice = random.Random(seed)
    last = int(until.astimezone(UTC).timestamp() * 1e9)
    step = days * DAY_NS // rows
    # Some keys are used much more than others, and each team has a few of them.
    keys = dice.choices(range(KEYS), [1 / (rank + 1) for rank in range(KEYS)], k=4096)
    for number in range(rows):
        at = last - (rows - number) * step + dice.randrange(step or 1)
        yield _call(min(_busy_hours(at), last), keys[dice.randrange(4096)], dice)


def _busy_hours(at_ns: int) -> int:
    """Moves moments of the night towards the day; stays within the day and in order."""
    day, part = divmod(at_ns, DAY_NS)
    share = part / DAY_NS
    return day * DAY_NS + int((share + 0.09 * math.sin(2 * math.pi * share)) * DAY_NS)


def _call(at_ns: int, key: int, dice: random.Random) -> Closed:
    model = dice.choices(MODELS, _MODEL_WEIGHTS)[0]
    outcome, status, error = dice.choices(_ENDINGS, _ENDING_WEIGHTS)[0]
    embedding, call = model.route == "embed", uuid7(at_ns)
    row = Closed(
        id=call,
        received_at_ns=at_ns,
        request_id=call,
        outcome=outcome,
        status=status,
        error_code=error,
        endpoint="embeddings" if embedding else "chat/completions",
        stream=not embedding and dice.random() < 0.6,
        model=model.route,
        tags=[TAGS[key % 3]] if key % 4 else [],
        client_info="generated",
        overhead_ms=round(dice.lognormvariate(-0.5, 0.4), 3),
    )
    row.total_ms = row.overhead_ms
    if status != 401:
        row.key_id, row.key_name, row.team = FIRST_KEY + key, f"key-{key:02}", f"team-{key % TEAMS:02}"
    if outcome != "refused":
        _answer(row, model, dice)
    return row


def _answer(row: Closed, model: _Model, dice: random.Random) -> None:
    row.route, row.target_id = model.route, model.target_id
    row.provider, row.upstream_model, row.attempts = model.provider, model.upstream_model, 1
    row.input_tokens = given = int(dice.lognormvariate(6.3, 1.1)) + 1
    row.output_tokens = made = 0 if row.endpoint == "embeddings" else int(dice.lognormvariate(5, 0.9)) + 1
    row.cached_tokens = given // 2 if dice.random() < 0.25 else 0
    row.reasoning_tokens = made // 3 if model.route == "reasoning" else 0
    row.cost_nano_usd = given * model.input_price + made * model.output_price
    first = dice.lognormvariate(5.8, 0.5)
    total = round(first + made * model.ms_per_token, 3)
    row.total_ms = total
    row.ttft_ms = round(first, 3) if row.stream else total
    result = str(row.status) if row.status in (200, None) else row.error_code
    row.attempt_trail = [
        {
            "target": model.target_id,
            "provider": model.provider,
            "model": model.upstream_model,
            "result": result,
            "at_ms": 0.4,
            "ms": total,
        }
    ]
