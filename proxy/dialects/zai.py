"""Z.ai: OpenAI's shape, with a version header and error codes of its own."""

from proxy.dialects.openai import OpenAIDialect
from proxy.dialects.openai.errors import read_error
from proxy.errors import GatewayError, ModelNotFound
from routing.table import ProviderEntry


class ZaiDialect(OpenAIDialect):
    name = "zai"
    failure_code = "ZAI_API_ERROR"
    context_codes = OpenAIDialect.context_codes | {"1261"}
    policy_codes = OpenAIDialect.policy_codes | {"1301"}
    unpaid_codes = OpenAIDialect.unpaid_codes | {"1113"}

    def dialect_headers(self, provider: ProviderEntry) -> list[tuple[str, str]]:
        return [("x-api-version", provider.api_version)] if provider.api_version else []

    def error(
        self,
        provider: ProviderEntry,
        status: int,
        body: bytes,
        retry_after: float | None,
        own_key: bool,
        request: bytes = b"",
    ) -> GatewayError:
        """Z.ai names some causes by code, whatever the status."""
        code = read_error(body).code
        if code == "RATE_LIMIT":
            return super().error(provider, 429, body, retry_after, own_key, request)
        if code == "INVALID_API_KEY":
            return super().error(provider, 401, body, retry_after, own_key, request)
        if code == "MODEL_NOT_AVAILABLE":
            return ModelNotFound(
                "Requested model is not available at Z.ai.", param="model", provider=provider.slug
            )
        return super().error(provider, status, body, retry_after, own_key, request)
