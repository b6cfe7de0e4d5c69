"""What providers call the same causes: too long, refused content, an unpaid account, no capacity.

docs/providers.md shows these tables; a test compares the two and finds each example in its own table only.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class Cause(StrEnum):
    """The values name what an admin adds words to: Provider.words_*."""

    TOO_LONG = "too_long"
    REFUSED = "refused"
    UNPAID = "unpaid"
    BUSY = "busy"


class Saying(NamedTuple):
    provider: str
    pattern: str  # of its messages, whatever the case
    example: str


TOO_LONG = (
    Saying(
        "OpenAI, Azure, DeepSeek, OpenRouter",
        r"maximum context length|exceeds? the context (window|limit)|context[ _]length[ _]exceeded",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
    ),
    Saying(
        "Anthropic",
        r"prompt is too long|exceeds? context limit",
        "prompt is too long: 208310 tokens > 200000 maximum",
    ),
    Saying("Bedrock", r"input is too long", "Input is too long for requested model."),
    Saying(
        "Gemini, Vertex AI",
        r"exceeds the maximum number of tokens",
        "The input token count (1066750) exceeds the maximum number of tokens allowed (1048575).",
    ),
    Saying(
        "xAI",
        r"maximum prompt length",
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
    ),
    Saying(
        "llama.cpp, LM Studio",
        r"context size|greater than the context length",
        "the request exceeds the available context size (8192 tokens), try increasing it",
    ),
    Saying(
        "TGI, Together",
        r"`?inputs`? tokens \+ `?max_new_tokens`? must be",
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 6000 `inputs` tokens.",
    ),
    Saying(
        "Moonshot",
        r"exceeded model token limit",
        "Invalid request: Your request exceeded model token limit: 8192",
    ),
    Saying(
        "Copilot",
        r"prompt token count of \d+ exceeds",
        "prompt token count of 128574 exceeds the limit of 128000",
    ),
    Saying(
        "SiliconFlow",
        r"max_prompt_tokens",
        "number of input tokens (204703) has exceeded max_prompt_tokens (202752) limit.",
    ),
    Saying("DashScope", r"range of input length should be", "Range of input length should be [1, 30720]"),
    Saying(
        "vLLM",
        r"maximum model length",
        "The decoder prompt (length 40000) is longer than the maximum model length of 32768.",
    ),
    Saying(
        "SGLang",
        r"longer than the model's context length",
        "The input (70000 tokens) is longer than the model's context length (32768 tokens).",
    ),
    Saying(
        "Groq, Cerebras",
        r"reduce the length of the (messages|prompt)",
        "Please reduce the length of the messages or completion.",
    ),
    Saying(
        "Cohere",
        r"too many (input )?tokens",
        "too many tokens: total number of tokens in the prompt cannot exceed 4081",
    ),
    Saying("Z.ai", r"prompt exceeds max", "Prompt exceeds max length"),
    Saying("MiniMax", r"context window exceeds limit", "invalid params, context window exceeds limit (2013)"),
    Saying(
        "Groq, OpenAI (a request above the account's tokens per minute)",
        r"request too large for",
        "Request too large for model `m` on tokens per minute (TPM): Limit 6000, Requested 12328",
    ),
    Saying(
        "older OpenAI-compatible servers",
        r"context (length|window)",
        "Your input is beyond this model's context window.",
    ),
)
REFUSED = (
    Saying(
        "OpenAI, Azure",
        r"content (management )?policy|content[ _]filter|safety system",
        "Your request was rejected as a result of our safety system.",
    ),
    Saying(
        "xAI",
        r"usage guidelines|safety_check",
        "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO",
    ),
    Saying(
        "OpenRouter",
        r"requires moderation|input was flagged",
        "The model requires moderation and your input was flagged",
    ),
    Saying(
        "OpenAI (reasoning models)",
        r"usage polic(y|ies)",
        "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
    ),
    Saying(
        "Anthropic",
        r"blocked by (our )?content filtering",
        "Output blocked by content filtering policy",
    ),
    Saying("DashScope", r"inappropriate content", "Input data may contain inappropriate content."),
    Saying(
        "DeepSeek, Moonshot",
        r"content exists risk|considered high risk",
        "Content Exists Risk",
    ),
    Saying(
        "Z.ai, Zhipu",
        r"不安全或敏感内容|unsafe or sensitive",
        "系统检测到输入或生成内容可能包含不安全或敏感内容",
    ),
    Saying(
        "Gemini, Vertex AI",
        r"prohibited[ _]content|blocked (due to|for|by) safety",
        "The prompt was blocked due to safety settings.",
    ),
)
UNPAID = (
    Saying(
        "DeepSeek, OpenRouter", r"insufficient (account )?(balance|credits?|funds)", "Insufficient Balance"
    ),
    Saying(
        "Anthropic",
        r"credit balance is too low",
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.",
    ),
    Saying("OpenAI", r"\binsufficient_quota\b|billing[ _]hard[ _]limit", "insufficient_quota"),
    Saying(
        "Moonshot",
        r"exceeded_current_quota_error|suspended due to insufficient balance",
        "Your account org-1 is suspended due to insufficient balance, please recharge your account",
    ),
    Saying(
        "DashScope",
        r"\barrearage\b|account is in (good standing|arrears)",
        "Access denied, please make sure your account is in good standing.",
    ),
    Saying("SiliconFlow", r"balance is insufficient", "Sorry, your account balance is insufficient"),
    Saying("Z.ai, Zhipu", r"余额不足|账户已欠费", "余额不足或无可用资源包,请充值。"),
    Saying("Novita", r"not[_ ]enough[_ ](balance|credits?)", "NOT_ENOUGH_BALANCE"),
    Saying(
        "Fireworks",
        r"failure to pay past invoices|monthly spending limit",
        "Account a is suspended, possibly due to reaching the monthly spending limit.",
    ),
    Saying(
        "xAI",
        r"used all available credits",
        "Your team has either used all available credits or reached its limit.",
    ),
    Saying(
        "Hugging Face",
        r"exceeded your monthly included credits",
        "You have exceeded your monthly included credits for Inference Providers.",
    ),
    Saying(
        "Vertex AI",
        r"\bbilling_disabled\b|requires billing to be enabled",
        "This API method requires billing to be enabled.",
    ),
    Saying("RFC 9110 (402's own name)", r"payment required", "Payment Required"),
)
BUSY = (
    Saying(
        "Groq (498, flex tier)",
        r"capacity exceeded|over capacity",
        "Flex tier capacity exceeded, try again later",
    ),
    Saying(
        "Together, Anthropic",
        r"(currently|temporarily) overloaded|\boverloaded(_error)?\b",
        "The model is currently overloaded.",
    ),
    Saying("DeepSeek, Moonshot", r"server is (too )?busy", "The server is busy, please try again later"),
)
SAYINGS = {Cause.TOO_LONG: TOO_LONG, Cause.REFUSED: REFUSED, Cause.UNPAID: UNPAID, Cause.BUSY: BUSY}

_PATTERNS = {
    cause: re.compile("|".join(f"(?:{saying.pattern})" for saying in sayings), re.IGNORECASE)
    for cause, sayings in SAYINGS.items()
}
# A quotation is the caller's text, not the provider's. Back quotes stand around names of fields.
_QUOTED = re.compile(r"(?<!\w)(['\"]).*?\1(?!\w)", re.DOTALL)


_SHUT_OUT = re.compile(
    r"\b(account|organi[sz]ation|api key|key|project|team|consumer|access)\b.{0,80}"
    r"\b(suspended|disabled|deactivated|terminated|restricted|banned|revoked)\b",
    re.IGNORECASE | re.DOTALL,
)


def is_shut_out(text: str) -> bool:
    """Whether it is about the account, which may be for a policy's sake too, and not about this request."""
    return bool(_SHUT_OUT.search(text))


def own_words(text: str) -> str:
    """The text without what it quotes."""
    return _QUOTED.sub(" ", text)


def found_words(cause: Cause, text: str, added: Iterable[str] = ()) -> str:
    """The words in `text` that name the cause; empty for none.

    `added`: an admin's own words for this provider, in lower case; plain text, no patterns.
    """
    if (match := _PATTERNS[cause].search(text)) is not None:
        return match.group()
    lower = text.lower()
    return next((words for words in added if words in lower), "")
