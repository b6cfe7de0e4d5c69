"""What Celery beat starts, and how often."""

from typing import Any

ROLL_UP_SECONDS = 15
TRAFFIC_SECONDS = 5
MINUTE, HOUR = 60, 3600


def tasks(alerts: int, asked: int, probes: int) -> dict[str, dict[str, Any]]:
    """All of them; the arguments are seconds.

    The shipper's process looks for alerts too: each of the two notices when the other is gone.
    """
    seconds = {
        "probe_providers": probes,
        "look_for_alerts": alerts,
        "judge_traffic": TRAFFIC_SECONDS,
        "roll_up_usage": ROLL_UP_SECONDS,
        "reprice_requests": asked,
        "update_budgets": MINUTE,
        "send_reports": MINUTE,
        "keep_request_log": HOUR // 2,
        "prune_health_history": HOUR,
    }
    return {name.replace("_", "-"): _every(pause, name) for name, pause in seconds.items()}


def _every(seconds: int, name: str) -> dict[str, Any]:
    """A worker that was away finds one tick to do, not all that it missed."""
    return {"task": f"monitoring.tasks.{name}", "schedule": seconds, "options": {"expires": seconds}}
