"""Fallbacks in litellm_config.yaml, both ways."""

import pytest
import yaml

from routing.config import dumper
from routing.config.loader import load_file
from routing.models import ModelRoute, Provider, RouteFallback
from tests.factories import make_fallback, make_route

pytestmark = pytest.mark.django_db

MODELS = """
model_list:
  - {model_name: best, litellm_params: {model: openai/gpt-4o, api_key: sk-1}}
  - {model_name: cheap, litellm_params: {model: openai/mini, api_key: sk-1}}
  - {model_name: large, litellm_params: {model: openai/long, api_key: sk-1}}
"""


@pytest.fixture
def load(tmp_path):
    def load(text, **options):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return load_file(path, **options)

    return load


def lists(kind="error"):
    found = {}
    for link in RouteFallback.objects.filter(kind=kind).order_by("route__name", "position", "pk"):
        found.setdefault(link.route.name, []).append(link.fallback.name)
    return found


@pytest.mark.parametrize("section", ["router_settings", "litellm_settings"])
@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("fallbacks", "error"),
        ("context_window_fallbacks", "context"),
        ("content_policy_fallbacks", "policy"),
    ],
)
def test_each_of_litellms_lists_becomes_a_list_of_its_kind(load, section, word, kind):
    text = f"{MODELS}{section}: {{{word}: [{{best: [large, cheap]}}, {{cheap: [large]}}]}}"
    assert load(text).reports == ()
    assert lists(kind) == {"best": ["large", "cheap"], "cheap": ["large"]}
    assert RouteFallback.objects.count() == 3
    assert ModelRoute.objects.get(name="best").targets.count() == 1
    assert load(text).changes == ()


@pytest.mark.parametrize(
    "setting", ["default_fallbacks: [cheap, large]", 'fallbacks: [{best: [large]}, {"*": [cheap, large]}]']
)
def test_the_default_is_for_the_routes_of_the_file_without_a_list(load, setting):
    make_route(name="elsewhere")
    own = "" if "best" in setting else "fallbacks: [{best: [large]}], "
    text = f"{MODELS}router_settings: {{{own}{setting}}}"
    assert load(text).reports == ()
    assert lists() == {"best": ["large"], "cheap": ["large"], "large": ["cheap"]}
    assert load(text).changes == ()


def test_a_route_that_is_named_with_a_star_has_its_own_list(load):
    models = MODELS + '  - {model_name: "*", litellm_params: {model: openai/*}}\n'
    load(models + 'router_settings: {fallbacks: [{"*": [cheap]}]}')
    assert lists() == {"*": ["cheap"]}


def test_the_first_list_counts(load):
    text = (
        MODELS + "router_settings: {fallbacks: [{best: [cheap]}, {best: [large]}]}\n"
        "litellm_settings: {fallbacks: [{best: [large]}]}"
    )
    (said,) = load(text).reports
    assert said.place == "router_settings.fallbacks[1].best, litellm_settings.fallbacks[0].best"
    assert said.reason == "no effect: router_settings.fallbacks[0].best says it already"
    assert lists() == {"best": ["cheap"]}


def test_a_name_that_is_listed_twice_is_said(load):
    report = load(MODELS + "router_settings: {fallbacks: [{best: [cheap, large, cheap]}]}")
    (said,) = report.reports
    assert said.place == "router_settings.fallbacks[0].best"
    assert said.reason == "'cheap' is listed twice; the first counts"
    assert lists() == {"best": ["cheap", "large"]}


def test_a_changed_order_and_a_left_out_name_are_changes(load):
    load(MODELS + "router_settings: {fallbacks: [{best: [cheap, large]}]}")
    report = load(MODELS + "router_settings: {fallbacks: [{best: [large, cheap]}]}")
    assert [str(change) for change in report.changes] == [
        "changed fallback best → large (error): position",
        "changed fallback best → cheap (error): position",
    ]
    report = load(MODELS + "router_settings: {fallbacks: [{best: [cheap]}]}")
    assert [str(change) for change in report.changes] == [
        "deleted fallback best → large (error)",
        "changed fallback best → cheap (error): position",
    ]
    assert lists() == {"best": ["cheap"]}


