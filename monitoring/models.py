"""All models of the app, for Django to discover; each stands in its own room."""

from monitoring.alerts.models import Alert, AlertChannel, AlertDelivery, AlertRule
from monitoring.background.models import Heartbeat
from monitoring.budgets.models import BudgetPeriod
from monitoring.content.models import ContentAccess, RequestContent
from monitoring.health.models import CheckSchedule, HealthCheck, HealthTransition, TrafficFault
from monitoring.incidents.models import Incident
from monitoring.pricing.models import Repricing
from monitoring.reports.models import ReportDelivery, ScheduledReport
from monitoring.request_log.models import CHAT, RequestLog, RowSeal
from monitoring.usage.models import StaleHour, UsageHour, UsageSum

__all__ = [
    "CHAT",
    "Alert",
    "AlertChannel",
    "AlertDelivery",
    "AlertRule",
    "BudgetPeriod",
    "CheckSchedule",
    "ContentAccess",
    "HealthCheck",
    "HealthTransition",
    "Heartbeat",
    "Incident",
    "ReportDelivery",
    "Repricing",
    "RequestContent",
    "RequestLog",
    "RowSeal",
    "ScheduledReport",
    "StaleHour",
    "TrafficFault",
    "UsageHour",
    "UsageSum",
]
