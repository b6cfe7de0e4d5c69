"""Known keys that change nothing here, each with the reason that a load reports."""

from collections.abc import Mapping

_ENVIRONMENT = "comes from the environment; set {}"
_LOG = "each request gets one row in the request log"
_CACHE = "answers are not cached"
_POLICY = "one number of failures holds for all errors; use allowed_fails"
_ALERTS = "alerts and their channels are set in the admin"
_BUDGET = "budgets belong to keys, teams, routes, targets and providers"
_KEYS = "keys are made in the admin and by create_key, with limits of their own"
_DATABASE = _ENVIRONMENT.format("DATABASE_URL")
_REDIS = _ENVIRONMENT.format("REDIS_URL")

ROOT = {
    "environment_variables": "a file can't set the process's environment; set the variables themselves",
    "callback_settings": _LOG,
    "include": "other files aren't read; load each one",
    "guardrails": "there are no guardrails here, and requests pass without them",
    "mcp_servers": "MCP servers aren't served",
    "vector_store_registry": "vector stores aren't served",
}

MODEL_PARAMETERS = {
    "cooldown_time": "one cooldown holds for all targets; use router_settings.cooldown_time",
    "max_file_size_mb": "files aren't served",
    "merge_reasoning_content_in_choices": "answers are passed through untouched",
    "use_litellm_proxy": "each request goes to its provider",
    "cache_control_injection_points": "bodies are passed through untouched",
    "configurable_clientside_auth_params": "see a provider's allow_caller_key",
    "aws_region_name": "AWS's own signature isn't spoken",
    "aws_access_key_id": "AWS's own signature isn't spoken",
    "aws_secret_access_key": "AWS's own signature isn't spoken",
    "vertex_project": "Google's own sign-in isn't spoken",
    "vertex_location": "Google's own sign-in isn't spoken",
    "vertex_credentials": "Google's own sign-in isn't spoken",
    "drop_params": "unknown body fields are passed through",
    "additional_drop_params": "unknown body fields are passed through",
    "allowed_openai_params": "all body fields are passed through",
    "input_cost_per_second": "prices are per token",
    "output_cost_per_second": "prices are per token",
    "region_name": "targets aren't chosen by region",
    "mock_response": "each request goes to its provider",
}

TOP_PARAMETERS = {"database_url": _DATABASE}

GENERAL = {
    "database_url": _DATABASE,
    "database_connection_pool_limit": _DATABASE,
    "database_connection_timeout": _DATABASE,
    "response_format": "always so: streams are text/event-stream and errors are JSON",
    "background_health_checks": "always so: providers are probed in the background",
    "allow_requests_on_db_unavailable": "always so: the last routing table keeps serving",
    "disable_spend_logs": _LOG,
    "disable_spend_updates": _LOG,
    "store_prompts_in_spend_logs": "prompts are never stored",
    "store_model_in_db": "always so: the database holds the routes, and this file is loaded into it",
    "completion_model": "each request must name its model",
    "allowed_ips": "addresses aren't asked for, and every caller with a key is served",
    "allowed_routes": "every endpoint is served",
    "public_routes": "every endpoint asks for a key",
    "ui_access_mode": "staff users of the admin have what their permissions say",
    "proxy_batch_write_at": "always so: usage is written in batches",
    "proxy_budget_rescheduler_min_time": "budgets begin anew at the turn of their period",
    "proxy_budget_rescheduler_max_time": "budgets begin anew at the turn of their period",
    "infer_model_from_keys": "the file and the admin say which models there are",
    "use_redis_transaction_buffer": _REDIS,
    "key_management_system": "credentials come from the environment, or are encrypted in the database",
    "key_management_settings": "credentials come from the environment, or are encrypted in the database",
    "alerting": _ALERTS,
    "alerting_threshold": _ALERTS,
    "custom_auth": "callers are known by gateway keys only",
    "enable_jwt_auth": "callers are known by gateway keys only",
}

