"""The admin of the control plane: one module per subject."""

from routing.admin import access, gateway, maintenance, providers, routes, targets

__all__ = ["access", "gateway", "maintenance", "providers", "routes", "targets"]
