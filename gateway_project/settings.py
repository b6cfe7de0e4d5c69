"""Settings from the environment; docs/settings.md lists them. Every one works unset."""

from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from gateway_project import navigation, schedule
from gateway_project.environment import (
    address,
    choice,
    database,
    directory,
    env,
    fernet_keys,
    flag,
    line,
    long_secret,
    mail_server,
    make_directory,
    networks,
    reachable,
    secret,
    whole_number,
    words,
)

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = directory("DATA_DIR", BASE_DIR / "var")

REDIS_URL = address("REDIS_URL", "redis", "rediss", "unix")
EMBEDDED = not REDIS_URL and not env.str("DATABASE_URL", default="")

DEBUG = flag("DEBUG", default=False)
SECRET_KEY = secret("SECRET_KEY", DATA_DIR, embedded=EMBEDDED)
ENCRYPTION_KEYS = fernet_keys("ENCRYPTION_KEYS", secret("ENCRYPTION_KEYS", DATA_DIR, embedded=EMBEDDED))
MASTER_KEY = long_secret("MASTER_KEY", embedded=EMBEDDED)

HOST = env.str("HOST", default="127.0.0.1")
PORT = whole_number("PORT", 4000, 1, 65535)
WEB_WORKERS = whole_number("WEB_WORKERS", 1, 1, 512)
if WEB_WORKERS > 1 and not REDIS_URL:
    raise ImproperlyConfigured("WEB_WORKERS above 1 needs REDIS_URL: in-process limits can't be shared.")
DRAIN_SECONDS = whole_number("DRAIN_SECONDS", 30, 1, 1800)
DRAIN_NOTICE_SECONDS = whole_number("DRAIN_NOTICE_SECONDS", 0, 0, 300)
ALLOWED_HOSTS = words("ALLOWED_HOSTS", ("localhost", "127.0.0.1", "[::1]"))
CSRF_TRUSTED_ORIGINS = words("CSRF_TRUSTED_ORIGINS")
DEMO_ADDRESS_FILE = DATA_DIR / "demo.address"  # where web serves the demo provider
LITELLM_CONFIG = env.str("LITELLM_CONFIG", default="")

# The data plane
CONTACT = line("CONTACT", longest=200)
CLIENT_DETAILS = choice("CLIENT_DETAILS", ("keep", "cut", "drop"), default="keep")
PROVIDER_WORDS = choice("PROVIDER_WORDS", ("keep", "drop"), default="keep")
UPSTREAM_TRANSPORT = choice("UPSTREAM_TRANSPORT", ("fast", "httpx"), default="fast")
MAX_BODY_BYTES = whole_number("MAX_BODY_BYTES", 20 * 1024 * 1024, 1024, 1024**3)
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
HEADER_SECONDS = whole_number("HEADER_SECONDS", 30, 1, 3600)
BODY_SECONDS = whole_number("BODY_SECONDS", 20, 1, 3600)
HEAD_BYTES = whole_number("HEAD_BYTES", 65536, 16384, 1024**2)
HEAD_LINES = whole_number("HEAD_LINES", 200, 50, 10_000)
PAGE_BODY_BYTES = whole_number("PAGE_BODY_BYTES", 1024**2, 65536, 1024**3)
BODY_BYTES_IN_FLIGHT = whole_number("BODY_BYTES_IN_FLIGHT", 256 * 1024**2, 1024**2, 1024**4)
if BODY_BYTES_IN_FLIGHT < MAX_BODY_BYTES:
    raise ImproperlyConfigured("BODY_BYTES_IN_FLIGHT is below MAX_BODY_BYTES: no such body could be served.")
CLIENT_STALL_SECONDS = whole_number("CLIENT_STALL_SECONDS", 60, 1, 3600)
CLIENT_CONNECTIONS = whole_number("CLIENT_CONNECTIONS", 20_000, 16, 1_000_000)
IDLE_CONNECTIONS_PER_ADDRESS = whole_number("IDLE_CONNECTIONS_PER_ADDRESS", 2000, 1, 1_000_000)
# Streams whose caller is gone, of providers that drain them
ABANDONED_SECONDS = whole_number("ABANDONED_SECONDS", 60, 1, 3600)
ABANDONED_BYTES = whole_number("ABANDONED_BYTES", 10 * 1024 * 1024, 1024, 1024**3)
ABANDONED_AT_ONCE = whole_number("ABANDONED_AT_ONCE", 64, 0, 65535)
# What is not public and may be connected to all the same; routing/addresses.py has what never may.
PROVIDER_NETWORKS = reachable("PROVIDER_NETWORKS", "private")
CHANNEL_NETWORKS = reachable("CHANNEL_NETWORKS", "none")
JOURNAL_DIR = DATA_DIR / "journal"
CONTENT_DIR = DATA_DIR / "content"
CONTENT_MAX_BYTES = whole_number("CONTENT_MAX_BYTES", 262144, 1024, 300000)
JOURNAL_WHEN_FULL = choice("JOURNAL_WHEN_FULL", ("serve", "refuse"), default="serve")

