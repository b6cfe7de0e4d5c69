"""What this machine's cores do when they have nothing to do: a request at one connection finds them so."""

from pathlib import Path

GOVERNOR = Path("/sys/devices/system/cpu/cpuidle/current_governor")
POLLS = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")


def at_rest() -> str:
    """Said of virtual machines only; "" of others.

    Source: Documentation/virt/guest-halt-polling.rst of Linux.
    """
    try:
        if GOVERNOR.read_text().strip() != "haltpoll":
            return ""
        microseconds = int(POLLS.read_text()) // 1000
    except (OSError, ValueError):
        return ""
    if microseconds:
        return f"Cores look for work for {microseconds} µs before they sleep."
    return (
        "Cores sleep at once (guest_halt_poll_ns is 0, Linux's default 200000): waking one takes 30 to 50 µs."
    )
