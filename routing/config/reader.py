"""A document -> the plan of the rows that it asks for."""

from typing import Any

from routing.config import misplaced, model_list, own_section, reasons, settings_sections
from routing.config.assembly import assemble
from routing.config.plan import Plan
from routing.config.report import Notes
from routing.config.section import Section
from routing.config.slugs import Stored


def read(document: dict[str, Any], notes: Notes, stored: Stored | None = None) -> Plan:
    """What can be taken; what can't is in `notes`."""
    root = Section(misplaced.put_right(document, notes), "", notes)
    listed = model_list.read(root)
    settings = settings_sections.read(root)
    own = own_section.read(root.section("switchstand"))
    root.finish(reasons.ROOT)
    plan = assemble(listed, settings, own, stored or Stored(), notes)
    plan.lists_models = bool(listed.entries or listed.not_taken)
    return plan
