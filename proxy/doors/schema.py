"""How the data plane appears in the OpenAPI schema."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework import serializers


class GatewayKeyScheme(OpenApiAuthenticationExtension):
    target_class = "proxy.doors.authentication.GatewayKeyAuthentication"
    name = "gatewayKey"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}


class MessageSerializer(serializers.Serializer):
    role = serializers.CharField(help_text="system, user, assistant or tool")
    content = serializers.JSONField(help_text="Text, or a list of content parts")


class ChatCompletionSerializer(serializers.Serializer):
    """Fields that the gateway reads; all others reach the provider untouched."""

    model = serializers.CharField(help_text="A name from GET /v1/models")
    messages = MessageSerializer(many=True)
    stream = serializers.BooleanField(required=False, help_text="Answer with server-sent events")
    temperature = serializers.FloatField(required=False)
    max_tokens = serializers.IntegerField(required=False)


class ErrorFieldsSerializer(serializers.Serializer):
    message = serializers.CharField()
    type = serializers.CharField()
    param = serializers.CharField(allow_null=True)
    code = serializers.CharField()
    gateway_code = serializers.CharField()
    status_code = serializers.IntegerField()
    provider = serializers.CharField(allow_null=True)
    timestamp = serializers.DateTimeField()
    request_id = serializers.CharField()


class ErrorSerializer(serializers.Serializer):
    error = ErrorFieldsSerializer()


class ModelSerializer(serializers.Serializer):
    id = serializers.CharField()
    object = serializers.CharField()
    created = serializers.IntegerField()
    owned_by = serializers.CharField()


HEADERS = [
    OpenApiParameter(name, str, OpenApiParameter.HEADER, description=text)
    for name, text in (
        ("x-litellm-api-key", "The caller's own provider key, where the provider allows it"),
        ("x-litellm-route", "Only targets of the provider with this slug"),
        ("x-litellm-model", "Overrides the body's model"),
        ("x-litellm-timeout", "Seconds until the first byte, at most the route's deadline"),
        ("x-litellm-num-retries", "Retries per target, 0 to 10"),
        ("x-litellm-tags", "Comma-separated, for the request log"),
        ("x-request-id", "Returned as it came, and logged"),
        ("X-Client-Info", "For the request log"),
    )
]
ERRORS = {
    status: OpenApiResponse(ErrorSerializer, description=text)
    for status, text in (
        (400, "Invalid request"),
        (401, "No, unknown, expired or revoked key"),
        (403, "The key may not use the model or provider"),
        (404, "Unknown model"),
        (429, "A limit is reached"),
        (502, "The provider failed"),
        (503, "No healthy provider, or no free connection"),
        (504, "The deadline passed"),
    )
}


def only_one_base_path(endpoints: list[tuple[str, str, str, Any]]) -> list[tuple[str, str, str, Any]]:
    """A preprocessing hook: the base paths serve the same, so the schema describes /v1 only."""
    return [endpoint for endpoint in endpoints if endpoint[0].startswith("/v1/")]