def test_what_the_file_does_not_mention_stays_unless_it_is_pruned(load):
    load(MODELS)
    best, cheap = (ModelRoute.objects.get(name=name) for name in ("best", "cheap"))
    make_fallback(best, cheap, position=7)
    make_fallback(cheap, best, kind="policy")
    same = MODELS + "router_settings: {fallbacks: [{best: [cheap]}]}"
    assert load(same).changes == ()
    report = load(same, prune=True)
    assert [str(change) for change in report.changes] == ["deleted fallback cheap → best (policy)"]
    assert RouteFallback.objects.get().position == 7


def test_the_routes_may_be_those_that_are_there(load):
    make_route(name="mine")
    load(MODELS + "router_settings: {fallbacks: [{mine: [best]}, {best: [mine]}]}")
    assert lists() == {"best": ["mine"], "mine": ["best"]}


def test_a_dry_run_says_it_and_writes_nothing(load):
    report = load(MODELS + "router_settings: {fallbacks: [{best: [cheap]}]}", dry_run=True)
    assert "would be created fallback best → cheap (error)" in report.lines()
    assert not RouteFallback.objects.exists()


def test_names_that_can_be_no_fallbacks_are_left_out_and_the_rest_of_the_list_is_kept(load):
    text = (
        MODELS
        + """
  - {model_name: "open/*", litellm_params: {model: openai/*}}
router_settings:
  fallbacks: [{best: [unknown, large]}, {nowhere: [best]}, {cheap: [cheap]}, {large: ["open/*"]}]
  context_window_fallbacks: [{best: cheap}]
  content_policy_fallbacks: {best: [cheap]}
  default_fallbacks: [gone]
"""
    )
    said = {(report.place, report.reason) for report in load(text).reports}
    assert said == {
        ("router_settings.fallbacks[0].best", "unknown route 'unknown'; it is left out of this list"),
        ("router_settings.fallbacks[1].nowhere", "unknown route 'nowhere'; this list is left out"),
        (
            "router_settings.fallbacks[2].cheap",
            "'cheap' can't be its own fallback; it is left out of this list",
        ),
        (
            "router_settings.fallbacks[3].large",
            "'open/*' is no single model, as its name ends with a *; it is left out of this list",
        ),
        ("router_settings.default_fallbacks", "unknown route 'gone'; it is left out of this list"),
    }
    assert lists() == {"best": ["large"]}
    assert lists("context") == lists("policy") == {"best": ["cheap"]}
    assert load(text).changes == ()


def test_the_own_section_has_the_settings_for_failures(load):
    text = (
        MODELS
        + """
switchstand:
  providers: {openai: {continues: plain}}
  routes: {best: {max_attempts: 3, stall_timeout: 1.5, hedge_after_ms: 250, on_cut: hold}}
"""
    )
    assert load(text).reports == ()
    best = ModelRoute.objects.get(name="best")
    assert (best.max_attempts, best.stall_timeout, best.hedge_after_ms, best.on_cut) == (3, 1.5, 250, "hold")
    assert Provider.objects.get().continues == "plain"
    (said,) = load(text.replace("hold", "sulk")).reports
    assert said.place == "switchstand.routes.best.on_cut"
    assert "sulk" in said.reason
    best.refresh_from_db()
    assert best.on_cut == "hold"


def test_a_dump_has_litellms_names(load):
    load(
        MODELS + "router_settings:\n"
        "  fallbacks: [{best: [large, cheap]}]\n"
        "  context_window_fallbacks: [{cheap: [large]}]"
    )
    assert yaml.safe_load(dumper.dump())["router_settings"] == {
        "fallbacks": [{"best": ["large", "cheap"]}],
        "context_window_fallbacks": [{"cheap": ["large"]}],
    }


def test_a_dump_takes_away_what_was_added_since(load):
    load(MODELS)
    text = dumper.dump()
    assert "router_settings" not in text
    make_fallback(ModelRoute.objects.get(name="best"), ModelRoute.objects.get(name="cheap"))
    assert [str(change) for change in load(text).changes] == ["deleted fallback best → cheap (error)"]
