"""What a model's tokens cost, by what they are."""

from dataclasses import dataclass, field, fields
from decimal import Decimal

NANO = 10**9
REQUEST = "request"


class PriceTextInvalid(ValueError):
    """The message says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Nano-USD per million tokens of each class, and for each request.

    None: as much as the whole that the class is a part of. Those read from a cache or written to it,
    audio and images are parts of `input`; reasoning, audio and images are parts of `output`.
    """

    input: int
    output: int
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None  # None: as cache_write
    reasoning: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    image_output: int | None = None
    request: int = 0
    tiers: tuple["Tier", ...] = ()  # ascending; the last that applies holds for all of a call's tokens
    text: str = field(init=False, compare=False)
    dearest: tuple[int, int] = field(init=False, compare=False)
    """(per million given, per million made), whatever their class, in the lowest tier."""
    dearest_request: int = field(init=False, compare=False)
    """Of any tier."""

    def __post_init__(self) -> None:
        given = (self.cached_input, self.cache_write, self.cache_write_1h, self.audio_input, self.image_input)
        made = (self.reasoning, self.audio_output, self.image_output)
        dearest = max(self.input, *(x or 0 for x in given)), max(self.output, *(x or 0 for x in made))
        requests = [self.request, *(tier.price.request for tier in self.tiers)]
        object.__setattr__(self, "text", _text(self))
        object.__setattr__(self, "dearest", dearest)
        object.__setattr__(self, "dearest_request", max(requests))

    def at(self, input_tokens: int) -> "Price":
        """Of a call with so many input tokens."""
        found = self
        for tier in self.tiers:
            if input_tokens <= tier.above:
                break
            found = tier.price
        return found

    def dearest_up_to(self, input_tokens: int) -> tuple[int, int]:
        """As `dearest`, in the tiers of calls with so many input tokens or fewer."""
        pairs = [self.dearest, *(tier.price.dearest for tier in self.tiers if tier.above < input_tokens)]
        return max(given for given, _ in pairs), max(made for _, made in pairs)


@dataclass(frozen=True, slots=True)
class Tier:
    above: int  # input tokens
    price: Price  # has no tiers itself


CLASSES = tuple(one.name for one in fields(Price) if one.init and one.name not in ("tiers", REQUEST))
"""Of tokens, as they are named in a price."""


def usd(nano: int) -> str:
    """Exact, without zeros at the end."""
    text = f"{Decimal(nano) / NANO:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text(price: Price) -> str:
    """As rows keep it, in USD: input 2.5, output 10, cached_input 0.25, request 0.01."""
    known = [(name, getattr(price, name)) for name in CLASSES]
    parts = [f"{name} {usd(nano)}" for name, nano in known if nano is not None]
    return ", ".join([*parts, *([f"{REQUEST} {usd(price.request)}"] if price.request else [])])


def price_from_text(text: str) -> Price:
    """What `Price.text` was made from, without tiers. Raises PriceTextInvalid."""
    found: dict[str, int] = {}
    for part in text.split(", "):
        name, _, amount = part.partition(" ")
        if name not in CLASSES and name != REQUEST:
            raise PriceTextInvalid(f"{name!r} is no class of a price.")
        found[name] = int(Decimal(amount) * NANO)
    if not found.keys() >= {"input", "output"}:
        raise PriceTextInvalid("A price has input and output at least.")
    return Price(**found)  # type: ignore[arg-type] # there are no tiers in a text
