from django.apps import AppConfig


class MonitoringConfig(AppConfig):
    name = "monitoring"
    verbose_name = "Monitoring"

    def ready(self) -> None:
        from monitoring.alerts import channel_checks  # noqa: F401 registers the check
        from monitoring.shipping.watching import notice
        from routing import notices

        notices.add("watchers", notice)
