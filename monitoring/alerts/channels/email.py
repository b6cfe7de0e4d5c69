"""E-mail, by the server of EMAIL_URL."""

import smtplib

from django.core.mail import EmailMessage, get_connection

from monitoring.alerts.message import ChannelFailed, Message


def send(addresses: str, secret: str, message: Message, seconds: float) -> None:
    """`addresses`: separated by commas. Raises ChannelFailed."""
    to = [address.strip() for address in addresses.split(",") if address.strip()]
    lines = [message.summary, "", f"Rule: {message.rule}", f"Since: {message.started_at}"]
    lines += [f"{name}: {value}" for name, value in message.evidence.items()]
    try:
        connection = get_connection(timeout=seconds)
        EmailMessage(
            f"Switchstand: {message.title}"[:200], "\n".join(lines), to=to, connection=connection
        ).send()
    except (smtplib.SMTPException, OSError) as error:
        raise ChannelFailed(f"{type(error).__name__}: not sent") from None
