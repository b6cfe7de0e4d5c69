"""load_config: what a litellm_config.yaml turns into, and what a load says."""

from collections.abc import Callable
from decimal import Decimal
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.test import override_settings

from routing import gateway_keys
from routing.config.loader import ConfigInvalid, load_file, load_text, plan_text
from routing.models import ApiKey, GatewaySettings, ModelRoute, Provider, RouteTarget, RoutingVersion
from tests.factories import make_key, make_provider, make_route, make_target

pytestmark = pytest.mark.django_db

SPECIFICATION = Path(__file__).parent / "data" / "litellm_config_spec.yaml"
VARIABLES = {
    "ZAI_API_KEY": "zai-secret-1234567890",
    "OPENAI_API_KEY": "openai-secret-1234567890",
    "PROXY_API_KEY": "sk-proxy-secret-1234567890",
    "MASTER_KEY": "sk-master-secret-1234567890",
    "DATABASE_URL": "postgres://someone:database-secret@localhost/x",
}

Write = Callable[[str], Path]


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write_file


def load(path: Path, *options: str) -> str:
    output = StringIO()
    call_command("load_config", str(path), *options, stdout=output)
    return output.getvalue()


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        load_file(path)
    return list(caught.value.problems)


def version() -> int:
    return RoutingVersion.objects.values_list("number", flat=True).first() or 0


def entry(name: str = "gpt-4", model: str = "openai/gpt-4", more: str = "") -> str:
    return f"model_list: [{{model_name: {name}, litellm_params: {{model: {model}{more}}}}}]\n"


# The specification's file


@pytest.mark.usefixtures("variables")
def test_the_specifications_file_gives_its_three_routes_and_two_providers() -> None:
    load(SPECIFICATION)
    assert {route.name for route in ModelRoute.objects.all()} == {
        "z-ai/glm-4-flash",
        "z-ai/glm-4-plus",
        "gpt-3.5-turbo",
    }
    assert {
        (target.route.name, target.provider.slug, target.upstream_model)
        for target in RouteTarget.objects.all()
    } == {
        ("z-ai/glm-4-flash", "z-ai", "glm-4-flash"),
        ("z-ai/glm-4-plus", "z-ai", "glm-4-plus"),
        ("gpt-3.5-turbo", "openai", "gpt-3.5-turbo"),
    }
    assert {provider.slug for provider in Provider.objects.all()} == {"z-ai", "openai"}


@pytest.mark.usefixtures("variables")
def test_all_that_the_specifications_file_says_of_providers_takes_effect() -> None:
    load(SPECIFICATION)
    zai, openai = Provider.objects.get(slug="z-ai"), Provider.objects.get(slug="openai")
    assert (zai.dialect, zai.base_url) == ("zai", "https://open.bigmodel.cn/api/paas/v4")
    assert (openai.dialect, openai.base_url) == ("openai", "https://api.openai.com/v1")
    assert (zai.api_key, openai.api_key) == (VARIABLES["ZAI_API_KEY"], VARIABLES["OPENAI_API_KEY"])
    assert (zai.rpm, zai.retries, zai.retry_delay) == (100, 3, 1.0)
    assert (openai.rpm, openai.retries) == (None, 1)
    for provider in (zai, openai):
        assert (provider.health_interval, provider.connect_timeout, provider.read_timeout) == (30, 10, 60)
    proxied = {"x-proxy-url": "true", "x-proxy-provider": "z-ai-gateway"}
    assert openai.extra_headers == proxied
    assert zai.extra_headers == {"User-Agent": "ZAI-Gateway/1.0", **proxied}
    assert GatewaySettings.load().cors_origins == [
        "http://localhost:3000",
        "http://localhost:3001",
        "https://yourapp.com",
    ]


