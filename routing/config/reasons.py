"""Known keys that change nothing here, each with the reason that a load reports."""

_ENVIRONMENT = "comes from the environment; set {}"
_LOG = "each request gets one row in the request log"
_CACHE = "answers are not cached"
_POLICY = "one number of failures holds for all errors; use allowed_fails"
_ALERTS = "there are no alerts yet"
_BUDGET = "budgets belong to keys, teams, routes, targets and providers"
_DATABASE = _ENVIRONMENT.format("DATABASE_URL")
_REDIS = _ENVIRONMENT.format("REDIS_URL")

ROOT = {
    "environment_variables": "a file can't set the process's environment; set the variables themselves",
    "callback_settings": _LOG,
    "include": "other files aren't read; load each one",
    "guardrails": "there are no guardrails yet",
    "mcp_servers": "MCP servers aren't served",
    "vector_store_registry": "vector stores aren't served",
}

MODEL_PARAMETERS = {
    "stream_timeout": "a stream is bounded by first_byte_timeout and stall_timeout of its route, "
    "in switchstand.routes",
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
    "max_parallel_requests": "parallel limits belong to providers, targets, routes, teams and keys",
    "global_max_parallel_requests": "parallel limits belong to providers, targets, routes, teams and keys",
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
    "max_budget": _BUDGET,
    "budget_duration": _BUDGET,
    "max_parallel_requests": "parallel limits belong to providers, targets, routes, teams and keys",
}

MODEL_INFO = "a model's description isn't kept, except for its prices and its canary or shadow percentage"
