"""The background process of `make serve`: a Celery worker with beat as a thread in it."""

import argparse
import sys
import warnings

from celery import platforms

from gateway_project.celery import app
from gateway_project.parent import end_with_parent
from monitoring.background.beat_thread import BeatThread


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m gateway_project.background", description=__doc__)
    parser.add_argument("--stop-seconds", type=float, required=True)
    end_with_parent(parser.parse_args(arguments).stop_seconds)
    # About pickle, which isn't accepted here, and root, whom containers run as.
    warnings.filterwarnings("ignore", category=platforms.SecurityWarning)  # type: ignore[attr-defined]
    sys.__stdout__ = None  # type: ignore[misc]  # where Celery announces that it was told to stop
    BeatThread.always = True
    app.worker_main(["--quiet", "worker", "--pool=threads", "--without-mingle", "--without-gossip"])


if __name__ == "__main__":
    main(sys.argv[1:])
