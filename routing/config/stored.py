"""What is in the database, as far as it decides which provider an entry means."""

from routing import credentials
from routing.config.memory import Memory
from routing.config.slugs import Stored, There
from routing.models import Provider, RouteTarget


def read(memory: Memory) -> Stored:
    served: dict[str, list[RouteTarget]] = {}
    of_targets: dict[tuple[str, str], list[str]] = {}
    for target in RouteTarget.objects.select_related("route", "provider").order_by("pk"):
        served.setdefault(target.provider.slug, []).append(target)
        place = target.route.name, target.upstream_model
        of_targets.setdefault(place, []).append(target.provider.slug)
    providers = {row.slug: _there(row, served.get(row.slug, []), memory) for row in Provider.objects.all()}
    return Stored(providers, of_targets)


def _there(row: Provider, targets: list[RouteTarget], memory: Memory) -> There:
    others = any(memory.others_of(target) for target in targets)
    ours = bool(targets) and all(map(memory.made, targets)) and not others
    return There(row.base_url, _key(row), ours=ours, of_another_file=others)


def _key(row: Provider) -> str:
    try:
        return row.api_key
    except credentials.CredentialUnreadable:
        return ""