@pytest.mark.usefixtures("variables")
def test_zai_starts_with_the_specifications_version_defaults_and_callers_keys() -> None:
    load(SPECIFICATION)
    zai = Provider.objects.get(slug="z-ai")
    assert (zai.api_version, zai.allow_caller_key, zai.when_unhealthy) == ("2024-01-01", True, "refuse")
    route = ModelRoute.objects.get(name="z-ai/glm-4-flash")
    assert route.default_parameters == {"temperature": 0.7, "max_tokens": 1000}
    assert route.max_messages == 50
    plain = ModelRoute.objects.get(name="gpt-3.5-turbo")
    assert (plain.default_parameters, plain.max_messages) == ({}, None)


@pytest.mark.usefixtures("variables")
def test_the_files_keys_become_gateway_keys_stored_by_hash() -> None:
    load(SPECIFICATION)
    hashes = dict(ApiKey.objects.values_list("name", "key_hash"))
    assert hashes == {
        "proxy": gateway_keys.digest(VARIABLES["PROXY_API_KEY"]).hex(),
        "master": gateway_keys.digest(VARIABLES["MASTER_KEY"]).hex(),
    }


@pytest.mark.usefixtures("variables")
def test_a_second_load_changes_nothing_and_says_so() -> None:
    load(SPECIFICATION)
    before = version()
    assert "nothing to change" in load(SPECIFICATION)
    assert version() == before


@pytest.mark.usefixtures("no_variables")
def test_missing_variables_are_named_and_providers_are_created_without_key() -> None:
    output = load(SPECIFICATION)
    for place in ("model_list[0].litellm_params.api_key", "model_list[1].litellm_params.api_key"):
        assert place in output.split("the environment variable ZAI_API_KEY is not set")[0]
    assert "litellm_params.api_key: the environment variable PROXY_API_KEY is not set" in output
    assert {provider.slug: provider.api_key for provider in Provider.objects.all()} == {
        "z-ai": "",
        "openai": "",
    }
    assert not ApiKey.objects.exists()
    assert "nothing to change" in load(SPECIFICATION)


@pytest.mark.usefixtures("variables")
def test_keys_without_effect_are_reported_with_the_reason() -> None:
    output = load(SPECIFICATION)
    place = "general_settings.database_url, litellm_params.database_url"
    assert f"{place}: no effect: comes from the environment; set DATABASE_URL" in output
    assert "general_settings.response_format: no effect: always so" in output
    place = "model_list[0].litellm_params.api_version, model_list[1].litellm_params.api_version"
    assert f"{place}: no effect: the address ends with it already" in output


@pytest.mark.usefixtures("variables")
def test_no_credential_is_printed() -> None:
    output = load(SPECIFICATION, "--dry-run") + load(SPECIFICATION)
    for value in VARIABLES.values():
        assert value not in output


# What a load writes


@pytest.mark.usefixtures("variables")
def test_a_dry_run_prints_the_changes_and_writes_nothing() -> None:
    output = load(SPECIFICATION, "--dry-run")
    assert "would be created provider z-ai" in output
    assert "nothing was written" in output
    assert not Provider.objects.exists()
    assert not ApiKey.objects.exists()
    assert version() == 0


@pytest.mark.usefixtures("variables")
def test_what_the_file_does_not_mention_stays_as_an_admin_left_it() -> None:
    load(SPECIFICATION)
    Provider.objects.filter(slug="z-ai").update(
        max_connections=7, extra_headers={"User-Agent": "Ours/2", "x-proxy-url": "edited"}
    )
    ModelRoute.objects.filter(name="z-ai/glm-4-flash").update(default_parameters={"temperature": 0.1})
    assert "changed provider z-ai: extra_headers" in load(SPECIFICATION)
    provider = Provider.objects.get(slug="z-ai")
    assert provider.max_connections == 7
    assert provider.extra_headers["User-Agent"] == "Ours/2"
    assert provider.extra_headers["x-proxy-url"] == "true"
    assert ModelRoute.objects.get(name="z-ai/glm-4-flash").default_parameters == {"temperature": 0.1}


