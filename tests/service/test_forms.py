"""The quick form reader finds what Werkzeug finds, or leaves it to Werkzeug."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.test import EnvironBuilder

from service.forms import plain_files
from service.messages import Request

B = "XX"
KIND = f"multipart/form-data; boundary={B}"
MOST = 64
"""Files in a form."""
SCRAPS = st.sampled_from(
    [
        *(b"\r\n", b"\n", b"--", b"--XX", b"\r\n--XX", b"\r\n--XX--\r\n", b"XX", b" ", b'"', b";"),
        b'Content-Disposition: form-data; name="image"; filename="a.png"',
        b'content-disposition: form-data; name="image"; filename="b\xc3\xa9.png"',
        b'Content-Disposition: form-data; name="image"; filename="\xc2\x85\xe2\x80\xa8.png"',
        b'Content-Disposition: form-data; filename="c.png"; name="image"',
        b'Content-Disposition: form-data; name="text"',
        b"Content-Type: image/png",
        b"Content-Length: 3",
        b"\x89PNG",
    ]
)


def werkzeugs(body: bytes, kind: str) -> list[tuple[str, str, bytes]]:
    environ = EnvironBuilder(method="POST", data=body, content_type=kind).get_environ()
    request = Request(environ)
    assert not list(request.form.items())
    return [
        (field, str(file.filename), file.read()) for field, file in request.files.items(multi=True)
    ]


def part(field: str, name: str, content: bytes, *, kind: str = "image/png") -> bytes:
    head = f'--{B}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"'
    return f"{head}\r\nContent-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"


END = f"--{B}--\r\n".encode()


def test_plain_forms_are_read() -> None:
    body = part("image", "a.png", b"one\r\n--XY two") + part("other", "b c.png", b"") + END
    expected = [("image", "a.png", b"one\r\n--XY two"), ("other", "b c.png", b"")]
    assert plain_files(body, KIND, MOST) == expected == werkzeugs(body, KIND)
    assert plain_files(body, f'{KIND[:-2]}"{B}"', MOST) == expected


@pytest.mark.parametrize("name", ["é.png", "\x85\xa0 \u2028\ufeff.png", "\U0001f350"])
def test_names_beyond_ascii_are_read_in_utf_8(name: str) -> None:
    body = part("image", name, b"x") + END
    assert plain_files(body, KIND, MOST) == [("image", name, b"x")] == werkzeugs(body, KIND)


@pytest.mark.parametrize("name", ["é.png", "ÄÖÜ.png", "\xa0ÿ"])
def test_names_in_latin_1_are_read_which_werkzeug_refuses(name: str) -> None:
    body = part("image", name, b"x") + END
    written = body.replace(name.encode(), name.encode("latin-1"))
    assert plain_files(written, KIND, MOST) == [("image", name, b"x")] == werkzeugs(body, KIND)
    with pytest.raises(ValueError, match="codec can't decode"):
        werkzeugs(written, KIND)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (part("image", "a%22.png", b"x") + END, KIND),
        (part("image", 'a\\".png', b"x") + END, KIND),
        (part("image", "", b"x") + END, KIND),
        (b"preamble\r\n" + part("image", "a.png", b"x") + END, KIND),
        (part("image", "a.png", b"x") + END + b"epilogue", KIND),
        (part("image", "a.png", b"x"), KIND),
        (b"", KIND),
        (END, KIND),
        (part("image", "a.png", b"x") + END, "multipart/form-data"),
        (part("image", "a.png", b"x") + END, f"{KIND}; charset=utf-8"),
        (f'--{B}\r\nContent-Disposition: form-data; name="t"\r\n\r\nx\r\n'.encode() + END, KIND),
    ],
)
def test_what_is_not_plain_is_left_to_werkzeug(body: bytes, kind: str) -> None:
    assert not plain_files(body, kind, MOST)


def test_a_form_of_more_files_than_may_be_is_left_to_werkzeug() -> None:
    files = [part("image", f"{number}.png", b"x") for number in range(3)]
    assert len(plain_files(b"".join([*files, END]), KIND, 3) or ()) == 3
    assert plain_files(b"".join([*files, END]), KIND, 2) is None


def test_a_form_of_countless_parts_is_not_taken_apart() -> None:
    body = f"--{B}".encode() + f"\r\n12\r\n--{B}".encode() * 100_000 + b"--\r\n"
    tracemalloc.start()
    try:
        assert plain_files(body, KIND, MOST) is None
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3 * len(body)


@pytest.mark.parametrize("where", ["field", "name", "kind"])
def test_a_head_that_is_too_long_is_left_to_werkzeug_which_refuses_it(where: str) -> None:
    texts = {"field": "image", "name": "a.png", "kind": "image/png", where: "x" * 600_000}
    body = part(texts["field"], texts["name"], b"x", kind=texts["kind"]) + END
    assert plain_files(body, KIND, MOST) is None
    with pytest.raises(RequestEntityTooLarge):
        werkzeugs(body, KIND)


@given(st.lists(SCRAPS | st.binary(max_size=6), max_size=14).map(b"".join), st.booleans())
@example(b"\r\n" + part("image", "a.png", b"x") + END, False)
def test_whatever_is_read_is_what_werkzeug_reads(scraps: bytes, inside: bool) -> None:
    body = part("image", "a.png", scraps) + END if inside else scraps
    found = plain_files(body, KIND, MOST)
    if found is not None:
        assert found == werkzeugs(body, KIND)
