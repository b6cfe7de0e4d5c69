"""One module per kind of channel. A new kind is a module with a `send` and a line here."""

from collections.abc import Callable

from monitoring.alerts.channels import email, slack, webhook
from monitoring.alerts.message import File, Message

SECONDS = 10.0
"""The longest that a channel may take for one message."""

Send = Callable[[str, str, Message, float], None]
"""(target, secret, message, seconds). Raises ChannelFailed."""

FILE_SECONDS = 60.0
"""The longest that a channel may take for one file."""

KINDS: dict[str, Send] = {"webhook": webhook.send, "slack": slack.send, "email": email.send}

FILE_KINDS: dict[str, Callable[[str, str, File, float], None]] = {
    "webhook": webhook.send_file,
    "email": email.send_file,
}
"""Those that take files too, such as reports."""
