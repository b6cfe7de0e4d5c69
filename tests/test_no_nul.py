"""A NUL in a URL or a JSON text, and endless nesting, are the caller's fault: 400, never 500."""

import io

import pytest
from rest_framework.exceptions import ParseError

from gateway_project.json_parser import BoundedJSONParser

URLS = (
    "/admin/monitoring/requestlog/?request_id=%00",
    "/admin/monitoring/requestlog/?q=%00",
    "/api/usage?key=%00",
    "/v1/models/a%00b",
    "/health?x=%00",
)
ODD = ('{"name": ' + "[" * 100_000, '{"name": "a\\u0000b"}', '{"rpm": ' + "9" * 6000 + "}")


@pytest.mark.django_db
@pytest.mark.parametrize("url", URLS)
def test_a_nul_in_a_url_is_400(admin_client, url):
    answer = admin_client.get(url)
    assert answer.status_code == 400
    assert answer.json()["error"]["gateway_code"] == "VALIDATION_ERROR"


@pytest.mark.parametrize("body", ODD)
def test_the_management_api_s_parser_refuses_what_no_column_takes(body):
    with pytest.raises(ParseError):
        BoundedJSONParser().parse(io.BytesIO(body.encode()))
