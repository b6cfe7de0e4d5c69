"""The routing table: an immutable snapshot of the configuration, shared by all requests."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from routing.price import Price

CONTENT_NEVER, CONTENT_OFF, CONTENT_METADATA, CONTENT_FULL = -1, 0, 1, 2
"""How much of a call's content is kept."""


WANT_CONTENT = frozenset(("zai",))
"""Dialects that refuse messages without content; all others take OpenAI's histories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """None is no limit."""

    rpm: int | None = None
    tpm: int | None = None
    parallel: int | None = None

    def __bool__(self) -> bool:
        return self.rpm is not None or self.tpm is not None or self.parallel is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Nano-USD that may be spent in one period: day, week, month or total (never resets)."""

    limit_nano: int
    period: str
    time_zone: str


@dataclass(frozen=True, slots=True)
class LimitOwner:
    """One owner of limits that a call counts against."""

    kind: str  # key, team, route, target or provider
    id: int
    name: str
    limits: Limits
    budget: Budget | None = None
    identity: tuple[str, int] = field(init=False, compare=False)
    path: str = field(init=False, compare=False)
    ceilings: tuple[float, float, float] = field(init=False, compare=False)
    """Requests and tokens per minute, calls in parallel; infinite where there is no limit."""
    rated: bool = field(init=False, compare=False)  # whether there is one per minute

    def __post_init__(self) -> None:
        limits = self.limits.rpm, self.limits.tpm, self.limits.parallel
        object.__setattr__(self, "ceilings", tuple(math.inf if most is None else most for most in limits))
        object.__setattr__(self, "rated", limits[:2] != (None, None))
        object.__setattr__(self, "identity", (self.kind, self.id))
        object.__setattr__(self, "path", f"{self.kind}:{self.id}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What a pool of connections depends on; pools outlive a table where this is unchanged."""

    connect_timeout: float
    read_timeout: float | None  # None: the gateway's own rules of silence
    max_connections: int
    queue_timeout: float
    keep_alive: float
    max_queue: int = 1000
    prewarm: int = 0
    key_share: float = 0.5  # of max_connections, that one key gets while another waits
    longest_answer: int = 32 * 1024 * 1024  # bytes that are collected of one


def rank_of(priority: int, weight: int) -> int:
    """Lower numbers first; a weight of 0 is a stand-in behind the others of its priority."""
    return 2 * priority + (weight == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRules:
    """When a target is left out, and for how long."""

    enabled: bool = True
    failures: int = 3  # in a row
    error_share: float = 0.5  # of the last minute's requests, 0 to 1
    min_requests: int = 20  # of the last minute, below which the share doesn't count
    cooldown: float = 30.0  # seconds


@dataclass(frozen=True, slots=True)
class Fault:
    """A row that can't be compiled: what it would serve is out until an admin mends it."""

    kind: str
    name: str
    reason: str  # names no credential

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.reason}"


NO_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType({})
WORD_KINDS = ("too_long", "refused", "unpaid", "busy")


# Entries compare by identity: two tables never share one, and hashing one must be cheap.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProviderEntry:
    id: int
    slug: str
    dialect: str
    base_url: str
    credential: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)  # what is redacted in texts, the longest first
    api_version: str = ""
    connection: Connection
    retries: int
    retry_delay: float
    limit_owners: tuple[LimitOwner, ...] = ()  # one; none where it has no limits
    allow_caller_key: bool
    unhealthy: bool
    refuse_when_unhealthy: bool
    self_hosted: bool = False  # on a private network: models may be loaded at the first call
    maintenance: bool = False  # it is then unhealthy, and refuses
    fault: str = ""  # why it, or the target that has this entry, can't be compiled; then the same holds
    asks_usage: bool = False  # of streams whose caller did not ask
    drains: bool = False  # streams whose caller is gone, instead of cancelling them
    words: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: NO_WORDS)
    """An admin's own words for what its errors mean, in lower case, by kind; see WORD_KINDS."""
    unpaid: bool = False  # a check has found so: words of money need no second caller
    continues: str = ""  # how a cut answer is given back to be continued: plain, flag; empty: not at all


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TargetEntry:
    id: int
    provider: ProviderEntry
    upstream_model: str
    weight: int
    priority: int
    limit_owners: tuple[LimitOwner, ...] = ()  # the target's and its provider's
    rank: int = 0  # targets of one rank are ordered by the strategy; see rank_of
    price: Price | None
    tags: frozenset[str] = frozenset()
    canary_share: float | None = None  # of the route's requests, 0 to 1
    shadow_share: float | None = None
    unneeded: dict[str, str | int | float] = field(init=False)  # what trails say where it was not tried

    def __post_init__(self) -> None:
        trace = {"target": self.id, "provider": self.provider.slug, "model": self.upstream_model}
        object.__setattr__(self, "unneeded", trace | {"result": "not needed"})

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.provider.slug}/{self.upstream_model}"

    def model_for(self, wildcard_part: str) -> str:
        """The upstream's model name; `wildcard_part` is what the route's * stood for."""
        return self.upstream_model.replace("*", wildcard_part, 1) if wildcard_part else self.upstream_model


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RouteEntry:
    id: int
    name: str
    strategy: str
    deadline: float
    max_messages: int | None
    default_parameters: tuple[tuple[str, bytes], ...]
    answer_tokens: int  # reserved where the caller says nothing
    limits_answers: bool  # whether default_parameters bound the answer
    limit_owners: tuple[LimitOwner, ...]
    budgeted: bool = True  # whether one of these limits may be a budget
    limited: bool = False  # whether the route, a target, a provider or a fallback route has limits
    over_limit_route: int | None
    targets: tuple[TargetEntry, ...]  # by rank, then by falling weight, then by age
    shadows: tuple[TargetEntry, ...] = ()
    created: int  # Unix seconds, for the list of models
    max_attempts: int = 10  # of all targets and fallbacks together
    attempt_timeout: float | None = None  # seconds of one attempt, to its whole answer or first event
    first_byte_timeout: float | None = None  # seconds of one attempt at a stream, to its first event
    stall_timeout: float | None = None  # seconds between two chunks of a stream
    wait_for_preferred: float | None = None  # seconds, where the first target's 429 says to come back so soon
    hedge_after: float | None = None  # seconds without an answer until a second target is asked too
    on_cut: str = "error"  # what a stream gets that breaks after its first event: error, continue, hold
    fallbacks: tuple[int, ...] = ()  # routes tried, in this order, when no target answers
    context_fallbacks: tuple[int, ...] = ()  # when the request is too long for the model
    policy_fallbacks: tuple[int, ...] = ()  # when the provider refuses the content
    tagged: bool = False  # whether any target has tags
    content: int = CONTENT_OFF
    canaries: bool = False
    fault: str = ""  # why its row can't be compiled; it then has no targets
    wants_content: bool = field(init=False)  # whether a target does, in each message
    one_level: bool = field(init=False)  # the strategy alone makes the order

    def __post_init__(self) -> None:
        ranks = {target.rank for target in self.targets}
        wants = any(target.provider.dialect in WANT_CONTENT for target in self.targets)
        object.__setattr__(self, "wants_content", wants)
        object.__setattr__(self, "one_level", len(ranks) == 1 and not self.canaries and not self.tagged)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TeamEntry:
    id: int
    slug: str
    limit_owners: tuple[LimitOwner, ...]
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeyEntry:
    id: int | None  # None: MASTER_KEY, which has no row
    name: str
    team: TeamEntry | None
    route_ids: frozenset[int] | None  # None: all routes
    limit_owners: tuple[LimitOwner, ...]  # the key's and its team's
    budgeted: bool = field(init=False)  # whether one of them is a budget
    expires_at: float | None  # Unix seconds
    enabled: bool
    revoked_at: float | None = None  # Unix seconds; None: not known
    off_with_team: bool = False  # whether it is its team that is disabled
    tags: frozenset[str] = frozenset()  # its own and its team's
    content: int = CONTENT_OFF

    def __post_init__(self) -> None:
        object.__setattr__(self, "budgeted", any(owner.budget is not None for owner in self.limit_owners))

    def may_use(self, route: RouteEntry) -> bool:
        return self.route_ids is None or route.id in self.route_ids


