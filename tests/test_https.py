"""HTTPS=true: secure cookies, HSTS, who is believed about the scheme; and a policy that pages keep."""

import os
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from django.contrib import admin
from django.urls import NoReverseMatch, reverse

from tests import plain
from tests.browser import in_browser
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.live import ROOT, LiveGateway
from tests.optional import needs
from tests.stack import AdminBrowser

PASSWORD = "password-of-this-test"
BEHIND = {"HTTPS": "true", "TRUSTED_PROXIES": "127.0.0.1"}


@pytest.fixture
def serving(tmp_path, transactional_db):
    started = []

    def start(**env):
        started.append(LiveGateway(tmp_path, {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}"} | env).start())
        return started[-1]

    yield start
    for gateway in started:
        gateway.stop()


def check(*arguments, **env):
    command = [sys.executable, "manage.py", "check", *arguments]
    known = os.environ | {"SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz" * 2} | env
    return subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True)


def test_the_deployment_check_is_clean_with_it():
    done = check("--deploy", "--fail-level", "WARNING", **BEHIND)
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


def test_what_fits_together_badly_is_a_warning():
    origin = {"CSRF_TRUSTED_ORIGINS": "https://gateway.example.com"}
    assert "switchstand.W001" in check(**origin).stderr
    assert "switchstand.W001" not in check(**origin, **BEHIND).stderr
    assert "switchstand.W002" in check(HTTPS="true").stderr


def test_a_trusted_proxy_says_that_a_request_came_over_https(serving):
    url = serving(**BEHIND).url + "/admin/login/"
    over_http = plain.get(url)
    assert "strict-transport-security" not in over_http.headers
    answer = plain.get(url, headers={"x-forwarded-proto": "http, https"})
    assert answer.headers["strict-transport-security"] == "max-age=3600"
    assert "Secure" in answer.headers["set-cookie"]
    lied = plain.get(url, headers={"x-forwarded-proto": "https, http"})
    assert "strict-transport-security" not in lied.headers


def test_who_is_no_trusted_proxy_is_not_believed(serving):
    url = serving(HTTPS="true", TRUSTED_PROXIES="192.0.2.1").url + "/admin/login/"
    assert "strict-transport-security" not in plain.get(url, headers={"x-forwarded-proto": "https"}).headers


@needs("Chromium")
def test_no_page_breaks_its_content_security_policy(serving, upstream, django_user_model):
    user = django_user_model.objects.create_superuser("admin", password=PASSWORD)
    key, _ = make_key(team=make_team())
    provider = make_provider(base_url=upstream.url("p"))
    route = make_route(name="gpt")
    rows = [user, key, key.team, provider, route, make_target(route=route, provider=provider)]
    url = serving().url
    session = AdminBrowser(url, PASSWORD).client.cookies["sessionid"]
    paths = ["/admin/login/", *admin_pages(rows), "/status", "/api/docs"]
    violations, seen = in_browser(lambda page: _visit(page, url, session, paths), 240)
    assert violations == []
    assert len(seen) > 40
    assert {status for _, status in seen} == {200}


def admin_pages(rows):
    yield "/admin/"
    for name in ("monitoring_usage", "monitoring_unpriced", "routing_modelroute_explain", "password_change"):
        yield reverse(f"admin:{name}")
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        yield from _found(f"{name}_changelist")
        if model in {type(row) for row in rows}:
            yield from _found(f"{name}_add")
    for row in rows:
        name = f"admin:{row._meta.app_label}_{row._meta.model_name}"
        for kind in ("change", "history", "delete"):
            yield from _found(f"{name}_{kind}", row.pk)


def _found(name, *arguments):
    try:
        return [reverse(name, args=arguments)]
    except NoReverseMatch:
        return []


def _visit(page, url, session, paths):
    violations, seen = [], []
    page.add_init_script(
        "addEventListener('securitypolicyviolation', "
        "e => console.error('broken: ' + e.violatedDirective + ' ' + e.blockedURI))"
    )
    page.on(
        "console", lambda told: violations.append((page.url, told.text)) if _is_broken(told.text) else None
    )
    page.on("pageerror", lambda error: violations.append((page.url, str(error))))
    page.context.add_cookies([{"name": "sessionid", "value": session, "url": url}])
    for path in paths:
        answer = page.goto(url + path, wait_until="load")
        assert "content-security-policy" in answer.headers, path
        seen.append((path, answer.status))
    page.wait_for_selector(".opblock")  # of /api/docs: its script ran
    page.goto(url + reverse("admin:routing_apikey_add"))
    page.fill("[name=name]", "made in a browser")
    page.click("[name=_save]")
    page.wait_for_selector("[data-copies]")
    page.wait_for_url(lambda now: urlsplit(now).path.endswith("/change/"))  # shown-once.js ran
    page.click("[data-copies]")
    page.wait_for_function("document.querySelector('[data-copies]').textContent === 'Copied'")
    return violations, seen


def _is_broken(text):
    return text.startswith("broken: ") or "Content Security Policy" in text