def test_limits_weight_order_and_prices_become_the_targets(write: Write) -> None:
    load(
        write(
            entry(
                more=", rpm: 10, tpm: '2000', max_parallel_requests: 3, weight: 5, order: 2,"
                " input_cost_per_token: 0.00000015, output_cost_per_token: 1e-6,"
                " cache_read_input_token_cost: 7.5e-08"
            )
        )
    )
    target = RouteTarget.objects.get()
    assert (target.rpm, target.tpm, target.parallel, target.weight, target.priority) == (10, 2000, 3, 5, 2)
    assert target.input_price == Decimal("0.15")
    assert target.output_price == Decimal("1")
    assert target.cached_input_price == Decimal("0.075")


def test_prices_may_stand_in_model_info_and_its_other_keys_are_reported(write: Write) -> None:
    output = load(
        write("""
model_list:
  - model_name: gpt-4
    litellm_params: {model: openai/gpt-4}
    model_info: {id: mine, input_cost_per_token: 0.00001}
""")
    )
    assert RouteTarget.objects.get().input_price == Decimal("10")
    assert "model_list[0].model_info.id: no effect" in output
    assert "input_cost_per_token" not in output


def test_entries_of_one_model_name_are_targets_of_one_route(write: Write) -> None:
    load(
        write("""
model_list:
  - {model_name: best, litellm_params: {model: openai/gpt-4o, order: 1, temperature: 0.2}}
  - {model_name: best, litellm_params: {model: vllm/llama, api_base: "http://v:8000/v1", order: 2, seed: 7}}
""")
    )
    route = ModelRoute.objects.get()
    assert [str(target) for target in route.targets.all()] == ["best → openai/gpt-4o", "best → vllm/llama"]
    assert route.default_parameters == {"temperature": 0.2, "seed": 7}
    assert Provider.objects.get(slug="vllm").dialect == "openai"


def test_another_address_or_key_under_one_prefix_is_another_provider(write: Write) -> None:
    path = write("""
model_list:
  - {model_name: a, litellm_params: {model: openai/a, api_key: key-one}}
  - {model_name: b, litellm_params: {model: openai/b, api_key: key-two}}
  - {model_name: c, litellm_params: {model: openai/c, api_base: "http://elsewhere/v1", api_key: key-one}}
  - {model_name: d, litellm_params: {model: openai/d}}
""")
    load(path)
    assert {target.route.name: target.provider.slug for target in RouteTarget.objects.all()} == {
        "a": "openai",
        "b": "openai-2",
        "c": "openai-3",
        "d": "openai",
    }
    assert Provider.objects.get(slug="openai-2").api_key == "key-two"
    assert "nothing to change" in load(path)


def test_a_model_without_prefix_is_named_after_its_host(write: Write) -> None:
    load(
        write("""
model_list:
  - {model_name: a, litellm_params: {model: glm-4, api_base: "https://api.z.ai/api/paas/v4"}}
  - {model_name: b, litellm_params: {model: llama, api_base: "http://llama.internal:8000/v1"}}
  - {model_name: c, litellm_params: {model: openai/org/model, custom_llm_provider: mine, api_base: "http://m/v1"}}
""")
    )
    assert {
        (row.provider.slug, row.provider.dialect, row.upstream_model) for row in RouteTarget.objects.all()
    } == {
        ("z-ai", "zai", "glm-4"),
        ("llama.internal", "openai", "llama"),
        ("mine", "openai", "openai/org/model"),
    }


def test_another_api_version_for_zai_is_sent(write: Write) -> None:
    load(write(entry(model="z-ai/glm-4", more=", api_version: 2025-06-01")))
    assert Provider.objects.get().api_version == "2025-06-01"


def test_timeouts_are_of_one_call_and_the_deadline_leaves_room_for_the_others(write: Write) -> None:
    path = write("""
model_list:
  - {model_name: slow, litellm_params: {model: openai/o1, timeout: 400}}
  - {model_name: slow, litellm_params: {model: openai/o2, timeout: 300}}
  - {model_name: quick, litellm_params: {model: openai/mini, timeout: 20, stream_timeout: 5}}
  - {model_name: usual, litellm_params: {model: openai/gpt-4}}
router_settings: {timeout: 120, num_retries: 1, fallbacks: [{slow: [quick, usual]}]}
litellm_settings: {request_timeout: 6000}
""")
    load(path)
    found = {
        row.name: (row.attempt_timeout, row.first_byte_timeout, row.deadline)
        for row in ModelRoute.objects.all()
    }
    assert found == {
        "slow": (400, None, 400 * 2 * 2 + 400 * 2),
        "quick": (20, 5, 600),
        "usual": (120, None, 600),
    }
    assert "nothing to change" in load(path)