# Monitoring
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")
HEALTH_PROVIDERS = choice("HEALTH_PROVIDERS", ("shown", "hidden"), default="shown")
METRICS_PUBLIC = flag("METRICS_PUBLIC", default=False)
OTEL_EXPORTER_OTLP_ENDPOINT = address("OTEL_EXPORTER_OTLP_ENDPOINT", "http", "https")
ALERT_TICK_SECONDS = whole_number("ALERT_TICK_SECONDS", 5, 1, 3600)
globals().update(mail_server("EMAIL_URL"))
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.str("EMAIL_FROM", default="switchstand@localhost")
STALLED_SECONDS = whole_number("STALLED_SECONDS", 60, 6, 3600)
ALERT_HISTORY_DAYS = whole_number("ALERT_HISTORY_DAYS", 90, 1, 3650)
HEALTH_HISTORY_DAYS = whole_number("HEALTH_HISTORY_DAYS", 7, 1, 365)

# Limits and budgets
LIMITS_FILE = DATA_DIR / "limits.json"  # where a process that counts by itself tells what it counts
SPENT = "monitoring.budgets.spending.spent"  # what a budget's counter starts with
TRUSTED_PROXIES = networks("TRUSTED_PROXIES")
AUTH_FAILURES_PER_MINUTE = whole_number("AUTH_FAILURES_PER_MINUTE", 60, 1, 1_000_000)
REDIS_TIMEOUT_MS = whole_number("REDIS_TIMEOUT_MS", 100, 5, 10_000)
LIMITS_WITHOUT_REDIS = choice("LIMITS_WITHOUT_REDIS", ("open", "closed"), default="open")
LIMITS_LEASE_SECONDS = whole_number("LIMITS_LEASE_SECONDS", 30, 2, 3600)

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "corsheaders",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "gateway_project",
    "routing",
    "proxy",
    "monitoring",
]

MIDDLEWARE = [
    "gateway_project.page_security.PageSecurity",
    "django.middleware.security.SecurityMiddleware",
    "gateway_project.static_files.StaticFiles",
    "proxy.doors.cors.Cors",
    "gateway_project.bounds.NoNulMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "gateway_project.hosts.HostMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "gateway_project.urls"
ASGI_APPLICATION = "gateway_project.asgi.application"
APPEND_SLASH = True

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "gateway_project" / "templates"],  # before those of unfold
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

