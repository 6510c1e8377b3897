"""The pixels of one request together are bounded, by the pictures' headers alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image

from service.app import create_app
from service.settings import Settings
from tests.service.test_api import assert_problem, multipart
from tests.service.tiny import encode

PICTURE = encode(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
CUT = PICTURE[:100]  # the header is whole: 30 x 20


@pytest.fixture
def client(settings: Settings) -> FlaskClient:
    return create_app(replace(settings, max_request_pixels=1800)).test_client()


def send(client: FlaskClient, *pictures: bytes, path: str = "/predict"):
    return client.post(path, **multipart([("image", data, "a.png") for data in pictures]))


@pytest.mark.parametrize("path", ["/predict", "/compare"])
def test_pictures_that_just_fit_are_answered_and_one_pixel_more_is_not(
    client: FlaskClient, path: str
) -> None:
    assert send(client, *[PICTURE] * 3, path=path).status_code == 200
    more = send(client, *[PICTURE] * 3, encode(Image.new("L", (1, 1))), path=path)
    assert_problem(more, 413, "1,801 pixels together, more than the 1,800 allowed; send fewer")


def test_a_picture_alone_counts_too(client: FlaskClient) -> None:
    big = encode(Image.new("RGB", (60, 31)))
    assert_problem(client.post("/predict", data=big), 413, "1,860 pixels together")


def test_that_has_nothing_to_do_with_how_curl_was_called(client: FlaskClient) -> None:
    big = encode(Image.new("RGB", (60, 31)))
    kind = "application/x-www-form-urlencoded"
    response = client.post("/predict", data=big, content_type=kind)
    assert_problem(response, 413, "1,860 pixels together")
    assert "curl" not in response.text


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_nothing_is_decoded_of_a_request_that_is_too_large(
    client: FlaskClient, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = encode(Image.new("RGB", (30, 20)), kind)

    def decode(*arguments: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr("service.uploads.decode_opened", decode)
        assert_problem(send(client, *[picture] * 4), 413, "2,400 pixels together")
    assert send(client, *[picture] * 3).status_code == 200


def test_the_header_is_judged_before_the_rest(client: FlaskClient) -> None:
    assert_problem(send(client, CUT), 422)
    assert_problem(send(client, CUT, PICTURE, PICTURE, PICTURE), 413, "2,400 pixels together")


def test_of_files_of_one_name_the_one_that_is_refused_is_told_by_its_place(
    client: FlaskClient,
) -> None:
    """Browsers call whatever a page has drawn "blob"."""
    files = [("image", PICTURE, "blob"), ("image", PICTURE, "a.png"), ("image", CUT, "blob")]
    response = client.post("/predict", **multipart(files))
    assert_problem(response, 422, "'blob' (picture 3 of 3): the PNG data is broken or cut off")
    alone = client.post("/predict", **multipart([*files[:2], ("image", CUT, "b.png")]))
    assert_problem(alone, 422, "'b.png': the PNG data is broken or cut off")