def test_litellms_own_default_timeout_is_cut_to_the_longest_one(write: Write) -> None:
    output = load(write(entry() + "litellm_settings: {request_timeout: 6000}"))
    assert "litellm_settings.request_timeout: 6000 is out of range; 3600 is taken" in output
    route = ModelRoute.objects.get()
    assert (route.attempt_timeout, route.deadline) == (3600, 3600)


def test_model_group_aliases_become_aliases(write: Write) -> None:
    path = write(
        entry() + "router_settings: {model_group_alias: {best: gpt-4, old: {model: gpt-4, hidden: true}}}"
    )
    make_route(name="gpt-4", aliases=["mine"])
    assert "router_settings.model_group_alias.old.hidden: no effect" in load(path)
    assert ModelRoute.objects.get().aliases == ["mine", "best", "old"]
    assert "nothing to change" in load(path)


def test_settings_of_the_sections_for_all_and_for_one_provider(write: Write) -> None:
    load(
        write(
            entry(more=', max_retries: 7, organization: org-1, extra_headers: {X-Team: "a"}')
            + """
litellm_params:
  custom_headers: {x-team: b, x-other: c}
  read_timeout: 33
general_settings:
  health_check_interval: 45
  default_provider_configs:
    openai: {requests_per_minute: 9, max_retries: 3, timeout: 44}
    nobody: {requests_per_minute: 1}
"""
        )
    )
    provider = Provider.objects.get()
    assert (provider.rpm, provider.retries, provider.read_timeout, provider.health_interval) == (9, 7, 44, 45)
    assert {name.lower(): text for name, text in provider.extra_headers.items()} == {
        "openai-organization": "org-1",
        "x-team": "a",
        "x-other": "c",
    }


# Gateway keys


def test_another_value_gives_the_key_a_new_hash_and_the_same_value_is_left_alone(write: Write) -> None:
    load(write("general_settings: {master_key: sk-first-value}"))
    key = ApiKey.objects.get(name="master")
    assert "changed API key master: " in load(write("general_settings: {master_key: sk-second-value}"))
    key.refresh_from_db()
    assert key.key_hash == gateway_keys.digest("sk-second-value").hex()
    ApiKey.objects.update(name="renamed")
    assert "nothing to change" in load(write("general_settings: {master_key: sk-second-value}"))


@override_settings(MASTER_KEY="sk-of-the-environment")
def test_the_environments_master_key_needs_no_row(write: Write) -> None:
    output = load(write("general_settings: {master_key: sk-of-the-environment}"))
    assert "is the MASTER_KEY of the environment" in output
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("place", ["litellm_params: {api_key: %s}", "general_settings: {master_key: %s}"])
def test_a_key_that_can_be_guessed_moves_in_and_is_reported_without_being_shown(
    write: Write, place: str
) -> None:
    output = load(write(place % "sk-1234"))
    assert "key: has fewer than 20 characters: it is loaded, and whoever tries long enough" in output
    assert ApiKey.objects.get().key_hash == gateway_keys.digest("sk-1234").hex()
    assert "sk-1234" not in output
    assert "fewer than" not in load(write(place % "sk-twenty-characters"))


def test_a_key_with_a_blank_is_left_out_without_being_shown(write: Write) -> None:
    found = load(write("litellm_params: {api_key: s3cr3t one}" + "\n" + entry()))
    assert "litellm_params.api_key: allowed are printable ASCII characters without blanks" in found
    assert "s3cr3t" not in found
    assert not ApiKey.objects.exists()


def test_a_provider_that_moves_to_another_host_loses_its_stored_key(write: Write) -> None:
    make_provider(slug="vllm", base_url="http://one/v1", api_key="for-host-one")
    output = load(write(entry(model="vllm/a", more=", api_base: http://two/v1")))
    assert "moved to another host" in output
    assert Provider.objects.get().api_key == ""


