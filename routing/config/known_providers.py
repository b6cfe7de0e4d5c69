"""What a model's prefix stands for where its entry has no address: OpenAI-compatible APIs that are known."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from routing.config import environment


@dataclass(frozen=True, slots=True)
class Known:
    base_url: str
    variables: tuple[str, ...]  # where LiteLLM looks for the key that an entry doesn't have


def _known(base_url: str, *variables: str) -> Known:
    return Known(base_url, variables)


KNOWN = {
    "openai": _known("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "z-ai": _known("https://open.bigmodel.cn/api/paas/v4"),
    "zai": _known("https://api.z.ai/api/paas/v4", "ZAI_API_KEY"),
    "ai21": _known("https://api.ai21.com/studio/v1", "AI21_API_KEY"),
    "ai21_chat": _known("https://api.ai21.com/studio/v1", "AI21_API_KEY"),
    "anthropic": _known("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    "cerebras": _known("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "codestral": _known("https://codestral.mistral.ai/v1", "CODESTRAL_API_KEY"),
    "cohere": _known("https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY"),
    "cohere_chat": _known("https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY"),
    "dashscope": _known("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
    "deepinfra": _known("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
    "deepseek": _known("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "featherless_ai": _known("https://api.featherless.ai/v1", "FEATHERLESS_AI_API_KEY"),
    "fireworks_ai": _known(
        "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY"
    ),
    "friendliai": _known("https://api.friendli.ai/serverless/v1", "FRIENDLIAI_API_KEY", "FRIENDLI_TOKEN"),
    "gemini": _known(
        "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", "GOOGLE_API_KEY"
    ),
    "groq": _known("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "hyperbolic": _known("https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY"),
    "llamafile": _known("http://127.0.0.1:8080/v1"),
    "meta_llama": _known("https://api.llama.com/compat/v1", "LLAMA_API_KEY"),
    "mistral": _known("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "moonshot": _known("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "nebius": _known("https://api.tokenfactory.nebius.com/v1", "NEBIUS_API_KEY"),
    "novita": _known("https://api.novita.ai/openai/v1", "NOVITA_API_KEY"),
    "nscale": _known("https://inference.api.nscale.com/v1", "NSCALE_API_KEY"),
    "nvidia_nim": _known("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "ollama": _known("http://localhost:11434/v1"),
    "ollama_chat": _known("http://localhost:11434/v1"),
    "openrouter": _known("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "perplexity": _known("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"),
    "sambanova": _known("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    "together_ai": _known(
        "https://api.together.xyz/v1", "TOGETHER_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHERAI_API_KEY"
    ),
    "volcengine": _known("https://ark.cn-beijing.volces.com/api/v3", "VOLCENGINE_API_KEY"),
    "xai": _known("https://api.x.ai/v1", "XAI_API_KEY"),
}

_VERSION_IS_MISSING = {"ollama": "/v1", "ollama_chat": "/v1"}
_AZURE_HOST = re.compile(r".+\.(openai\.azure|cognitiveservices\.azure|services\.ai\.azure)\.com")
_AZURE_PATH = "/openai/v1"
_BARE_NAMES = (
    (
        re.compile(r"(gpt-|chatgpt-|o[134](-|\Z)|text-embedding-|omni-moderation|dall-e|whisper-|tts-)"),
        "openai",
    ),
    (re.compile(r"claude-"), "anthropic"),
    (re.compile(r"\*\Z"), "openai"),
)


def prefix_of_bare(model: str) -> str:
    """Whose model a name without a prefix is; "" where that is not known."""
    return next((prefix for pattern, prefix in _BARE_NAMES if pattern.match(model)), "")


def with_version(prefix: str, base_url: str) -> str:
    """The address up to its version, where LiteLLM's own call of this vendor adds that itself."""
    try:
        parts = urlsplit(base_url)
    except ValueError:
        return base_url
    if parts.path.strip("/"):
        return base_url
    if _AZURE_HOST.fullmatch(parts.hostname or ""):
        return f"{base_url.rstrip('/')}{_AZURE_PATH}"
    return base_url.rstrip("/") + _VERSION_IS_MISSING.get(prefix, "")


def key_of(prefix: str) -> tuple[str, str]:
    """(the key in the environment, the name of its variable); "" where there is none."""
    for name in KNOWN[prefix].variables if prefix in KNOWN else ():
        if value := environment.get(name):
            return value, name
    return "", ""


def variable_of(prefix: str) -> str:
    return next(iter(KNOWN[prefix].variables), "") if prefix in KNOWN else ""
