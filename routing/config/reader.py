"""A document -> the plan of the rows that it asks for."""

from typing import Any

from routing.config import model_list, own_section, reasons, settings_sections
from routing.config.assembly import assemble
from routing.config.plan import Plan
from routing.config.report import Notes
from routing.config.section import ABSENT, Section


def read(document: dict[str, Any], notes: Notes) -> Plan:
    """What was found wrong is in `notes`; the plan then holds the rest."""
    root = Section(document, "", notes)
    entries = model_list.read(root)
    settings = settings_sections.read(root)
    own = own_section.read(root.section("switchstand"))
    root.finish(reasons.ROOT)
    plan = assemble(entries, settings, own, notes)
    plan.lists_models = root.raw("model_list") is not ABSENT
    return plan