# Environment references


def test_both_forms_of_references_are_replaced(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "inner")
    monkeypatch.setenv("LIMIT", "12")
    more = ', api_base: "http://${PLACE}.example/${PLACE}", rpm: os.environ/LIMIT, user: "$${PLACE} $PLACE"'
    load(write(entry(model="mine/x", more=more)))
    assert Provider.objects.get().base_url == "http://inner.example/inner"
    assert RouteTarget.objects.get().rpm == 12
    assert ModelRoute.objects.get().default_parameters == {"user": "${PLACE} $PLACE"}


def test_a_key_in_the_database_stays_where_its_variable_is_not_set(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(entry(more=", api_key: os.environ/SOME_KEY"))
    monkeypatch.setenv("SOME_KEY", "the-stored-one")
    load(path)
    monkeypatch.delenv("SOME_KEY")
    assert "SOME_KEY is not set" in load(path)
    assert Provider.objects.get().api_key == "the-stored-one"


@pytest.mark.parametrize("name", ["MASTER_KEY", "SECRET_KEY", "ENCRYPTION_KEYS"])
@pytest.mark.parametrize("form", ["os.environ/{}", '"${{{}}}"', '"Bearer ${{{}}}"'])
def test_no_provider_is_sent_a_secret_of_the_gateways_own(
    name: str, form: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "secret-of-the-gateways-own-0123456789")
    said = load(write(entry(more=f", api_key: {form.format(name)}")))
    assert f"{name} is the gateway's own secret; it may stand for master_key only" in said
    assert Provider.objects.get().api_key == ""
    said = load(write(entry() + f"general_settings: {{master_key: os.environ/{name}}}"))
    assert "own secret" not in said


def test_wrong_references_and_needed_variables_leave_out_what_needs_them(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    output = load(write(entry(more=', user: "${1X}", seed: 7')))
    assert "model_list[0].litellm_params.user: a reference to the environment has no name" in output
    assert ModelRoute.objects.get().default_parameters == {"seed": 7}
    other = entry(model="mine/x", name="mine", more=", api_base: os.environ/NOT_THERE")
    assert (
        "model_list[0].litellm_params.api_base: the environment variable NOT_THERE is not set; this"
        in load(write(other + "general_settings: {master_key: sk-twenty-characters}"))
    )
    assert not ModelRoute.objects.filter(name="mine").exists()


def test_a_default_stands_in_for_a_variable_that_is_not_set(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    path = write(entry(more=', api_base: "http://${NOT_THERE:-models.internal}:8000/v1"'))
    load(path)
    assert Provider.objects.get().base_url == "http://models.internal:8000/v1"
    monkeypatch.setenv("NOT_THERE", "elsewhere")
    load(path)
    assert Provider.objects.get().base_url == "http://elsewhere:8000/v1"


# What is odd


ODD = """
model_list:
  - {model_name: fine, litellm_params: {model: openai/gpt-4, rpm: x, timeout: 99999}}
  - {litellm_params: {model: openai/gpt-4, weight: 5000}}
  - {model_name: nowhere, litellm_params: {model: strange/x}}
  - {model_name: "two words", litellm_params: {model: openai/b}}
  - {model_name: no-parameters}
  - {model_name: odd, litellm_params: {model: odd/b, api_base: "ftp://x"}}
  - {model_name: fine, litellm_params: {model: openai/gpt-4}}
litellm_params: {read_timeout: -1, cors_origins: ["http://a/path"]}
router_settings: {fallbacks: [{fine: [unknown]}]}
"""


def test_what_can_be_served_is_loaded_and_the_rest_is_reported_with_its_place(write: Write) -> None:
    found = load(write(ODD))
    for expected in (
        "model_list[0].litellm_params.rpm: 'x' is not a number; the target is loaded disabled. To do: ",
        "model_list[0].litellm_params.timeout: 99999 is out of range; 3600 is taken. To do: write 0.05",
        "model_list[1].model_name: is missing; this entry is left out. To do: write it",
        "model_list[2].litellm_params.api_base: is missing, and the model's prefix is none whose address",
        "model_list[4].litellm_params: is missing; this entry is left out",
        "model_list[5].litellm_params.api_base: Allowed is an http or https URL",
        "model_list[6]: is the same model of the same provider as model_list[0]",
        "litellm_params.read_timeout: -1 is out of range; 0.1 is taken",
        "litellm_params.cors_origins: 'http://a/path' is not an origin",
        "router_settings.fallbacks[0].fine: unknown route 'unknown'; it is left out of this list",
    ):
        assert expected in found
    assert {str(row): row.enabled for row in RouteTarget.objects.all()} == {
        "fine → openai/gpt-4": False,
        "two words → openai/b": True,
    }
    assert "nothing to change" in load(write(ODD))


@pytest.mark.parametrize(
    ("said", "enabled", "limits"),
    [
        ("rpm: 0", False, (None, None)),
        ("tpm: -5", False, (None, None)),
        ("rpm: 10.9", True, (10, None)),
        ('rpm: "${NOT_SET_ANYWHERE}"', False, (None, None)),
        ("max_parallel_requests: none", False, (None, None)),
        ("tags: {a: b}", False, (None, None)),
        ("max_budget: lots", False, (None, None)),
        ("max_budget: 5, budget_duration: 1h", True, (None, "day")),
        ("max_budget: 5, budget_duration: 30s", True, (None, "day")),
        ("max_budget: 5, budget_duration: 14d", True, (None, "month")),
        ("max_budget: 5, budget_duration: 90d", True, (None, "total")),
        ("max_budget: 5, budget_duration: sometimes", True, (None, "total")),
        ("max_budget: 5", True, (None, "total")),
    ],
)
def test_a_limit_that_cannot_be_taken_becomes_stricter_or_closes_its_target(
    write: Write, said: str, enabled: bool, limits: tuple[int | None, str | None]
) -> None:
    path = write(entry(more=f", {said}"))
    output = load(path)
    target = RouteTarget.objects.get()
    assert target.enabled is enabled
    assert target.rpm == limits[0]
    if limits[1]:
        assert (target.budget_usd, target.budget_period) == (5, limits[1])
    assert ("1 report" in output.splitlines()[-1]) is (said not in ("max_budget: 5",)) or "openai" in output
    assert "nothing to change" in load(path)


@pytest.mark.parametrize(
    ("prefix", "address"),
    [
        ("groq", "https://api.groq.com/openai/v1"),
        ("openrouter", "https://openrouter.ai/api/v1"),
        ("together_ai", "https://api.together.xyz/v1"),
        ("deepseek", "https://api.deepseek.com/v1"),
        ("mistral", "https://api.mistral.ai/v1"),
        ("xai", "https://api.x.ai/v1"),
        ("anthropic", "https://api.anthropic.com/v1"),
    ],
)
def test_known_vendors_need_no_address(write: Write, prefix: str, address: str) -> None:
    load(write(entry(name='"m/*"', model=f'"{prefix}/*"')))
    assert Provider.objects.get().base_url == address


def test_fractions_are_weights_and_a_target_that_is_there_twice_has_both(write: Write) -> None:
    path = write("""
model_list:
  - {model_name: 4.50, litellm_params: {model: openai/a, weight: 0.7}}
  - {model_name: 4.50, litellm_params: {model: openai/b, weight: 0.1}}
  - {model_name: 4.50, litellm_params: {model: openai/b, weight: 0.2}}
""")
    load(path)
    assert ModelRoute.objects.get().name == "4.50"
    assert dict(RouteTarget.objects.values_list("upstream_model", "weight")) == {"a": 7, "b": 3}


def test_the_same_reason_for_many_entries_is_said_once_with_a_count(write: Write) -> None:
    entries = "".join(
        f"  - {{model_name: m{n}, litellm_params: {{model: openai/m{n}, rpm: 0}}}}\n" for n in range(39)
    )
    output = load(write(f"model_list:\n{entries}"))
    (line,) = [line for line in output.splitlines() if "refuses everything" in line]
    assert line.startswith(
        "report: model_list[0].litellm_params.rpm, model_list[1].litellm_params.rpm and 37 more (39 in all): "
    )


def test_the_exit_status_says_whether_anything_was_loaded(write: Write) -> None:
    for text, options, status in (
        ("litellm_settings: {drop_params: true}", (), 1),
        ("model_list: []", (), 1),
        (entry(more=", rpm: 0"), ("--strict",), 3),
    ):
        with pytest.raises(SystemExit) as ended:
            load(write(text), *options)
        assert ended.value.code == status
        assert not RouteTarget.objects.exists()
    load(write(entry(more=", api_key: sk-1")), "--strict")
    assert RouteTarget.objects.exists()


@pytest.mark.parametrize(
    "around",
    [
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: x}}\ndata:\n  config.yaml: |\n    {}",
        "apiVersion: v1\nkind: Service\n---\nkind: ConfigMap\ndata:\n  config.yaml: |\n    {}",
        "proxy_config:\n  {}",
    ],
)
def test_what_stands_around_the_file_is_taken_off(write: Write, around: str) -> None:
    load(write(around.format(entry())))
    assert ModelRoute.objects.get().name == "gpt-4"


def test_a_key_in_the_wrong_section_is_taken_and_reported_with_its_right_place(write: Write) -> None:
    output = load(
        write(
            entry()
            + "litellm_settings: {master_key: sk-twenty-characters, routing_strategy: usage-based-routing-v2}"
        )
    )
    assert "litellm_settings.master_key: belongs into general_settings; it is taken" in output
    assert "litellm_settings.routing_strategy: usage-based-routing-v2 is not there" in output
    assert ApiKey.objects.get().name == "master"
    assert ModelRoute.objects.get().strategy == "least_busy"


def test_an_alias_that_is_a_routes_name_is_left_out_at_its_place(write: Write) -> None:
    output = load(write(entry() + "router_settings: {model_group_alias: {gpt-4: gpt-4}}"))
    assert "router_settings.model_group_alias.gpt-4: 'gpt-4' is a model_name itself" in output


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [secret-value", ", line 1, column 17: is not valid YAML"),
        ("api_key: *secret-value", "is not valid YAML (found undefined alias …)"),
        ("api_key: !secret-value x", "is not valid YAML"),
        ("a: &a [*a]", "allowed are mappings, lists, texts, numbers and true or false only"),
    ],
)
def test_unreadable_yaml_is_named_without_showing_it(write: Write, text: str, reason: str) -> None:
    (found,) = problems(write(text))
    assert reason in found
    assert "secret-value" not in found


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.yaml") == [
        f"{tmp_path}/none.yaml: can't be read: No such file or directory"
    ]
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    assert problems(tmp_path / "latin.yaml") == [f"{tmp_path}/latin.yaml: is not UTF-8 text"]


