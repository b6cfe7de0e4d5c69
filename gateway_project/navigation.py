"""The admin's title and sidebar, as Unfold reads them."""

from typing import Any

from django.templatetags.static import static
from django.urls import reverse_lazy


def _section(title: str, *items: tuple[str, str, str]) -> dict[str, Any]:
    """Items: title, icon and the name of the page's URL."""
    return {
        "title": title,
        "items": [{"title": name, "icon": icon, "link": reverse_lazy(url)} for name, icon, url in items],
    }


NAVIGATION = [
    _section(
        "Routing",
        ("Providers", "cloud", "admin:routing_provider_changelist"),
        ("Maintenance windows", "construction", "admin:routing_maintenancewindow_changelist"),
        ("Model routes", "alt_route", "admin:routing_modelroute_changelist"),
        ("Route targets", "my_location", "admin:routing_routetarget_changelist"),
        ("Explain a request", "help", "admin:routing_modelroute_explain"),
        ("Gateway settings", "tune", "admin:routing_gatewaysettings_changelist"),
        ("Load a configuration file", "upload_file", "admin:routing_gatewaysettings_load"),
    ),
    _section(
        "Access",
        ("Teams", "groups", "admin:routing_team_changelist"),
        ("API keys", "key", "admin:routing_apikey_changelist"),
        ("Admin users", "person", "admin:auth_user_changelist"),
        ("Admin groups", "badge", "admin:auth_group_changelist"),
    ),
    _section(
        "Monitoring",
        ("Incidents", "crisis_alert", "admin:monitoring_incident_changelist"),
        ("Status page", "monitor_heart", "status"),
        ("Alerts", "notifications", "admin:monitoring_alert_changelist"),
        ("Alert rules", "rule", "admin:monitoring_alertrule_changelist"),
        ("Alert channels", "campaign", "admin:monitoring_alertchannel_changelist"),
        ("Alert deliveries", "outgoing_mail", "admin:monitoring_alertdelivery_changelist"),
        ("Content accesses", "visibility", "admin:monitoring_contentaccess_changelist"),
        ("Budget periods", "savings", "admin:monitoring_budgetperiod_changelist"),
        ("Scheduled reports", "schedule_send", "admin:monitoring_scheduledreport_changelist"),
        ("Report deliveries", "mark_email_read", "admin:monitoring_reportdelivery_changelist"),
        ("Request log", "receipt_long", "admin:monitoring_requestlog_changelist"),
        ("Usage and cost", "bar_chart", "admin:monitoring_usage"),
        ("Unknown prices", "sell", "admin:monitoring_unpriced"),
    ),
]

UNFOLD = {
    "SITE_TITLE": "Switchstand",
    "SITE_HEADER": "Switchstand",
    "SITE_SUBHEADER": "LLM gateway",
    "SITE_SYMBOL": "alt_route",
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda _request: static("switchstand/favicon.svg")}
    ],
    "SHOW_HISTORY": True,
    "DASHBOARD_CALLBACK": "monitoring.dashboard.dashboard",
    "SHOW_VIEW_ON_SITE": False,
    "SIDEBAR": {
        "show_search": True,
        "show_all_applications": False,
        "navigation": NAVIGATION,
    },
}
