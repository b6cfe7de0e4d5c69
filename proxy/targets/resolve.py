"""Step 3: the requested model name -> a route that the key may use, and its targets."""

from collections.abc import Callable

from django.conf import settings

from proxy.ask import check_message_count
from proxy.calls.call import Call
from proxy.errors import AccessForbidden, InvalidRequest, ModelNotFound
from proxy.targets.similar import did_you_mean, usable_models
from proxy.targets.tags import open_to, tags_of
from routing.table import WANT_CONTENT, Resolved, TargetEntry


def resolve(call: Call) -> tuple[Resolved, list[TargetEntry]]:
    """Raises ModelNotFound, AccessForbidden or InvalidRequest."""
    assert call.ask is not None
    assert call.key is not None
    provider = call.incoming.option(b"x-litellm-route")
    found, upstream_model = _route(call, call.ask.model, provider)
    if not call.key.may_use(found.route):
        usable = usable_models(call.key, call.table)
        contact = f" Ask {settings.CONTACT}." if settings.CONTACT else ""
        raise AccessForbidden(
            f"This API key may not use the model {call.ask.model}.{usable}{contact}", param="model"
        )
    check_message_count(call.ask, found.route)
    return found, _targets(call, found, provider, upstream_model)


def targets_of(call: Call, found: Resolved) -> list[TargetEntry]:
    """The targets of a route that the caller's headers leave. Raises ModelNotFound or AccessForbidden."""
    assert call.ask is not None
    check_message_count(call.ask, found.route)
    return _targets(call, found, call.incoming.option(b"x-litellm-route"), None)


def _route(call: Call, model: str, provider: str | None) -> tuple[Resolved, str | None]:
    """The route, and the upstream model where the caller named the provider's own."""
    if found := call.table.resolve(model):
        return found, None
    if provider is not None and (found := call.table.route_of_upstream_model(provider, model)):
        return found, model
    assert call.key is not None
    meant = did_you_mean(model, call.key, call.table)
    raise ModelNotFound(
        f"The model {model} does not exist: GET /v1/models lists those there are.{meant}", param="model"
    )


def _targets(
    call: Call, found: Resolved, provider: str | None, upstream_model: str | None
) -> list[TargetEntry]:
    targets = list(found.route.targets)
    if provider is not None:
        targets = _of_provider(call, targets, provider, upstream_model)
        if not targets and not found.route.fault:
            raise ModelNotFound(
                f"The provider {provider} (x-litellm-route) does not serve {found.route.name}.",
                param="x-litellm-route",
            )
    if call.caller_credential:
        targets = _taking_caller_keys(call, targets, found.route.name)
    if found.route.wants_content:
        targets = _taking_no_content(call, targets)
    return open_to(call, targets, tags_of(call)) if found.route.tagged else targets


def _taking_no_content(call: Call, targets: list[TargetEntry]) -> list[TargetEntry]:
    """Raises InvalidRequest where each wants some in every message, and one has none."""
    assert call.ask is not None
    place = call.ask.first_without_content()
    if place is None:
        return targets
    taking = _keep(
        call,
        targets,
        lambda target: target.provider.dialect not in WANT_CONTENT,
        "its provider wants content in each message",
    )
    if targets and not taking:
        raise InvalidRequest(
            f"messages[{place}] has no content.", param=f"messages[{place}].content", code="missing_field"
        )
    return taking


def _of_provider(
    call: Call, targets: list[TargetEntry], provider: str, upstream_model: str | None
) -> list[TargetEntry]:
    def wanted(target: TargetEntry) -> bool:
        return target.provider.slug == provider and upstream_model in (None, target.upstream_model)

    return _keep(call, targets, wanted, "x-litellm-route asks for another provider or model")


def _taking_caller_keys(call: Call, targets: list[TargetEntry], route: str) -> list[TargetEntry]:
    allowing = _keep(
        call,
        targets,
        lambda target: target.provider.allow_caller_key,
        "its provider takes no caller's own key",
    )
    if targets and not allowing:
        raise AccessForbidden(
            f"No provider of {route} accepts a caller's own key (x-litellm-api-key).",
            param="x-litellm-api-key",
            code="caller_key_not_allowed",
        )
    return allowing


def _keep(
    call: Call, targets: list[TargetEntry], wanted: Callable[[TargetEntry], bool], why_not: str
) -> list[TargetEntry]:
    kept = []
    for target in targets:
        if wanted(target):
            kept.append(target)
        else:
            call.skip(target, why_not)
    return kept
