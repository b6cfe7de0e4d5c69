"""A configuration file in the admin: upload it, look at what it would change, apply exactly that.

Between the two pages its text is in the second one, encrypted: it may hold credentials, and nothing of it is
stored.
"""

import hashlib
import json
import time
import zlib
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.models import CHANGE
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.debug import sensitive_variables
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminFileFieldWidget, UnfoldAdminTextInputWidget, UnfoldBooleanWidget

from routing import credentials
from routing.admin.base import record
from routing.compiler import current_version
from routing.config import environment
from routing.config.loader import ConfigInvalid, LoadReport, load_text, plan_text
from routing.models import GatewaySettings

MOST_BYTES = 512 * 1024  # its encrypted form must fit in a page's body
APPLY_SECONDS = 15 * 60
MOST_SHOWN = 500  # lines of each kind
MOST_RECORDED = 4000  # characters
EDITED = (
    "The configuration was edited since this was planned. This is what would be done now: apply it again."
)
TOO_OLD = "The plan is older than 15 minutes, or was made for somebody else: upload the file again."
_CHANGED = ("provider", "modelroute", "routetarget", "routefallback", "team", "apikey")


@dataclass(frozen=True, slots=True)
class Upload:
    text: bytes
    name: str
    prune: bool

    def plan(self) -> LoadReport:
        """Raises ConfigInvalid."""
        with environment.nothing_set():
            return plan_text(self.text, self.name, prune=self.prune)

    def apply(self, planned_at: int) -> LoadReport:
        """Raises ConfigInvalid."""
        with environment.nothing_set():
            return load_text(self.text, self.name, prune=self.prune, planned_at=planned_at)


class UploadForm(forms.Form):
    file = forms.FileField(
        label="YAML file",
        widget=UnfoldAdminFileFieldWidget(),
        help_text=f"A litellm_config.yaml of at most {MOST_BYTES // 1024} KB.",
    )
    name = forms.CharField(
        label="Remembered as",
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget(),
        help_text="By this name a later load knows the targets that this file made. Blank: the file's name.",
    )
    prune = forms.BooleanField(
        label="Also delete routes and targets that the file does not list",
        required=False,
        widget=UnfoldBooleanWidget(),
    )

    def clean_file(self) -> UploadedFile:
        file: UploadedFile = self.cleaned_data["file"]
        if (file.size or 0) > MOST_BYTES:
            raise ValidationError(
                f"Allowed are at most {MOST_BYTES:,} bytes; load a larger file with manage.py load_config."
            )
        return file

    def upload(self) -> Upload:
        file, given = self.cleaned_data["file"], self.cleaned_data
        return Upload(file.read(), given["name"] or str(file.name), given["prune"])


@sensitive_variables()
def config_file_view(page: ModelAdmin, request: HttpRequest) -> HttpResponse:
    if not may_load(request):
        raise PermissionDenied
    if request.method != "POST":
        return _show(page, request, UploadForm())
    if "plan" in request.POST:
        return _apply(page, request)
    form = UploadForm(request.POST, request.FILES)
    if not form.is_valid():
        return _show(page, request, form)
    upload = form.upload()
    if upload.prune and not may_load(request, "delete"):
        raise PermissionDenied
    return _show_plan(page, request, upload, form)


def may_load(request: HttpRequest, *more: str) -> bool:
    """A file may change all that these may."""
    wanted = [f"routing.{verb}_{name}" for verb in ("add", "change", *more) for name in _CHANGED]
    return request.user.is_active and request.user.has_perms(["routing.change_gatewaysettings", *wanted])


def _show_plan(page: ModelAdmin, request: HttpRequest, upload: Upload, form: UploadForm) -> HttpResponse:
    try:
        report = upload.plan()
    except ConfigInvalid as error:
        for problem in error.problems:
            form.add_error("file", problem)
        return _show(page, request, form)
    return _show(page, request, UploadForm(initial={"name": upload.name}), upload, report)


def _apply(page: ModelAdmin, request: HttpRequest) -> HttpResponse:
    opened = _opened(request)
    if opened is None or (opened[0].prune and not may_load(request, "delete")):
        messages.error(request, TOO_OLD)
        return HttpResponseRedirect(reverse("admin:routing_gatewaysettings_load"))
    upload, planned_at = opened
    try:
        report = upload.apply(planned_at)
    except ConfigInvalid as error:
        if current_version() != planned_at:
            messages.warning(request, EDITED)
        else:
            messages.error(request, str(error))
        return _show_plan(page, request, upload, UploadForm())
    _record(request, upload, report)
    messages.success(request, f"{upload.name}: {report.lines()[-1]}.")
    return _show(page, request, UploadForm(), report=report)


def _record(request: HttpRequest, upload: Upload, report: LoadReport) -> None:
    """In the history of the gateway's settings: what was loaded, and what that changed."""
    digest = hashlib.sha256(upload.text).hexdigest()[:16]
    done = "; ".join(map(str, report.changes)) or "nothing to change"
    text = f"Loaded {upload.name} (SHA-256 {digest}): {done}"
    row, _ = GatewaySettings.objects.get_or_create(pk=1)
    record(request, [row], CHANGE, text if len(text) <= MOST_RECORDED else f"{text[:MOST_RECORDED]} ...")


def _sealed(request: HttpRequest, upload: Upload, version: int) -> str:
    facts = {"name": upload.name, "prune": upload.prune, "version": version}
    facts |= {"user": request.user.pk, "at": time.time()}
    return credentials.encrypt_bytes(zlib.compress(json.dumps(facts).encode() + b"\n" + upload.text))


def _opened(request: HttpRequest) -> tuple[Upload, int] | None:
    """The upload that was planned, and the version that it was planned of; None where it holds no more."""
    try:
        content = zlib.decompress(credentials.decrypt_bytes(request.POST["plan"]))
    except (credentials.CredentialUnreadable, zlib.error):
        return None
    head, _, text = content.partition(b"\n")
    facts: dict[str, Any] = json.loads(head)
    if facts["user"] != request.user.pk or not 0 <= time.time() - facts["at"] <= APPLY_SECONDS:
        return None
    return Upload(text, facts["name"], facts["prune"]), facts["version"]


def _show(
    page: ModelAdmin,
    request: HttpRequest,
    form: UploadForm,
    upload: Upload | None = None,
    report: LoadReport | None = None,
) -> HttpResponse:
    context = {
        **page.admin_site.each_context(request),
        "title": "Load a configuration file",
        "opts": page.opts,
        "form": form,
        "plan": _sealed(request, upload, report.version) if upload and report else "",
        "nothing": report is not None and not report.loaded,
        "changes": _changes(report),
        "reports": _reports(report),
        "summary": report.lines()[-1] if report else "",
    }
    return TemplateResponse(request, "admin/routing/load_config.html", context)


def _changes(report: LoadReport | None) -> dict[str, Any]:
    found = report.changes if report else ()
    rows = [[change.action, change.what, ", ".join(change.fields)] for change in found[:MOST_SHOWN]]
    return {"headers": ["", "Row", "What of it"], "rows": _cut(rows, len(found))}


def _reports(report: LoadReport | None) -> dict[str, Any]:
    found = report.reports if report else ()
    rows = [[one.place, one.reason, one.remedy] for one in found[:MOST_SHOWN]]
    return {
        "headers": ["Place", "What does not take effect, and why", "To do"],
        "rows": _cut(rows, len(found)),
    }


def _cut(rows: list[list[str]], total: int) -> list[list[str]]:
    return rows if total <= len(rows) else [*rows, ["", f"and {total - len(rows):,} more", ""]]
