"""Tokens as a provider reports them, and what they cost."""

from dataclasses import dataclass

import msgspec

from routing.table import Price

MILLION = 1_000_000
MOST_TOKENS = 10**9  # far above any model's; a number beyond it is a fault, and might fit no column
MOST_COST = 2**63 - 1  # nano-USD that a column holds


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. `cached` is part of `input`, `reasoning` is part of `output`."""

    input: int
    output: int
    cached: int = 0
    reasoning: int = 0
    estimated: bool = False

    @property
    def total(self) -> int:
        return self.input + self.output

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input=self.input + other.input,
            output=self.output + other.output,
            cached=self.cached + other.cached,
            reasoning=self.reasoning + other.reasoning,
            estimated=self.estimated or other.estimated,
        )

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(
            input=self.input - other.input,
            output=self.output - other.output,
            cached=self.cached - other.cached,
            reasoning=self.reasoning - other.reasoning,
            estimated=self.estimated,
        )


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class OpenAIUsage(msgspec.Struct):
    """The `usage` object of the OpenAI API; providers leave parts of it out."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None

    def tokens(self) -> Usage | None:
        """None where nothing that can be true was reported; the tokens are then estimated."""
        if self.prompt_tokens is None and self.completion_tokens is None:
            return None
        given, made = self.prompt_tokens_details, self.completion_tokens_details
        usage = Usage(
            input=self.prompt_tokens or 0,
            output=self.completion_tokens or 0,
            cached=(given and given.cached_tokens) or 0,
            reasoning=(made and made.reasoning_tokens) or 0,
        )
        counts = (usage.input, usage.output, usage.cached, usage.reasoning)
        return usage if min(counts) >= 0 and max(counts) <= MOST_TOKENS else None


def estimate(request_bytes: int, answer_bytes: int) -> Usage:
    """For answers without usage: one token per 4 bytes, marked as an estimate."""
    return Usage(input=request_bytes // 4 + 1, output=answer_bytes // 4, estimated=True)


def tokens_of_text(text: str) -> int:
    """An estimate: one token per 4 bytes."""
    return (len(text.encode()) + 3) // 4


def cost(usage: Usage, price: Price) -> int:
    """Nano-USD, rounded half up once at the end. Cached tokens are priced once, at their own price."""
    cached = min(usage.cached, usage.input)
    cached_price = price.input if price.cached_input is None else price.cached_input
    total = (usage.input - cached) * price.input + cached * cached_price + usage.output * price.output
    return min((total + MILLION // 2) // MILLION, MOST_COST)


def worst_cost(prompt_tokens: int, answer_tokens: int, price: Price | None) -> int | None:
    """Nano-USD to reserve before a call, rounded up; None where the price is unknown."""
    if price is None:
        return None
    dearest = max(price.input, price.cached_input or 0)
    return min(-(-(prompt_tokens * dearest + answer_tokens * price.output) // MILLION), MOST_COST)
