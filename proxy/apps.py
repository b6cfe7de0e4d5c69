from django.apps import AppConfig


class ProxyConfig(AppConfig):
    name = "proxy"
    verbose_name = "Proxy"

    def ready(self) -> None:
        from proxy.doors import cors, schema  # noqa: F401 registers the authentication scheme

        cors.connect()
