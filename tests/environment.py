"""The tests' own data directory and secrets; a plugin, so that it comes before Django reads its settings."""

import os
import tempfile
from pathlib import Path

from cryptography.fernet import Fernet

DATA_DIR = Path(tempfile.mkdtemp(prefix="switchstand-tests-"))
for _name in ("REDIS_URL", "CELERY_BROKER_URL", "LITELLM_CONFIG", "MASTER_KEY", "CORS_ALLOWED_ORIGINS"):
    os.environ.pop(_name, None)
# Hundreds of processes are started: each would compile the project anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ |= {
    "DATA_DIR": str(DATA_DIR),
    "DATABASE_URL": f"sqlite:///{DATA_DIR / 'main.sqlite3'}",
    "SECRET_KEY": "only-for-tests-and-long-enough",
    "ENCRYPTION_KEYS": Fernet.generate_key().decode(),
    # Gateways that share the tests' database must not raise alerts in the middle of other tests.
    "ALERT_TICK_SECONDS": "3600",
    "CHANNEL_NETWORKS": "127.0.0.0/8",
    "DJANGO_SETTINGS_MODULE": "gateway_project.settings",
}
