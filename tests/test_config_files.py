"""Configuration files in the style of real deployments: all of them load, say what is odd, and serve."""

from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import yaml
from django.core.management import call_command
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routing.config.known_providers import KNOWN
from routing.config.loader import load_file, load_text, plan_text
from routing.config.report import ConfigInvalid
from routing.models import ModelRoute, Provider, RouteTarget
from tests.factories import make_key
from tests.live import Door, LiveGateway
from tests.optional import needs

FILES = sorted((Path(__file__).parent / "config_files").glob("*.yaml"))
CREDENTIALS = [
    "OPENAI_API_KEY",
    "AZURE_API_KEY",
    "ANTHROPIC_API_KEY",
    "GROQ_API_KEY",
    "OPENROUTER_API_KEY",
    "INTERNAL_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "GEMINI_API_KEY",
    "DEEPSEEK_API_KEY",
    "MISTRAL_API_KEY",
    "XAI_API_KEY",
    "TOGETHER_API_KEY",
    "PERPLEXITY_API_KEY",
    "CLIENT_B_API_KEY",
    "GATEWAY_MASTER",
    "REDIS_SECRET",
    "DB_OF_OURS",
]
ADDRESSES = {
    f"{name}_BASE": name.lower() for name in ("AZURE_WEU", "VLLM", "INTERNAL", "ANTHROPIC", "OPENAI")
}
KEY = "sk-files-0123456789abcdef"
FARM = ["farm", "farm-embed"]
SERVED = {
    "agency": ["4.5", "client-b", "drafts", "reviews"],
    "config_map": ["4.5", "chat small", "chat-large"],
    "config_map_small": ["*", "4", "claude-*", "internal"],
    "empty_sections": [],
    "enterprise_azure": ["Große Sprachmodelle", "gpt-4.1"],
    "many_errors": [f"model {number}" for number in range(1, 40)],
    "mixed_clouds": ["deepseek", "gemini-flash", "mistral", "sonnet"],
    "no_models": [],
    "settings_only": [],
    "startup": ["Claude Sonnet (EU)", "gpt-4o", "gpt-4o-mini", "grok", "le-chat", "llama"],
    "vllm_farm": FARM,
    "wildcards": ["*", "anthropic/*", "groq/*", "together/*"],
}
"""Routes that each file serves: all but those of entries that are closed or can't be taken."""


def by_name(path):
    return path.stem


def content(path):
    found = yaml.safe_load(path.read_text())
    if found.get("kind") == "ConfigMap":
        found = yaml.safe_load(next(iter(found["data"].values())))
    return found


def entries(file):
    return [(entry["model_name"], entry["litellm_params"]) for entry in file.get("model_list") or []]


def section(file, name):
    return file.get(name) or {}


def has(file, key, *sections):
    return any(key in section(file, name) for name in sections)


def any_entry(holds):
    return lambda file, _: any(holds(name, params) for name, params in entries(file))


def of_entry(key, *values):
    return any_entry(lambda _, params: params.get(key) in values)


def setting(key, *sections):
    return lambda file, _: has(file, key, *sections) or key in file


def unknown_fallback(file, _):
    names = {str(name) for name, _ in entries(file)}
    lists = [
        *section(file, "router_settings").get("fallbacks", []),
        *section(file, "litellm_settings").get("fallbacks", []),
    ]
    return any(other not in names for row in lists for others in row.values() for other in others)


def twice(file, _):
    seen = Counter((str(name), params["model"], params.get("api_base")) for name, params in entries(file))
    return max(seen.values(), default=0) > 1


def without_address(prefix):
    return any_entry(lambda _, params: params["model"].startswith(f"{prefix}/") and "api_base" not in params)


ODDITIES = {
    "a router's time-out of 6000 s": lambda file, _: section(file, "router_settings").get("timeout") == 6000,
    "a request's time-out of 6000 s": lambda file, _: (
        section(file, "litellm_settings").get("request_timeout") == 6000
    ),
    "a weight that is no integer": any_entry(lambda _, params: params.get("weight", 1) % 1 > 0),
    "rpm 0": of_entry("rpm", 0),
    "20 retries": lambda file, text: "num_retries: 20" in text,
    "a cooldown out of range": lambda file, _: (
        section(file, "router_settings").get("cooldown_time") in (0, 86400, 100000)
    ),
    "a budget of an hour": lambda file, text: "budget_duration: 1h" in text,
    "a budget of seconds": of_entry("budget_duration", "30s"),
    "anthropic/* without an address": any_entry(
        lambda _, params: params["model"] == "anthropic/*" and "api_base" not in params
    ),
    "a name with blanks": any_entry(lambda name, _: " " in str(name)),
    "a number as a name": any_entry(lambda name, _: not isinstance(name, str)),
    "a prefix without a model": of_entry("model", "azure/"),
    "a fallback to no route": unknown_fallback,
    "a variable with a default": lambda file, text: ":-" in text,
    "a target twice": twice,
    "a ConfigMap": lambda file, text: "kind: ConfigMap" in text,
    "all to all": any_entry(lambda name, params: (name, params["model"]) == ("*", "*")),
    "no model_list": lambda file, _: "model_list" not in file,
    "an empty section": lambda file, _: None in file.values(),
    "39 times the same": lambda file, _: len(entries(file)) >= 39,
    "drop_params": setting("drop_params", "litellm_settings"),
    "guardrails": setting("guardrails", "litellm_settings"),
    "callbacks": setting("callbacks", "litellm_settings"),
    "cache": setting("cache", "litellm_settings"),
    "include": setting("include"),
    "usage-based-routing-v2": lambda file, text: "usage-based-routing-v2" in text,
    "a key in the wrong section": lambda file, _: (
        has(file, "master_key", "litellm_settings")
        or has(file, "routing_strategy", "litellm_settings", "general_settings")
    ),
}