def test_a_credential_without_quotes_is_taken_as_it_is_written(write: Write) -> None:
    load(write(entry(more=", api_key: 012345678901234567890")))
    assert Provider.objects.get().api_key == "012345678901234567890"
    found = load(write(entry(more=', api_key: "two words-secret"')))
    assert (
        "model_list[0].litellm_params.api_key: allowed are printable ASCII characters without blanks" in found
    )
    assert "two words" not in found


def test_unknown_keys_are_reported_one_by_one(write: Write) -> None:
    output = load(
        write(
            entry(more=", foo: 1, use_in_pass_through: true, drop_params: true")
            + "general_settings: {bar: 1}\nextra: {a: 1}\nenvironment_variables: {A: b}"
        )
    )
    assert "report: model_list[0].litellm_params.foo: unknown key, ignored" in output
    assert "report: model_list[0].litellm_params.use_in_pass_through: unknown key, ignored" in output
    assert "report: general_settings.bar: unknown key, ignored" in output
    assert "report: extra: unknown key, ignored" in output
    assert "litellm_params.drop_params: no effect: " in output
    assert "report: environment_variables: no effect: " in output


def test_settings_that_are_not_there_yet_are_reported(write: Write) -> None:
    output = load(write(entry() + "router_settings: {retry_after: 3, routing_strategy: by-the-moon}"))
    assert "router_settings.retry_after: no effect: " in output
    assert "router_settings.routing_strategy: no effect: known are simple-shuffle, least-busy" in output
    assert "routing_strategy" not in load(
        write(entry() + "router_settings: {routing_strategy: simple-shuffle}")
    )


