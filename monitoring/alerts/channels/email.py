"""E-mail, by the server of EMAIL_URL."""

import smtplib

from django.core.mail import EmailMessage, EmailMultiAlternatives, get_connection
from django.core.mail.utils import DNS_NAME

from monitoring.alerts.message import ChannelFailed, File, Message, one_line
from proxy.transports.connecting import refusal

MOST_BYTES = 10 * 1000 * 1000
"""Of an attachment: most servers take no more."""


def send(addresses: str, secret: str, message: Message, seconds: float) -> None:
    """`addresses`: separated by commas. Raises ChannelFailed."""
    lines = [message.summary, "", f"Rule: {message.rule}", f"Since: {message.started_at}"]
    lines += [f"{name}: {value}" for name, value in message.evidence.items()]
    _send(EmailMessage(_subject(message.title), "\n".join(lines), to=_list(addresses)), seconds)


def send_file(addresses: str, secret: str, file: File, seconds: float) -> None:
    """HTML is the message itself, all else is attached. Raises ChannelFailed."""
    content = file.content.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ChannelFailed(f"{file.name} is larger than {MOST_BYTES // 10**6} MB: a webhook takes it")
    mail = EmailMultiAlternatives(
        _subject(file.title),
        f"{file.title}\n",
        to=_list(addresses),
        headers={"Message-ID": f"<{file.id}@{DNS_NAME}>"},
    )
    if file.content_type.startswith("text/html"):
        mail.attach_alternative(content.decode(), "text/html")
    else:
        mail.attach(file.name, content, file.content_type.partition(";")[0])
    _send(mail, seconds)


def _subject(title: str) -> str:
    """One line, whatever the names in it hold: a header has no other."""
    return one_line(f"Switchstand: {title}")[:200]


def _list(addresses: str) -> list[str]:
    return [address.strip() for address in addresses.split(",") if address.strip()]


def _send(mail: EmailMessage, seconds: float) -> None:
    try:
        mail.connection = get_connection(timeout=seconds)
        mail.send()
    except (smtplib.SMTPException, OSError) as error:
        raise ChannelFailed(str(refusal(error) or f"{type(error).__name__}: not sent")) from None