VENDORS = ("groq", "openrouter", "together_ai", "deepseek", "mistral", "xai", "anthropic")
ODDITIES |= {f"{prefix}/ without an address": without_address(prefix) for prefix in VENDORS}


def test_there_are_twelve_files_of_at_least_40_lines():
    assert len(FILES) == 12
    assert all(len(path.read_text().splitlines()) >= 40 for path in FILES)


@pytest.mark.parametrize("oddity", ODDITIES)
def test_each_oddity_is_in_at_least_two_files(oddity):
    found = [path.name for path in FILES if ODDITIES[oddity](content(path), path.read_text())]
    assert len(found) >= 2, found


def variables(upstream):
    secrets = {name: f"secret-of-{name.lower()}-1234567890" for name in CREDENTIALS}
    return (
        secrets
        | {name: upstream.url(slug) for name, slug in ADDRESSES.items()}
        | {"FAKE_BASE": upstream.url("fake").removesuffix("/v1")}
    )


@pytest.fixture
def environment(upstream, monkeypatch):
    """Also the vendors that are known by name are on this machine: no test calls one of them."""
    for name, value in variables(upstream).items():
        monkeypatch.setenv(name, value)
    for prefix, known in KNOWN.items():
        monkeypatch.setitem(KNOWN, prefix, replace(known, base_url=upstream.url(prefix)))


def said(path, *options):
    output = StringIO()
    try:
        call_command("load_config", str(path), *options, stdout=output)
    except SystemExit as ended:
        return ended.code, output.getvalue()
    return 0, output.getvalue()


def served():
    targets = RouteTarget.objects.filter(enabled=True, route__enabled=True, provider__enabled=True)
    return sorted(set(targets.values_list("route__name", flat=True)))


def check_calls(upstream):
    """As a strict provider would: each call has a path, a key and a model that its own account knows."""
    targets = RouteTarget.objects.select_related("provider")
    accounts = {
        (target.provider.base_url, f"Bearer {target.provider.api_key}", target.upstream_model)
        for target in targets
    }
    calls = [call for name in upstream.seen for call in upstream.calls(name)]
    for call in calls:
        base, path = call.path.split("/chat/")
        assert path == "completions"
        sent = f"http://127.0.0.1:{upstream.port}{base}", call.headers["authorization"]
        known = {model for *account, model in accounts if tuple(account) == sent}
        assert call.json["model"] in known or "*" in known, (call.path, call.json["model"])
    return len(calls)


def check_reports(reports):
    for report in reports:
        assert report.place, report
        assert report.reason, report
        assert report.remedy, report
    assert "secret-of-" not in "\n".join(map(str, reports))
    assert len({(report.reason, report.remedy, report.subject) for report in reports}) == len(reports)


@pytest.mark.django_db
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_a_load_reports_with_place_reason_and_remedy_and_a_second_changes_nothing(path):
    planned = load_file(path, dry_run=True)
    assert not Provider.objects.exists()
    assert said(path, "--strict")[0] == (3 if planned.reports else 0)
    assert not ModelRoute.objects.exists()
    done = load_file(path)
    assert (done.changes, done.reports) == (planned.changes, planned.reports)
    assert done.reports
    check_reports(done.reports)
    status, output = said(path)
    assert status == 0
    assert "nothing to change" in output
    assert output.rstrip().endswith(f"{len(done.reports)} report{'s' * (len(done.reports) != 1)}")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_each_route_of_a_file_that_is_served_answers(door, upstream, published, path):
    load_file(path)
    assert not load_file(path).changes
    assert served() == sorted(SERVED[path.stem])
    _, key = make_key()
    published()
    for name in served():
        asked = name.replace("*", "any")
        assert door.chat(key, asked, max_tokens=20).status_code == 200, name
    assert check_calls(upstream) == len(served())


