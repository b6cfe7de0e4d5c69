"""The admin's styles and scripts, by whitenoise, in answers that an ASGI server can send as they are."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from whitenoise.middleware import WhiteNoiseMiddleware


class StaticFiles(WhiteNoiseMiddleware):
    """Whitenoise answers with a synchronous stream. Under ASGI Django can only read that whole, on one more
    thread, and warns of it. Here it is whole from the beginning: these files are few, ours, and small."""

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponse:
        found = static_file.get_response(request.method, request.META)
        response = HttpResponse(status=int(found.status))
        del response["content-type"]  # 304 has none
        for name, value in found.headers:
            response[name] = value
        if found.file is not None:
            with found.file:
                response.content = found.file.read()
        return response