ROUTER = {
    "allowed_fails_policy": _POLICY,
    "retry_policy": "one number of retries holds for all errors; use num_retries",
    "retry_after": "the delay is the provider's retry_delay, doubled each time, or its Retry-After",
    "max_fallbacks": "each route has its own max_attempts, in switchstand.routes",
    "redis_host": _REDIS,
    "redis_port": _REDIS,
    "redis_password": _REDIS,
    "redis_url": _REDIS,
    "enable_pre_call_checks": "a provider checks its model's context window itself",
    "routing_strategy_args": "the strategy takes no settings",
    "enable_tag_filtering": "always so: a target with tags serves only requests with one of them",
}

LITELLM = {
    "drop_params": "unknown body fields are passed through",
    "additional_drop_params": "unknown body fields are passed through",
    "modify_params": "bodies are passed through untouched",
    "callbacks": _LOG,
    "success_callback": _LOG,
    "failure_callback": _LOG,
    "service_callbacks": _LOG,
    "turn_off_message_logging": "always so: messages are never stored",
    "redact_user_api_key_info": "always so: keys are never logged",
    "cache": _CACHE,
    "cache_params": _CACHE,
    "set_verbose": _ENVIRONMENT.format("LOG_LEVEL"),
    "json_logs": _ENVIRONMENT.format("LOG_FORMAT=json"),
    "telemetry": "nothing is sent to anyone",
    "guardrails": ROOT["guardrails"],
    "max_end_user_budget": _BUDGET,
    "max_internal_user_budget": _BUDGET,
    "internal_user_budget_duration": _BUDGET,
    "tag_budget_config": _BUDGET,
    "default_internal_user_params": "there are no users here but those of the admin",
    "default_team_settings": _LOG,
    "upperbound_key_generate_params": _KEYS,
    "default_key_generate_params": _KEYS,
    "key_generation_settings": _KEYS,
    "enable_preview_features": "there are none",
    "ssl_verify": "providers' certificates are always checked",
    "langfuse_default_tags": _LOG,
    "store_audit_logs": "always so: the admin keeps a history of each row",
    "forward_traceparent_to_llm_provider": _ENVIRONMENT.format("OTEL_EXPORTER_OTLP_ENDPOINT"),
    "suppress_debug_info": _ENVIRONMENT.format("LOG_LEVEL"),
}

MODEL_INFO = "a model's description isn't kept, except for its prices and its canary or shadow percentage"

INACTIVE_GUARDS = (
    "guardrails",
    "allowed_ips",
    "allowed_routes",
    "max_end_user_budget",
    "max_internal_user_budget",
    "tag_budget_config",
)
"""Keys that guard something with LiteLLM and nothing here: staff must acknowledge them."""

GUARDING_CALLBACKS = (
    "aporia",
    "banned_keywords",
    "blocked_user_check",
    "detect_prompt_injection",
    "google_text_moderation",
    "hide_secrets",
    "lakera_prompt_injection",
    "llamaguard_moderations",
    "llmguard_moderations",
    "openai_moderations",
    "presidio",
)
"""The same among callbacks."""

_REMEDIES = {
    "guardrails": "filter where the app is; then acknowledge it on the admin's first page",
    "include": "load each of those files with load_config",
    "callbacks": "read the request log, or send it on with an alert channel or OTEL_EXPORTER_OTLP_ENDPOINT",
    "cache": "take it out; providers' own prompt caches work as before",
    "drop_params": "take it out; leave out what a provider refuses in the app itself",
    "max_end_user_budget": "give keys, teams or routes a budget in the admin",
    "max_internal_user_budget": "give keys, teams or routes a budget in the admin",
    "tag_budget_config": "give keys, teams or routes a budget in the admin",
    "allowed_ips": "keep other addresses away with a firewall; then acknowledge it on the admin's first page",
    "allowed_routes": "keep other paths away with a proxy; then acknowledge it on the admin's first page",
}


def remedy(name: str) -> str:
    return _REMEDIES.get(name, "nothing; it may be taken out")


def elsewhere(name: str) -> str | None:
    """Why a key that stands in a section where it doesn't belong changes nothing there either."""
    places: tuple[Mapping[str, str], ...] = (ROOT, GENERAL, ROUTER, LITELLM)
    return next((place[name] for place in places if name in place), None)
