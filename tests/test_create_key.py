"""`manage.py create_key`: what it takes, and what it refuses."""

import pytest
from django.core.management import CommandError, call_command

from routing.models import ApiKey

pytestmark = pytest.mark.django_db


def test_a_key_that_can_be_guessed_is_refused_without_being_shown():
    with pytest.raises(CommandError) as refused:
        call_command("create_key", "app", "--key", "nineteen-characters")
    assert str(refused.value) == "--key: allowed are 20 or more printable ASCII characters without blanks"
    assert not ApiKey.objects.exists()


def test_a_key_of_twenty_characters_is_kept(capsys):
    call_command("create_key", "app", "--key", "twenty-characters-20")
    assert capsys.readouterr().out.splitlines()[-1] == "twenty-characters-20"