DATABASES = {"default": database("DATABASE_URL", f"sqlite:///{DATA_DIR / 'switchstand.sqlite3'}")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["ENGINE"] = "gateway_project.sqlite"
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
else:
    DATABASES["default"].setdefault("CONN_MAX_AGE", 60)
    DATABASES["default"].setdefault("OPTIONS", {}).setdefault("connect_timeout", 5)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

PASSWORD_HASHERS = ["gateway_project.passwords.Hasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

LOGIN_REDIRECT_URL = "admin:index"

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
make_directory(STATIC_ROOT, "DATA_DIR")  # whitenoise warns at every start where it is missing
# `make serve` needs no collectstatic: whitenoise finds the packages' files itself.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG

# Browsers (django-cors-headers); origins from a loaded config are added in proxy/doors/cors.py.
_ORIGINS = words("CORS_ALLOWED_ORIGINS")
CORS_ALLOW_ALL_ORIGINS = _ORIGINS == ["*"]
CORS_ALLOWED_ORIGINS = [] if CORS_ALLOW_ALL_ORIGINS else _ORIGINS
CORS_ALLOW_CREDENTIALS = True
CORS_ALLOW_METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS")
# The admin and the control plane's REST are not for other origins.
CORS_URLS_REGEX = r"^/(v1|api/llm|health|chat|models)(/|$)"
CORS_ALLOW_HEADERS = (
    "accept",
    "api-key",
    "authorization",
    "cache-control",
    "content-type",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-api-key",
    "x-client-info",
    "x-litellm-api-key",
    "x-litellm-model",
    "x-litellm-num-retries",
    "x-litellm-route",
    "x-litellm-tags",
    "x-litellm-timeout",
    "x-request-id",
    # what the OpenAI SDK sends from a browser
    "openai-beta",
    "openai-organization",
    "openai-project",
    "x-stainless-arch",
    "x-stainless-helper-method",
    "x-stainless-lang",
    "x-stainless-os",
    "x-stainless-package-version",
    "x-stainless-retry-count",
    "x-stainless-runtime",
    "x-stainless-runtime-version",
    "x-stainless-timeout",
)
CORS_EXPOSE_HEADERS = (
    "retry-after",
    "x-litellm-call-id",
    "x-litellm-model-group",
    "x-litellm-model-id",
    "x-litellm-response-cost",
    "x-proxy-provider",
    "x-request-id",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
)

REST_FRAMEWORK = {
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    # Each view names its own: none takes a password.
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PARSER_CLASSES": [
        "gateway_project.json_parser.BoundedJSONParser",
        "rest_framework.parsers.FormParser",
        "rest_framework.parsers.MultiPartParser",
    ],
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Switchstand",
    "DESCRIPTION": "An LLM gateway with an OpenAI-compatible API. "
    "Everything under `/v1` is also served without `/v1`, and under `/api/llm`.",
    "VERSION": (BASE_DIR / "VERSION").read_text().strip(),
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SERVE_INCLUDE_SCHEMA": False,
    "PREPROCESSING_HOOKS": ["proxy.doors.schema.only_one_base_path"],
}

# Celery: Redis, or a queue in the worker's own memory with beat as a thread of it.
CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", default=REDIS_URL or "memory://localhost")
if CELERY_BROKER_URL.startswith("memory:"):
    CELERY_BROKER_TRANSPORT = "gateway_project.memory_broker:Transport"
    CELERY_WORKER_ENABLE_REMOTE_CONTROL = False  # nobody else can reach it
CELERY_TASK_IGNORE_RESULT = True
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CONCURRENCY = (
    12  # more than there are periodic tasks: those that hang leave room for all others
)
CELERY_BEAT_SCHEDULER = "monitoring.background.single_beat:SingleScheduler"
PARTS_DIR = DATA_DIR / "parts"  # which part of `make serve` ended and was started again
ASKED_SECONDS = 2  # what an admin asks for is a row; so soon it is found
PROBE_TICK_SECONDS = 2
CELERY_BEAT_SCHEDULE = schedule.tasks(ALERT_TICK_SECONDS, ASKED_SECONDS, PROBE_TICK_SECONDS)

LOOP_TIMES_FILE = env.str("LOOP_TIMES_FILE", default="")
LOG_LEVEL = choice("LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR"), default="INFO")
LOG_FORMAT = choice("LOG_FORMAT", ("console", "json"), default="console")
LOG_REQUESTS = choice("LOG_REQUESTS", ("none", "failed", "all"), default="none")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "console": {
            "()": "monitoring.request_log.log_formats.Console",
            "format": "%(asctime)s %(levelname)s %(name)s: %(message)s",
        },
        "json": {
            "()": "monitoring.request_log.log_formats.Json",
            "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
        },
    },
    "filters": {"bounded": {"()": "gateway_project.log_bounds.BoundedLines"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT, "filters": ["bounded"]}
    },
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        # A line per 404 would let strangers write the log; what fails in Django (5xx) is an error.
        "django.request": {"level": "ERROR"},
        # httpx logs whole URLs at INFO, and a provider's URL may hold a credential.
        "httpx": {"level": "WARNING"},
        "httpcore": {"level": "WARNING"},
        # Two lines a second while the collector is away; proxy/tracing/otlp.py says it once.
        "opentelemetry": {"level": "DEBUG" if LOG_LEVEL == "DEBUG" else "CRITICAL"},
    },
}

SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
HTTPS = choice("HTTPS", ("false", "true"), default="false") == "true"
HSTS_SECONDS = whole_number("HSTS_SECONDS", 3600, 0, 63_072_000)
if HTTPS:
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_HSTS_SECONDS = HSTS_SECONDS
    # Only what a trusted proxy wrote gets so far: PageSecurity.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
# Subdomains and browsers' preload lists are not ours to bind; the proxy that ends TLS redirects, and a
# redirect from here would go round in circles where TRUSTED_PROXIES is missing.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]

UNFOLD = navigation.UNFOLD

if _dsn := address("SENTRY_DSN", "http", "https"):
    import sentry_sdk

    from monitoring.crash_reports import Reports, options

    _known = (MASTER_KEY, METRICS_TOKEN, SECRET_KEY, *ENCRYPTION_KEYS, DATABASES["default"].get("PASSWORD"))
    sentry_sdk.init(dsn=_dsn, **options(Reports(_known)))