@dataclass(frozen=True, slots=True)
class Resolved:
    """A route for a requested name."""

    route: RouteEntry
    wildcard_part: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingTable:
    version: int
    keys: Mapping[bytes, KeyEntry]  # by SHA-256
    routes: Mapping[str, Resolved]  # by name and by alias
    wildcards: tuple[tuple[str, RouteEntry], ...]  # by what stands before the *, longest first
    upstream_models: Mapping[tuple[str, str], RouteEntry]  # by provider slug and its own model name
    providers: Mapping[str, ProviderEntry]
    cors_origins: frozenset[str]
    breaker: BreakerRules = BreakerRules()
    recounted: int = 0  # rises when spending must be read from the log again
    retired_keys: Mapping[bytes, float | None] = field(
        default_factory=dict
    )  # by SHA-256: since when, in Unix seconds
    unreadable_keys: frozenset[bytes] = frozenset()  # SHA-256 of keys whose rows can't be compiled
    faults: tuple[Fault, ...] = ()
    valid_until: float = math.inf  # Unix seconds: the next maintenance window begins or ends

    def resolve(self, name: str) -> Resolved | None:
        """Exact name or alias first, then the longest wildcard."""
        if exact := self.routes.get(name):
            return exact
        for start, route in self.wildcards:
            if name.startswith(start) and len(name) > len(start):
                return Resolved(route, name[len(start) :])
        return None

    def route_by_id(self, id: int) -> RouteEntry | None:
        """None where it is disabled or gone."""
        return next((found.route for found in self.routes.values() if found.route.id == id), None)

    def route_of_upstream_model(self, provider: str, model: str) -> Resolved | None:
        """The route whose target is this provider's own model."""
        route = self.upstream_models.get((provider, model))
        return Resolved(route) if route else None


EMPTY_TABLE = RoutingTable(
    version=-1,
    keys=MappingProxyType({}),
    routes=MappingProxyType({}),
    wildcards=(),
    upstream_models=MappingProxyType({}),
    providers=MappingProxyType({}),
    cors_origins=frozenset(),
)
"""Serves nothing; stands in until the first table is compiled."""
