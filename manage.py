#!/usr/bin/env python
"""Django's command line for Switchstand."""

import signal
import sys


def main(arguments: list[str]) -> None:
    if arguments[1:2] == ["serve"]:
        # Told to stop, also while it starts: no failure. What a set-up has not finished leaves nothing.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(0))
        if not {"-h", "--help"} & set(arguments):
            look_around(web_only="--web-only" in arguments)
    from django.core.management import execute_from_command_line

    import gateway_project  # noqa: F401 chooses the settings

    execute_from_command_line(arguments)


def look_around(*, web_only: bool) -> None:
    from gateway_project import before_start

    try:
        before_start.look(web_only=web_only)
    except before_start.MayNotStart as reason:
        sys.exit(str(reason))


if __name__ == "__main__":
    main(sys.argv)
