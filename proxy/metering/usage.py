"""Tokens as a provider reports them, and what they cost."""

import msgspec

from routing.table import Price

MILLION = 1_000_000
HALF = MILLION // 2
MOST_COST = 2**63 - 1  # nano-USD that a column holds


# Structs, made in C: a frozen dataclass costs five times as much, once per call.
class More(msgspec.Struct, frozen=True, gc=False):
    """Parts of a call's tokens that few calls have. `cache_write_1h` is a part of `cache_write`."""

    cache_write: int = 0
    cache_write_1h: int = 0  # kept for an hour, where others are for minutes
    audio_input: int = 0
    audio_output: int = 0
    image_input: int = 0
    image_output: int = 0

    @property
    def counts(self) -> tuple[int, ...]:
        return msgspec.structs.astuple(self)


NO_MORE = More()
UNREAD = -1
"""Stands for a count that the provider did not report such that it can be read; it is then estimated."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one call: what was given and what was made, and parts of the two that are priced apart.

    Parts of `input` are `cached` and, in `more`, cache_write, audio_input and image_input; parts of
    `output` are `reasoning`, audio_output and image_output. Parts never overlap.
    """

    input: int
    output: int
    cached: int = 0
    reasoning: int = 0
    more: More = NO_MORE
    estimated: bool = False

    @property
    def total(self) -> int:
        return self.input + self.output

    def completed(self, guess: "Usage") -> "Usage":
        """With the guess in place of what is unread."""
        if self.input != UNREAD and self.output != UNREAD:
            return self
        return msgspec.structs.replace(
            self,
            input=guess.input if self.input == UNREAD else self.input,
            output=guess.output if self.output == UNREAD else self.output,
            estimated=True,
        )

    def __add__(self, other: "Usage") -> "Usage":
        return self._with(other, 1, self.estimated or other.estimated)

    def __sub__(self, other: "Usage") -> "Usage":
        return self._with(other, -1, self.estimated)

    def _with(self, other: "Usage", sign: int, estimated: bool) -> "Usage":
        more = [mine + sign * its for mine, its in zip(self.more.counts, other.more.counts, strict=True)]
        return Usage(
            input=self.input + sign * other.input,
            output=self.output + sign * other.output,
            cached=self.cached + sign * other.cached,
            reasoning=self.reasoning + sign * other.reasoning,
            more=More(*more) if any(more) else NO_MORE,
            estimated=estimated,
        )


def estimate(request_bytes: int, answer_bytes: int) -> Usage:
    """For answers without usage: one token per 4 bytes, marked as an estimate."""
    return Usage(input=request_bytes // 4 + 1, output=answer_bytes // 4, estimated=True)


def told_or_estimated(told: Usage | None, request_bytes: int, answer_bytes: int) -> Usage:
    """As the provider reported it; what it did not report is estimated."""
    guess = estimate(request_bytes, answer_bytes)
    return guess if told is None else told.completed(guess)


def tokens_of_text(text: str) -> int:
    """An estimate: one token per 4 bytes."""
    return (len(text.encode()) + 3) // 4


def cost(usage: Usage, price: Price) -> int:
    """Nano-USD, rounded half up once at the end. Each token is priced once, as what it was."""
    if price.tiers:
        price = price.at(usage.input)
    if usage.more is not NO_MORE or price.reasoning is not None:
        total = sum(tokens * nano for tokens, nano in priced_classes(usage, price).values())
    else:  # nearly all calls
        total = usage.input * price.input + usage.output * price.output
        if price.cached_input is not None:
            total -= min(usage.cached, usage.input) * (price.input - price.cached_input)
    total = (total + HALF) // MILLION + price.request
    return total if total < MOST_COST else MOST_COST


def priced_classes(usage: Usage, price: Price) -> dict[str, tuple[int, int]]:
    """(tokens, nano-USD per million) of each class. The classes are disjoint and add up to the total.

    `price` is that of the usage's tier. Parts that a provider reports as more than their whole are cut off.
    """
    more, given, made = usage.more, price.input, price.output
    write = min(more.cache_write, max(usage.input - usage.cached, 0))
    long = min(more.cache_write_1h, write)
    write_price = _or(price.cache_write, given)
    found: dict[str, tuple[int, int]] = {
        "cached_input": (usage.cached, _or(price.cached_input, given)),
        "cache_write": (write - long, write_price),
        "cache_write_1h": (long, _or(price.cache_write_1h, write_price)),
        "audio_input": (more.audio_input, _or(price.audio_input, given)),
        "image_input": (more.image_input, _or(price.image_input, given)),
    }
    found = _cut_off(found, "input", (usage.input, given))
    parts = {
        "reasoning": (usage.reasoning, _or(price.reasoning, made)),
        "audio_output": (more.audio_output, _or(price.audio_output, made)),
        "image_output": (more.image_output, _or(price.image_output, made)),
    }
    return found | _cut_off(parts, "output", (usage.output, made))


def _cut_off(
    parts: dict[str, tuple[int, int]], name: str, whole: tuple[int, int]
) -> dict[str, tuple[int, int]]:
    """The parts, none beyond what the whole has left, and under `name` what is in no part."""
    left, price_of_rest = whole
    found = {}
    for part, (tokens, price) in parts.items():
        found[part] = min(tokens, left), price
        left -= found[part][0]
    return found | {name: (left, price_of_rest)}


def _or(price: int | None, otherwise: int) -> int:
    return otherwise if price is None else price


def worst_cost(prompt_tokens: int, answer_tokens: int, price: Price | None) -> int | None:
    """Nano-USD to reserve before a call, rounded up; None where the price is unknown.

    No call with so many tokens or fewer costs more, whatever classes they are of.
    """
    if price is None:
        return None
    given, made = price.dearest if not price.tiers else price.dearest_up_to(prompt_tokens)
    total = -(-(prompt_tokens * given + answer_tokens * made) // MILLION) + price.dearest_request
    return total if total < MOST_COST else MOST_COST
