from argparse import ArgumentParser
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError

from proxy.explain.explain import Candidate, Explanation, Question
from proxy.explain.live import Live, live
from routing.compiled_keys import MASTER
from routing.table import KeyEntry


class Command(BaseCommand):
    help = "Explain where a request for a model would go and why, without asking any provider."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("model", help="as a caller would send it")
        key = parser.add_mutually_exclusive_group()
        key.add_argument("--key-name", metavar="N", help="the API key with this name")
        key.add_argument(
            "--key", metavar="K", help="the API key itself; without both: the MASTER_KEY's rights"
        )
        parser.add_argument("--tags", metavar="A,B", default="", help="as in x-litellm-tags")
        parser.add_argument("--provider", metavar="SLUG", default="", help="as in x-litellm-route")
        parser.add_argument("--session", metavar="ID", default="", help="as in x-session-id")
        parser.add_argument("--user", default="", help="as in the body's user")
        parser.add_argument("--stream", action="store_true", help="as for a stream")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        state = live()
        question = Question(
            model=options["model"],
            key=_key(state, options["key_name"], options["key"]),
            provider=options["provider"],
            tags=options["tags"],
            session=options["session"],
            user=options["user"],
            stream=options["stream"],
        )
        found = state.explain(question)
        if options["json"]:
            self.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        else:
            self.stdout.write("\n".join(text_lines(found)))


def _key(state: Live, name: str | None, plaintext: str | None) -> KeyEntry | None:
    if name is not None:
        found = state.key_named(name)
        if found is None:
            known = ", ".join(sorted(key.name for key in state.table.keys.values())) or "none"
            raise CommandError(f"--key-name: unknown API key {name!r}; known are: {known}")
        return found
    return MASTER if plaintext is None else state.key_of(plaintext)


def text_lines(found: Explanation) -> list[str]:
    lines = [f"{'ok ' if step.passed else 'NO '} {step.step}: {step.text}" for step in found.steps]
    lines += [f"limit of {limit}" for limit in found.limits]
    for candidate in found.targets:
        lines += ["", *_candidate(candidate)]
    return [*lines, "", f"({found.note})"]


def _candidate(candidate: Candidate) -> list[str]:
    place = f"{candidate.place}." if candidate.place else "-"
    state = candidate.state
    error = "" if state.error_percent is None else f", {state.error_percent:.0f} % errors in the last minute"
    lines = [
        f"{place:3} {candidate.provider}/{candidate.model} "
        f"(target {candidate.target}, priority {candidate.priority}, weight {candidate.weight})",
        f"    {candidate.why}" if candidate.why else "",
        f"    circuit {state.standing}, {state.in_flight} in flight{error}",
        f"    last error: {state.last_error}" if state.last_error else "",
    ]
    return [line for line in lines if line] + [f"    limit of {limit}" for limit in candidate.limits]
