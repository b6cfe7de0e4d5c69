"""Guards that a configuration file asks for and that are not active here: named until acknowledged."""

from pathlib import Path

import pytest
from django.urls import reverse

from routing.config.loader import load_file
from routing.models import InactiveGuard

pytestmark = pytest.mark.django_db

LIST = reverse("admin:routing_inactiveguard_changelist")
FIRST_PAGE = reverse("admin:index")
FILE = """
model_list: [{model_name: r, litellm_params: {model: openai/m, api_key: k}}]
guardrails:
  - {guardrail_name: pii-masking, litellm_params: {guardrail: presidio, mode: pre_call}}
litellm_settings: {callbacks: [langfuse, lakera_prompt_injection]}
general_settings: {allowed_ips: [10.0.0.1]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(FILE)
    return path


def test_inactive_guards_stand_on_the_first_page_until_acknowledged(admin_client, file: Path) -> None:
    load_file(file)
    page = admin_client.get(FIRST_PAGE).content.decode()
    for name in ("pii-masking (guardrails)", "lakera_prompt_injection", "allowed_ips"):
        assert name in page
    assert "langfuse" not in page
    rows = list(InactiveGuard.objects.values_list("pk", flat=True))
    admin_client.post(LIST, {"action": "acknowledge", "_selected_action": rows})
    assert "pii-masking" not in admin_client.get(FIRST_PAGE).content.decode()
    assert set(InactiveGuard.objects.values_list("acknowledged_by", flat=True)) == {"admin"}
    assert load_file(file).changes == ()
    assert "pii-masking" not in admin_client.get(FIRST_PAGE).content.decode(), "said once is enough"


def test_one_that_the_file_drops_is_gone_and_a_new_one_is_shown(admin_client, file: Path) -> None:
    load_file(file)
    InactiveGuard.objects.update(acknowledged_at="2030-01-01T00:00:00Z")
    file.write_text(FILE.replace("pii-masking", "secrets"))
    load_file(file)
    assert set(InactiveGuard.objects.values_list("name", flat=True)) == {
        "secrets",
        "lakera_prompt_injection",
        "allowed_ips",
    }
    page = admin_client.get(FIRST_PAGE).content.decode()
    assert "secrets (guardrails)" in page
    assert "allowed_ips" not in page


def test_a_dry_run_keeps_none(file: Path) -> None:
    load_file(file, dry_run=True)
    assert not InactiveGuard.objects.exists()
