"""Django's mail backend, connecting only to addresses that were looked at."""

import smtplib
import socket

from django.core.mail.backends.smtp import EmailBackend

from proxy.transports.connecting import allowed
from routing.addresses import AddressRefused, for_environment


class _Checked(smtplib.SMTP):
    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return _connected(host, port, timeout)


class _CheckedOverTls(smtplib.SMTP_SSL):
    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return self.context.wrap_socket(_connected(host, port, timeout), server_hostname=host)


def _connected(host: str, port: int, timeout: float) -> socket.socket:
    """Raises OSError."""
    try:
        rules = for_environment()
        rules.check_name(host)
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        good = allowed((str(info[4][0]) for info in found), port, rules)
    except AddressRefused as why:
        raise ConnectionRefusedError(str(why)) from why
    last: OSError = ConnectionRefusedError(f"{host} has no address")
    for address in good:
        try:
            return socket.create_connection((address, port), timeout)
        except OSError as failure:
            last = failure
    raise last


class CheckedEmailBackend(EmailBackend):
    @property
    def connection_class(self) -> type[smtplib.SMTP]:
        return _CheckedOverTls if self.use_ssl else _Checked
