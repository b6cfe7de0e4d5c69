"""The `usage` objects of the providers' APIs, read into one shape.

Reading them decides about the books alone, never about an answer: what can't be read is estimated.
"""

from typing import Any

import msgspec

from proxy.metering.usage import NO_MORE, UNREAD, More, Usage

MOST_TOKENS = 10**9  # far above any model's; a number beyond it is a fault, and might fit no column
LONGEST_NUMBER = 24  # characters of a count that comes as text


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None  # OpenRouter
    audio_tokens: int | None = None
    image_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None


class _CacheWrites(msgspec.Struct):
    ephemeral_1h_input_tokens: int | None = None


class ReportedUsage(msgspec.Struct):
    """As reported. The names tell which API it is; providers leave parts of it out.

    - Chat completions: prompt_tokens and completion_tokens, and what of them is in the details.
    - Responses and images: input_tokens and output_tokens, the same with other names.
    - Messages (Anthropic): input_tokens are without those read from and written to the cache.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheWrites | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek
    cached_tokens: int | None = None  # Moonshot

    def tokens(self) -> Usage | None:
        """None where nothing that can be true was reported; the tokens are then estimated."""
        if self.prompt_tokens is not None or self.completion_tokens is not None:
            usage = self._of_chat()
        elif self.input_tokens is not None or self.output_tokens is not None:
            usage = self._of_others()
        else:
            return None
        return usage if _is_credible(usage) else None

    def after(self, before: "ReportedUsage | None") -> "ReportedUsage":
        """Together with what an earlier event of the stream said; what this one says holds."""
        if before is None or self.prompt_tokens is not None:
            return self
        fields = msgspec.structs.asdict(before)
        fields |= {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        return ReportedUsage(**fields)

    def _of_chat(self) -> Usage:
        given, made = self.prompt_tokens, self.completion_tokens
        if given is None or made is None:
            given, made = self._with_the_missing(given, made)
        # xAI and Gemini count their reasoning in the total only.
        hidden = self.total_tokens - given - made if self.total_tokens and UNREAD not in (given, made) else 0
        if hidden > 0:
            made += hidden
        else:
            hidden = 0
        return self._with_details(
            given, made, self.prompt_tokens_details, self.completion_tokens_details, hidden
        )

    def _with_the_missing(self, given: int | None, made: int | None) -> tuple[int, int]:
        """The one that was not reported follows from the total, where that was."""
        rest = UNREAD if self.total_tokens is None else max(self.total_tokens - (given or made or 0), 0)
        return rest if given is None else given, rest if made is None else made

    def _of_others(self) -> Usage:
        # Only Anthropic has the cache's two, and it counts them apart.
        read, written = self.cache_read_input_tokens or 0, self.cache_creation_input_tokens or 0
        return self._with_details(
            (self.input_tokens or 0) + read + written,
            self.output_tokens or 0,
            self.input_tokens_details,
            self.output_tokens_details,
            0,
        )

    def _with_details(
        self, given: int, made: int, read: _InputDetails | None, done: _OutputDetails | None, hidden: int
    ) -> Usage:
        cached = read.cached_tokens if read is not None else None
        if cached is None:
            cached = self.cache_read_input_tokens or self.prompt_cache_hit_tokens or self.cached_tokens or 0
        return Usage(
            given,
            made,
            cached,
            (done is not None and done.reasoning_tokens) or hidden,
            self._more(read or _NOTHING_READ, done or _NOTHING_DONE),
        )

    def _more(self, read: _InputDetails, done: _OutputDetails) -> More:
        written = self.cache_creation_input_tokens or read.cache_write_tokens
        if not (written or read.audio_tokens or read.image_tokens or done.audio_tokens or done.image_tokens):
            return NO_MORE
        long = self.cache_creation.ephemeral_1h_input_tokens if self.cache_creation else 0
        return More(
            cache_write=written or 0,
            cache_write_1h=long or 0,
            audio_input=read.audio_tokens or 0,
            audio_output=done.audio_tokens or 0,
            image_input=read.image_tokens or 0,
            image_output=done.image_tokens or 0,
        )


_NOTHING_READ, _NOTHING_DONE = _InputDetails(), _OutputDetails()


def lenient(value: Any) -> ReportedUsage | None:
    """A usage object of any JSON type, field by field: 11.0 and "11" are 11, what is no count is left out."""
    return _read(ReportedUsage, value) if isinstance(value, dict) else None


def _read(shape: Any, value: dict[str, Any]) -> Any:
    found = {}
    for name in shape.__struct_fields__:
        if (inner := _INNER.get(name)) is not None:
            found[name] = _read(inner, value[name]) if isinstance(value.get(name), dict) else None
        else:
            found[name] = _count(value.get(name))
    return shape(**found)


def _count(value: Any) -> int | None:
    if isinstance(value, str) and len(value) <= LONGEST_NUMBER:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MOST_TOKENS and value == int(value) else None


_INNER = {
    "prompt_tokens_details": _InputDetails,
    "input_tokens_details": _InputDetails,
    "completion_tokens_details": _OutputDetails,
    "output_tokens_details": _OutputDetails,
    "cache_creation": _CacheWrites,
}


def _is_credible(usage: Usage) -> bool:
    for count in (usage.input, usage.output):
        if not UNREAD <= count <= MOST_TOKENS:
            return False
    for count in (usage.cached, usage.reasoning):
        if not 0 <= count <= MOST_TOKENS:
            return False
    return usage.more is NO_MORE or (min(usage.more.counts) >= 0 and max(usage.more.counts) <= MOST_TOKENS)