# --prune


def test_prune_deletes_what_the_file_does_not_list_but_no_keys(write: Write) -> None:
    load(write(entry()))
    make_target(route=ModelRoute.objects.get(name="gpt-4"), provider=make_provider(slug="other"))
    make_target(route=make_route(name="stale"))
    make_key(name="kept")
    output = load(write(entry()), "--prune")
    assert "deleted route stale" in output
    assert [str(target) for target in RouteTarget.objects.all()] == ["gpt-4 → openai/gpt-4"]
    assert [provider.slug for provider in Provider.objects.all()] == ["openai"]
    assert ApiKey.objects.filter(name="kept").exists()
    assert "nothing to change" in load(write(entry()), "--prune")


def test_prune_never_opens_all_routes_to_a_key_that_had_one(write: Write) -> None:
    stale = make_route(name="stale")
    key, _ = make_key(name="narrow", allowed_routes=[stale])
    output = load(write(entry()), "--prune")
    assert "route stale: disabled, not deleted: the API key narrow may use nothing else" in output
    stale.refresh_from_db()
    assert not stale.enabled
    assert list(key.allowed_routes.all()) == [stale]
    assert "nothing to change" in load(write(entry()), "--prune")


def test_a_file_without_entries_prunes_nothing(write: Write) -> None:
    make_route(name="precious")
    output = load(write("general_settings: {master_key: sk-twenty-characters}"), "--prune")
    assert "model_list: has no entry, so that nothing is pruned" in output
    assert ModelRoute.objects.exists()


