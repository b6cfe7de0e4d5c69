"""One module per provider API; adding one touches neither the engine nor the others."""

from proxy.dialects.base import Dialect
from proxy.dialects.openai import OpenAIDialect
from proxy.dialects.zai import ZaiDialect
from routing.table import ProviderEntry

DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (OpenAIDialect(), ZaiDialect())}


def dialect_of(provider: ProviderEntry) -> Dialect:
    return DIALECTS[provider.dialect]


__all__ = ["DIALECTS", "Dialect", "dialect_of"]
