"""The admin of the control plane: one module per subject."""

from routing.admin import access, gateway, guards, maintenance, providers, routes, targets

__all__ = ["access", "gateway", "guards", "maintenance", "providers", "routes", "targets"]