def test_prune_spares_what_an_entry_that_could_not_be_taken_may_mean(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = entry(name="mine", model="mine/x", more=", api_base: os.environ/SOMEWHERE").replace(
        "model_list: [", ""
    )
    path = write(entry().strip().removesuffix("]") + ", " + text)
    monkeypatch.setenv("SOMEWHERE", "http://somewhere/v1")
    load(path)
    monkeypatch.delenv("SOMEWHERE")
    load(path, "--prune")
    assert RouteTarget.objects.filter(route__name="mine", provider__slug="mine").exists()


def test_a_file_without_settings_says_that_it_has_none(write: Write) -> None:
    for text in ("", "# nothing yet\n", "{}", "model_list:\n", "just words"):
        (said,) = load_file(write(text)).reports
        assert said.reason == "holds no settings"


def test_a_number_too_large_for_anything_is_the_largest_that_is_allowed(write: Write) -> None:
    output = load(write(entry(more=f", rpm: {10**40}")))
    assert "is out of range; 2147483647 is taken" in output
    assert RouteTarget.objects.get().rpm == 2**31 - 1


def test_of_a_key_in_two_wrong_places_the_second_is_named_as_such(write: Write) -> None:
    text = entry() + "litellm_settings: {routing_strategy: least-busy}\nrouting_strategy: simple-shuffle\n"
    output = load(write(text))
    assert "routing_strategy: belongs into router_settings; it is taken" in output
    assert "litellm_settings.routing_strategy: no effect: routing_strategy says it already" in output


def test_a_planned_text_is_loaded_only_while_nothing_was_edited_since(write: Write) -> None:
    text = write(entry()).read_bytes()
    plan = plan_text(text, "upload")
    assert [str(change) for change in plan.changes][-1] == "created target gpt-4 → openai/gpt-4"
    assert not ModelRoute.objects.exists()
    make_route(name="made-meanwhile")
    with pytest.raises(ConfigInvalid, match="was edited since this was planned"):
        load_text(text, "upload", planned_at=plan.version)
    load_text(text, "upload", planned_at=plan_text(text, "upload").version)
    assert ModelRoute.objects.filter(name="gpt-4").exists()
