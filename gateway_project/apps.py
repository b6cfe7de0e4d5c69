from django.apps import AppConfig


class ProjectConfig(AppConfig):
    name = "gateway_project"

    def ready(self) -> None:
        from gateway_project import checks  # noqa: F401 registers them
