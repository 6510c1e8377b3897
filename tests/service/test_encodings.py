"""A body in an encoding that its route does not read is refused by that, not as a bad body."""

from __future__ import annotations

import gzip
import html

import pytest
from flask.testing import FlaskClient

from tests.service.hostile import PHOTO
from tests.service.tiny import encode

PNG = encode(PHOTO)


@pytest.mark.parametrize("encoding", ["gzip", "Deflate", "br", "gzip, identity", "x" * 999])
@pytest.mark.parametrize("path", ["/predict", "/compare", "/answers", "/v2/repository/index"])
def test_a_body_in_an_encoding_that_is_not_read_is_told_so(
    client: FlaskClient, path: str, encoding: str
) -> None:
    """Whether it is packed so, or only said to be."""
    for body in (gzip.compress(PNG), PNG, b""):
        answer = client.post(path, data=body, headers={"Content-Encoding": encoding})
        assert answer.status_code == 415
        assert answer.headers["Accept-Encoding"] == "identity"
        told = html.unescape(answer.text)
        assert f"Content-Encoding is '{encoding.lower()[:80]}', which is not read here" in told
        assert "allowed: identity" in told


@pytest.mark.parametrize("encoding", ["identity", "IDENTITY", "", " identity "])
def test_identity_is_no_encoding(client: FlaskClient, encoding: str) -> None:
    headers = {"Content-Encoding": encoding}
    assert client.post("/predict", data=PNG, headers=headers).status_code == 200
    index = client.post("/v2/repository/index", data=b"{}", headers=headers)
    assert index.status_code == 200
