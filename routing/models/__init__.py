from routing.models.access import ApiKey, Team
from routing.models.fallback import RouteFallback
from routing.models.guards import InactiveGuard
from routing.models.issued import IssuedKey
from routing.models.loaded import LoadedRow
from routing.models.maintenance import MaintenanceWindow
from routing.models.provider import Provider
from routing.models.route import ModelRoute, RouteTarget
from routing.models.state import GatewaySettings, ProviderHealth, RoutingVersion

__all__ = [
    "ApiKey",
    "GatewaySettings",
    "InactiveGuard",
    "IssuedKey",
    "LoadedRow",
    "MaintenanceWindow",
    "ModelRoute",
    "Provider",
    "ProviderHealth",
    "RouteFallback",
    "RouteTarget",
    "RoutingVersion",
    "Team",
]
