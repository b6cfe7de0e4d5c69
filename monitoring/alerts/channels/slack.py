"""A Slack-compatible incoming webhook (Slack, Mattermost, Rocket.Chat); the URL is the secret."""

import msgspec

from monitoring.alerts.channels.posting import post
from monitoring.alerts.message import Message

_MARKS = {"fired": ":rotating_light:", "reminder": ":alarm_clock:", "resolved": ":white_check_mark:"}


def send(url: str, secret: str, message: Message, seconds: float) -> None:
    """Raises ChannelFailed."""
    mark = _MARKS.get(message.event, ":bell:")
    told = f"{mark} *{_plain(message.event)}* {_plain(message.summary)}"
    text = f"{told}\nSince {message.started_at} ({message.rule})"
    post(url, msgspec.json.encode({"text": text}), {}, seconds)


def _plain(text: str) -> str:
    """Slack's markup has three special characters."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