ON_POSTGRES = """
from dataclasses import replace
from routing.config.known_providers import KNOWN
from routing.config.loader import load_file
from routing.models import RouteTarget
for prefix, known in KNOWN.items():
    KNOWN[prefix] = replace(known, base_url={upstream!r}.format(prefix))
first, second = load_file({path!r}), load_file({path!r})
assert first.reports and all(report.place and report.reason and report.remedy for report in first.reports)
assert not second.changes and second.reports == first.reports, second.changes
served = RouteTarget.objects.filter(enabled=True, route__enabled=True, provider__enabled=True)
print(*sorted(set(served.values_list("route__name", flat=True))), sep="\\n")
"""


@needs("Postgres")
@pytest.mark.parametrize("path", FILES, ids=by_name)
def test_each_file_is_loaded_into_postgres_and_served_from_there(path, tmp_path, upstream, postgres_server):
    database = postgres_server.create_database(f"files_{path.stem}", migrated=True)
    gateway = LiveGateway(tmp_path / "data", {"DATABASE_URL": database} | variables(upstream))
    code = ON_POSTGRES.format(upstream=upstream.url("{}"), path=str(path))
    assert gateway.manage("shell", "-v0", "-c", code).stdout.split("\n")[:-1] == (
        sorted(SERVED[path.stem]) or [""]
    )
    gateway.manage("create_key", "app", "--key", KEY)
    gateway.start()
    try:
        for name in SERVED[path.stem]:
            asked = name.replace("*", "any")
            answer = Door("fast_lane", gateway.url).chat(KEY, asked, max_tokens=20)
            assert answer.status_code == 200, name
    finally:
        gateway.stop()


@pytest.mark.django_db
@pytest.mark.usefixtures("environment")
def test_the_same_error_of_39_entries_is_said_once_with_a_count():
    for name in ("vllm_farm", "many_errors"):
        path = next(path for path in FILES if path.stem == name)
        assert len([report for report in load_file(path).reports if "39 in all" in report.place]) == 1


def limits():
    """Of each target that serves, by what it is; no limit is infinite."""
    return {
        (target.route.name, target.provider.base_url, target.upstream_model): [
            float("inf") if limit is None else limit
            for limit in (target.rpm, target.tpm, target.parallel, target.budget_usd)
        ]
        for target in RouteTarget.objects.filter(enabled=True).select_related("route", "provider")
        if target.route.enabled and target.provider.enabled
    }


def touched(targets, number):
    """An admin's hand, between two loads."""
    target = targets[number % len(targets)] if targets else None
    if target is not None:
        target.rpm = 1
        target.save()


@pytest.mark.django_db
@pytest.mark.usefixtures("environment")
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.sampled_from(FILES), min_size=2, max_size=5), hand=st.none() | st.integers(0, 50))
def test_after_any_sequence_of_loads_the_last_files_routes_have_a_target(order, hand):
    with transaction.atomic():
        load_file(order[-1])
        alone = limits()
        transaction.set_rollback(True)
    with transaction.atomic():
        for number, path in enumerate(order):
            check_reports(load_file(path).reports)
            if hand is not None and number == 0:
                touched(list(RouteTarget.objects.order_by("pk")), hand)
        found = limits()
        assert {name for name, *_ in alone} <= {name for name, *_ in found}
        for target, most in alone.items():
            if target in found:
                assert all(now <= limit for now, limit in zip(found[target], most, strict=True)), target
        assert not load_file(order[-1]).changes
        transaction.set_rollback(True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**25) | st.floats() | st.text("a0-.*/ ", max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2),
    max_leaves=4,
)
ODD = (
    "rpm",
    "tpm",
    "max_parallel_requests",
    "max_budget",
    "budget_duration",
    "weight",
    "timeout",
    "num_retries",
)


@pytest.mark.django_db
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(odd=st.dictionaries(st.sampled_from(ODD), JSON, max_size=4), rpm=st.integers(1, 1000))
def test_odd_values_are_reported_or_refused_and_never_loosen_a_limit(odd, rpm):
    params = {"model": "openai/m", "api_base": "http://127.0.0.1:9/v1", "rpm": rpm} | odd
    text = yaml.safe_dump({"model_list": [{"model_name": "r", "litellm_params": params}]}).encode()
    with transaction.atomic():
        refused = None
        try:
            check_reports(load_text(text, "file").reports)
        except ConfigInvalid as problem:
            refused = problem
        if refused is not None:
            assert refused.problems
        else:
            assert not plan_text(text, "file").changes
            for target in RouteTarget.objects.all():
                for name, field in (("rpm", "rpm"), ("tpm", "tpm"), ("max_parallel_requests", "parallel")):
                    limit, value = getattr(target, field), params.get(name)
                    if name in params and value is not None and target.enabled:
                        assert limit is not None, name
                        if isinstance(value, int | float):
                            assert limit <= value, name
        transaction.set_rollback(True)
