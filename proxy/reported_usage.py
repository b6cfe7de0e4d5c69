"""The `usage` objects of the providers' APIs, read into one shape."""

import msgspec

from proxy.usage import NO_MORE, More, Usage

MOST_TOKENS = 10**9  # far above any model's; a number beyond it is a fault, and might fit no column


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
        given, made = self.prompt_tokens or 0, self.completion_tokens or 0
        # xAI and Gemini count their reasoning in the total only.
        hidden = self.total_tokens - given - made if self.total_tokens else 0
        if hidden > 0:
            made += hidden
        else:
            hidden = 0
        return self._with_details(
            given, made, self.prompt_tokens_details, self.completion_tokens_details, hidden
        )

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


def _is_credible(usage: Usage) -> bool:
    for count in (usage.input, usage.output, usage.cached, usage.reasoning):
        if not 0 <= count <= MOST_TOKENS:
            return False
    return usage.more is NO_MORE or (min(usage.more.counts) >= 0 and max(usage.more.counts) <= MOST_TOKENS)
