"""load_config, again: what becomes of the rows that an earlier load of the same file has made."""

import os
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command

from routing.compiler import current_version
from routing.config import dumper
from routing.config.loader import LoadReport, load_file
from routing.models import ApiKey, LoadedRow, ModelRoute, Provider, RouteTarget, Team
from tests.factories import make_provider, make_route, make_target
from tests.live import LiveGateway
from tests.optional import needs
from tests.services import PostgresServer

pytestmark = pytest.mark.django_db

Load = Callable[..., LoadReport]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Of one file, whose text is replaced."""

    def load_text(*entries: str, more: str = "", file: str = "config.yaml", **options: object) -> LoadReport:
        path = tmp_path / file
        path.write_text("model_list:\n" + "".join(f"  - {entry}\n" for entry in entries) + more)
        return load_file(path, **options)  # type: ignore[arg-type]

    return load_text


def entry(route: str = "r", model: str = "m", base: str = "http://one.example/v1", more: str = "") -> str:
    return f"{{model_name: {route}, litellm_params: {{model: mine/{model}, api_base: '{base}'{more}}}}}"


def targets() -> dict[str, bool]:
    rows = RouteTarget.objects.select_related("route", "provider")
    return {f"{row.route.name} {row.provider.base_url} {row.upstream_model}": row.enabled for row in rows}


def reasons(report: LoadReport) -> str:
    return "\n".join(map(str, report.reports))


ONE, TWO = "http://one.example/v1", "http://two.example/v1"


# An entry that says something else


def test_another_address_changes_the_targets_provider_in_place(load: Load) -> None:
    load(entry(base=ONE))
    before = RouteTarget.objects.get()
    report = load(entry(base=TWO))
    assert targets() == {f"r {TWO} m": True}
    assert RouteTarget.objects.get().pk == before.pk
    assert [str(change) for change in report.changes] == ["changed provider mine: base_url"]
    assert load(entry(base=TWO)).changes == ()


def test_the_same_where_the_providers_name_comes_from_its_host(load: Load) -> None:
    def bare(base: str) -> str:
        return entry(base=base).replace("mine/m", "m")

    load(bare(ONE))
    load(bare(TWO))
    assert targets() == {f"r {TWO} m": True}
    assert Provider.objects.count() == 1


def test_another_key_changes_the_provider_in_place_beside_a_second_account(load: Load) -> None:
    load(entry(more=", api_key: k1"), entry(more=", api_key: k2"))
    pks = {row.provider.api_key: row.pk for row in RouteTarget.objects.select_related("provider")}
    load(entry(more=", api_key: k3"), entry(more=", api_key: k2"))
    now = {row.provider.api_key: row.pk for row in RouteTarget.objects.select_related("provider")}
    assert now == {"k3": pks["k1"], "k2": pks["k2"]}
    load(entry(more=", api_key: k2"))
    assert {row.provider.api_key: row.enabled for row in RouteTarget.objects.select_related("provider")} == {
        "k3": False,
        "k2": True,
    }


def test_another_prefix_is_another_provider_and_takes_the_target_along(load: Load) -> None:
    load(entry())
    pk = RouteTarget.objects.get().pk
    load(entry().replace("mine/", "yours/"))
    row = RouteTarget.objects.get()
    assert (row.pk, row.provider.slug, row.enabled) == (pk, "yours", True)


def test_one_of_two_entries_that_moves_takes_its_target_along(load: Load) -> None:
    load(entry("a"), entry("b"))
    pk = RouteTarget.objects.get(route__name="a").pk
    RouteTarget.objects.filter(pk=pk).update(weight=7)  # by an admin
    load(entry("a", base=TWO), entry("b"))
    assert targets() == {f"a {TWO} m": True, f"b {ONE} m": True}
    moved = RouteTarget.objects.get(route__name="a")
    assert (moved.pk, moved.weight) == (pk, 7)


# An entry that is gone


def test_a_target_whose_entry_is_gone_is_disabled_by_one_load_and_deleted_by_the_next(load: Load) -> None:
    load(entry("a"), entry("b"))
    first = load(entry("a"))
    assert targets() == {f"a {ONE} m": True, f"b {ONE} m": False}
    assert [str(change) for change in first.changes] == ["disabled target b → mine/m"]
    assert "target b → mine/m: its entry is gone: it is disabled, and the next load" in reasons(first)
    second = load(entry("a"))
    assert targets() == {f"a {ONE} m": True}
    assert [str(change) for change in second.changes] == ["deleted target b → mine/m"]
    assert "target b → mine/m: its entry was gone at the load before, too: it is deleted" in reasons(second)
    assert "route b: has no target left" in reasons(second)
    version = current_version()
    third = load(entry("a"))
    assert (third.changes, third.reports) == ((), ())
    assert current_version() == version
    assert LoadedRow.objects.count() == 1


def test_an_entry_that_comes_back_in_between_opens_its_target_again(load: Load) -> None:
    load(entry("a"), entry("b"))
    load(entry("a"))
    load(entry("a"), entry("b"))
    assert targets() == {f"a {ONE} m": True, f"b {ONE} m": True}
    load(entry("a"))
    assert targets() == {f"a {ONE} m": True, f"b {ONE} m": False}, "it is the first load without it again"


def test_prune_deletes_it_at_once(load: Load) -> None:
    load(entry("a"), entry("a", "n"))
    report = load(entry("a"), prune=True)
    assert targets() == {f"a {ONE} m": True}
    assert report.reports == ()
    assert load(entry("a"), prune=True).changes == ()


def test_a_dry_run_shows_it_and_counts_as_no_load(load: Load) -> None:
    load(entry("a"), entry("b"))
    for _ in range(3):
        report = load(entry("a"), dry_run=True)
        assert "would be disabled target b → mine/m" in report.lines()
        assert "it is disabled, and the next load without it deletes it" in reasons(report)
    assert targets() == {f"a {ONE} m": True, f"b {ONE} m": True}
    load(entry("a"))
    report = load(entry("a"), dry_run=True)
    assert "would be deleted target b → mine/m" in report.lines()
    assert targets() == {f"a {ONE} m": True, f"b {ONE} m": False}


# What ends nothing


@pytest.mark.parametrize(
    "odd",
    [
        "{model_name: b, litellm_params: {model: mine/m, api_base: os.environ/NOT_SET_ANYWHERE}}",
        "{model_name: b, litellm_params: {model: mine/m, api_base: 'ftp://one.example'}}",
        "{model_name: b, litellm_params: {model: os.environ/NOT_SET_ANYWHERE}}",
        "{model_name: os.environ/NOT_SET_ANYWHERE, litellm_params: {model: mine/m}}",
        "{model_name: b, litellm_params: {model: unknown/m}}",
        "{model_name: b}",
        "just a word",
    ],
)
def test_an_entry_that_could_not_be_taken_ends_nothing(load: Load, odd: str) -> None:
    load(entry("a"), entry("b"))
    for _ in range(3):
        load(entry("a"), odd)
        assert targets() == {f"a {ONE} m": True, f"b {ONE} m": True}


def test_a_variable_that_is_not_set_ends_nothing(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    both = (entry("a", more=", api_key: os.environ/KEY_A"), entry("a", more=", api_key: os.environ/KEY_B"))
    monkeypatch.setenv("KEY_A", "k1")
    monkeypatch.setenv("KEY_B", "k2")
    load(*both)
    before = {row.pk: row.provider.api_key for row in RouteTarget.objects.select_related("provider")}
    for name in ("KEY_A", "KEY_B"):
        monkeypatch.delenv(name)
        for _ in range(3):
            load(*both)
            rows = RouteTarget.objects.select_related("provider")
            assert {row.pk: row.provider.api_key for row in rows} == before
            assert all(row.enabled for row in rows)


def test_a_list_without_entries_ends_nothing_and_says_so(load: Load, tmp_path: Path) -> None:
    load(entry("a"))
    for text in ("model_list: []\n", "model_list:\n", "general_settings: {}\n", ""):
        (tmp_path / "config.yaml").write_text(text)
        for _ in range(3):
            assert "the targets that this file made before stay" in reasons(
                load_file(tmp_path / "config.yaml")
            )
            assert targets() == {f"a {ONE} m": True}


def test_another_file_ends_nothing(load: Load) -> None:
    load(entry("a"))
    for _ in range(3):
        report = load(entry("b"), file="other.yaml")
        assert report.reports == ()
        assert targets() == {f"a {ONE} m": True, f"b {ONE} m": True}


def test_another_files_account_gets_a_provider_of_its_own(load: Load) -> None:
    load(entry("a", more=", api_key: k1"))
    load(entry("b", more=", api_key: k2"), file="other.yaml")
    load(entry("a", more=", api_key: k1"))
    found = {row.route.name: row.provider.api_key for row in RouteTarget.objects.select_related("provider")}
    assert found == {"a": "k1", "b": "k2"}


def test_one_file_moves_nothing_of_another_one(load: Load) -> None:
    """As long as both say the same, they share a provider."""
    for _ in range(2):
        load(entry("a"), entry("both"))
        load(entry("b"), entry("both"), file="other.yaml")
        assert Provider.objects.count() == 1
    for _ in range(2):
        load(entry("a", base=TWO), entry("both", base=TWO))
        load(entry("b"), entry("both"), file="other.yaml")
        found = {f"a {TWO} m", f"b {ONE} m", f"both {ONE} m", f"both {TWO} m"}
        assert targets() == dict.fromkeys(found, True)
        assert load(entry("b"), entry("both"), file="other.yaml").changes == ()


def test_a_target_that_two_files_list_stays_until_neither_does(load: Load) -> None:
    load(entry("a"), entry("b"))
    load(entry("b"), entry("c"), file="other.yaml")
    report = load(entry("a"))
    assert "other.yaml lists it too: it stays" in reasons(report)
    load(entry("a"))
    assert RouteTarget.objects.get(route__name="b").enabled
    load(entry("c"), file="other.yaml")
    assert not RouteTarget.objects.get(route__name="b").enabled
    load(entry("c"), file="other.yaml")
    assert not RouteTarget.objects.filter(route__name="b").exists()


def test_a_name_stands_for_a_path_that_changes(load: Load, tmp_path: Path) -> None:
    load(entry("a"), entry("b"), file="one.yaml", name="team")
    load(entry("a"), file="two.yaml", name="team")
    assert targets() == {f"a {ONE} m": True, f"b {ONE} m": False}
    output = StringIO()
    call_command("load_config", str(tmp_path / "two.yaml"), "--name", "team", stdout=output)
    assert "deleted target b → mine/m" in output.getvalue()


def test_a_link_is_the_file_whatever_it_leads_to(tmp_path: Path) -> None:
    """As a ConfigMap is mounted: each change is another directory."""
    for number, entries in enumerate(((entry("a"), entry("b")), (entry("a"),))):
        (tmp_path / f"..{number}.yaml").write_text(
            "model_list:\n" + "".join(f"  - {item}\n" for item in entries)
        )
    link = tmp_path / "config.yaml"
    os.symlink(tmp_path / "..0.yaml", link)
    load_file(link)
    link.unlink()
    os.symlink(tmp_path / "..1.yaml", link)
    load_file(link)
    assert targets() == {f"a {ONE} m": True, f"b {ONE} m": False}


# What is not the file's


def test_rows_from_before_stay_and_are_reported(load: Load) -> None:
    """Of a release that remembered nothing."""
    load(entry("a"), entry("b"))
    LoadedRow.objects.all().delete()
    load(entry("a"), entry("b"))
    for _ in range(3):
        report = load(entry("a"))
        assert report.changes == ()
        assert "target b → mine/m: its entry is gone, and no file made it: it stays" in reasons(report)


def test_what_an_admin_made_stays_and_is_reported_beside_the_files_own(load: Load) -> None:
    make_target(route=make_route(name="a"), provider=make_provider(slug="other"), upstream_model="x")
    make_target(route=make_route(name="elsewhere"), provider=make_provider(slug="third"))
    for _ in range(3):
        report = load(entry("a"))
        assert reasons(report).startswith("target a → other/x: is none of this file's targets, and stays")
        assert len(report.reports) == 1
    assert RouteTarget.objects.filter(enabled=True).count() == 3


@pytest.mark.parametrize("edit", [{"weight": 5}, {"enabled": False}, {"rpm": 10}, {"upstream_model": "x"}])
def test_what_an_admin_edited_since_stays_and_is_reported(load: Load, edit: dict[str, object]) -> None:
    load(entry("a"), entry("b"))
    RouteTarget.objects.filter(route__name="b").update(**edit)
    load(entry("a"), entry("a", "n"))
    for _ in range(3):
        report = load(entry("a"), entry("a", "n"))
        assert f"an admin edited it since ({next(iter(edit))}): it stays" in reasons(report)
        row = RouteTarget.objects.get(route__name="b")
        assert row.enabled is edit.get("enabled", True)


def test_a_disabled_target_that_an_admin_enables_stays(load: Load) -> None:
    load(entry("a"), entry("b"))
    load(entry("a"))
    RouteTarget.objects.update(enabled=True)
    for _ in range(3):
        assert "an admin edited it since (enabled): it stays" in reasons(load(entry("a")))
        assert targets() == {f"a {ONE} m": True, f"b {ONE} m": True}


def test_a_route_that_an_admin_renamed_keeps_its_target(load: Load) -> None:
    load(entry("a"))
    ModelRoute.objects.update(name="renamed")
    for _ in range(3):
        load(entry("a"))
        assert targets() == {f"a {ONE} m": True, f"renamed {ONE} m": True}


def test_what_the_file_says_again_is_the_files_again(load: Load) -> None:
    load(entry("a"), entry("b", more=", weight: 2"))
    RouteTarget.objects.filter(route__name="b").update(weight=9)
    load(entry("a"), entry("b", more=", weight: 2"))
    load(entry("a"))
    assert targets() == {f"a {ONE} m": True, f"b {ONE} m": False}


def test_a_dump_loaded_elsewhere_is_a_file_as_any_other(load: Load, tmp_path: Path) -> None:
    load(entry("a"), entry("b"))
    dump = tmp_path / "dump.yaml"
    dump.write_text(dumper.dump())
    assert load_file(dump).reports == ()
    load(entry("a"))
    assert targets() == {f"a {ONE} m": True, f"b {ONE} m": True}


# What was closed for an oddity


def test_a_closed_target_opens_once_the_file_is_corrected(load: Load) -> None:
    load(entry(more=", rpm: 0"))
    assert targets() == {f"r {ONE} m": False}
    assert load(entry(more=", rpm: 0")).changes == ()
    report = load(entry(more=", rpm: 100"))
    assert targets() == {f"r {ONE} m": True}
    assert RouteTarget.objects.get().rpm == 100
    assert report.reports == ()


def test_one_that_is_blocked_opens_without_the_word(load: Load) -> None:
    load(entry())
    load(entry(more=", blocked: true"))
    assert targets() == {f"r {ONE} m": False}
    load(entry())
    assert targets() == {f"r {ONE} m": True}


@pytest.mark.parametrize("edit", [{"weight": 5}, {"rpm": 10}])
def test_a_closed_target_that_an_admin_edited_stays_closed_and_is_reported(
    load: Load, edit: dict[str, object]
) -> None:
    load(entry(more=", tpm: 0"))
    RouteTarget.objects.update(**edit)
    for _ in range(2):
        load(entry(more=", tpm: 0"))
    for _ in range(2):
        report = load(entry(more=", tpm: 100"))
        assert f"an admin edited it since ({next(iter(edit))}): it stays disabled" in reasons(report)
        assert targets() == {f"r {ONE} m": False}
    RouteTarget.objects.update(enabled=True)
    assert load(entry(more=", tpm: 100")).reports == ()


def test_what_an_admin_disabled_stays_disabled_whatever_the_file_says(load: Load) -> None:
    load(entry())
    RouteTarget.objects.update(enabled=False)
    load(entry(more=", rpm: 0"))
    load(entry(more=", rpm: 100"))
    assert targets() == {f"r {ONE} m": False}


def test_what_another_file_closed_stays_closed(load: Load) -> None:
    load(entry(more=", rpm: 0"))
    load(entry(more=", rpm: 100"), file="other.yaml")
    assert targets() == {f"r {ONE} m": False}


def test_keys_teams_routes_and_providers_open_again_as_well(load: Load) -> None:
    digest = "a" * 64

    def section(limit: object) -> str:
        return (
            f"switchstand:\n  teams: {{t: {{name: T, rpm: {limit}}}}}\n"
            f"  providers: {{mine: {{parallel: {limit}}}}}\n"
            f"  routes: {{r: {{max_messages: {limit}}}}}\n"
            f"  keys: {{k: {{sha256: {digest}, prefix: sk, team: t, tpm: {limit}}}}}\n"
        )

    def open_rows() -> set[str]:
        models = (Team, Provider, ModelRoute, ApiKey)
        return {model.__name__ for model in models if model.objects.filter(enabled=True).exists()}

    load(entry(), more=section(0))
    assert open_rows() == set()
    assert load(entry(), more=section(0)).changes == ()
    load(entry(), more=section(5))
    assert open_rows() == {"Team", "Provider", "ModelRoute", "ApiKey"}
    assert load(entry(), more=section(5)).changes == ()
    assert set(LoadedRow.objects.values_list("kind", flat=True)) == {"target"}


def test_a_key_whose_team_was_unknown_opens_with_it(load: Load) -> None:
    key = f"switchstand:\n  keys: {{k: {{sha256: {'b' * 64}, prefix: sk, team: t}}}}\n"
    load(entry(), more=key)
    assert not ApiKey.objects.get().enabled
    load(entry(), more=key + "  teams: {t: {name: T}}\n")
    assert ApiKey.objects.get().enabled


@needs("Postgres")
def test_postgres_remembers_as_well(tmp_path: Path, postgres_server: PostgresServer) -> None:
    env = {"DATABASE_URL": postgres_server.create_database("memory", migrated=True)}
    gateway = LiveGateway(tmp_path / "data", env)
    file = tmp_path / "config.yaml"

    def load(*entries: str) -> str:
        file.write_text("model_list:\n" + "".join(f"  - {item}\n" for item in entries))
        return gateway.manage("load_config", str(file)).stdout

    assert "5 created" in load(entry("a"), entry("b", more=", rpm: 0"))
    assert "changed target b → mine/m: rpm, enabled" in load(entry("a"), entry("b", more=", rpm: 5"))
    assert "changed provider mine: base_url" in load(entry("a", base=TWO), entry("b", base=TWO))
    assert "disabled target b → mine/m" in load(entry("a", base=TWO))
    assert "deleted target b → mine/m" in load(entry("a", base=TWO))
    assert "nothing to change (3 unchanged); 0 reports" in load(entry("a", base=TWO))
