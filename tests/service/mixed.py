"""Requests of every kind that the service answers, each with the answer that it must get.

In: pictures in all five formats, and what every model says of each. Out: ``Ask``s, drawn at
random: single and many pictures; raw bodies and forms; every variant and version; /predict,
/compare, and the Open Inference Protocol's JSON and bytes; and some that must be refused.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tests.service.tiny import encode, make_card, make_model, oracle, write_repository

NEWEST = {
    "relu_with_bn": 2,
    "relu_without_bn": 1,
    "sigmoid_with_bn": 1,
    "sigmoid_without_bn": 1,
}
DEFAULT = "sigmoid_with_bn"
MODELS = (*NEWEST.items(), ("relu_with_bn", 1))
"""Every variant's newest version, and an older one."""

CLASSES = make_card(DEFAULT).classes
TOLERANCE = 1e-5

Model = tuple[str, int]
Rows = dict[Model, np.ndarray]
Headers = Mapping[str, str]


def weights_of(variant: str, version: int) -> str:
    """What the model's weights are drawn from (``tiny.weights``)."""
    return f"{variant} {version}"


def write_models(folder: Path) -> Path:
    files = {
        (variant, version): make_model(weights_of(variant, version), make_card(variant).to_json())
        for variant, version in MODELS
    }
    return write_repository(folder, files, default=DEFAULT)


@dataclass(frozen=True)
class Picture:
    """``pixels``, uint8 [32, 32, 3], are what Pillow makes of ``data``."""

    data: bytes
    kind: str
    pixels: np.ndarray


def make_pictures(count: int) -> list[Picture]:
    """Pictures whose answers differ clearly, by turns in each of the five formats."""
    generator = np.random.default_rng(11)
    kinds = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
    pictures = []
    for number in range(count):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        kind = kinds[number % len(kinds)]
        data = encode(coarse.repeat(4, axis=0).repeat(4, axis=1), kind)
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        pictures.append(Picture(data, f"image/{kind.lower()}", pixels))
    return pictures


def oracle_rows(pictures: Sequence[Picture]) -> Rows:
    """What the formula says: float64 [pictures, 100] of every model."""
    pixels = np.stack([picture.pixels for picture in pictures])
    return {model: oracle(weights_of(*model), pixels) for model in MODELS}


@dataclass(frozen=True)
class Ask:
    """One request; ``check`` says what is wrong with an answer of the right status, or "".

    ``check`` is given the answer's headers, their names in lower case, and its body. ``counts`` is
    the request's (route, variant), as the metrics name them; ``computed`` are its pictures.
    """

    path: str
    headers: dict[str, str]
    body: bytes
    counts: tuple[str, str]
    check: Callable[[Headers, bytes], str]
    status: int = 200
    computed: Counter[Model] = field(default_factory=Counter)


class Mix:
    """Draws requests; ``rows`` are the answers that they must get."""

    def __init__(self, pictures: Sequence[Picture], rows: Rows) -> None:
        self._pictures = pictures
        self._rows = rows

    def draw(self, number: int) -> Ask:
        """The request of this number, always the same; no other has its names and ids."""
        generator = np.random.default_rng(number)
        kinds = (self._predict, self._predict, self._compare, self._infer, self._refused)
        kind = kinds[generator.choice(len(kinds), p=(0.35, 0.2, 0.15, 0.25, 0.05))]
        return kind(number, generator)

    def alone(self, picture: int, model: Model) -> Ask:
        """One picture to one model, as a raw body."""
        return self._of_predict("alone", [picture], model, top_k=100, form=False)

    def _choose(self, generator: np.random.Generator, most: int) -> list[int]:
        count = 1 if generator.random() < 0.5 else generator.integers(2, most + 1)
        return generator.integers(0, len(self._pictures), count).tolist()

    def _predict(self, number: int, generator: np.random.Generator) -> Ask:
        chosen = self._choose(generator, 6)
        model = None if generator.random() < 0.1 else MODELS[generator.integers(len(MODELS))]
        top_k = int(generator.choice([1, 5, 20, 100]))
        form = len(chosen) > 1 or generator.random() < 0.5
        return self._of_predict(str(number), chosen, model, top_k=top_k, form=bool(form))

    def _of_predict(
        self, name: str, chosen: list[int], model: Model | None, *, top_k: int, form: bool
    ) -> Ask:
        query = f"top_k={top_k}" + (f"&variant={model[0]}&version={model[1]}" if model else "")
        model = model or (DEFAULT, NEWEST[DEFAULT])
        body, headers, names = self._upload(name, chosen, form)

        def check(_: Headers, answered: bytes) -> str:
            answer = json.loads(answered)
            if (answer["variant"], answer["version"]) != model:
                return f"{model} was asked, and {answer['variant']} {answer['version']} answered"
            if [image["name"] for image in answer["images"]] != names:
                return "the names are another request's, or in another order"
            rows = self._rows[model][chosen]
            return _first(
                _wrong_top(image["top"], row, top_k)
                for image, row in zip(answer["images"], rows, strict=True)
            )

        computed = Counter({model: len(chosen)})
        return Ask(
            f"/predict?{query}", headers, body, ("/predict", model[0]), check, computed=computed
        )

    def _compare(self, number: int, generator: np.random.Generator) -> Ask:
        chosen = self._choose(generator, 4)
        form = len(chosen) > 1 or generator.random() < 0.5
        body, headers, names = self._upload(str(number), chosen, bool(form))

        def check(_: Headers, answered: bytes) -> str:
            images = json.loads(answered)["images"]
            if [image["name"] for image in images] != names:
                return "the names are another request's, or in another order"
            if any(set(image["variants"]) != set(NEWEST) for image in images):
                return "not every variant has answered"
            return _first(
                _wrong_top(image["variants"][variant], self._rows[variant, version][picture], 5)
                for image, picture in zip(images, chosen, strict=True)
                for variant, version in NEWEST.items()
            )

        computed = Counter(dict.fromkeys(NEWEST.items(), len(chosen)))
        return Ask("/compare", headers, body, ("/compare", ""), check, computed=computed)

    def _infer(self, number: int, generator: np.random.Generator) -> Ask:
        variant, version = model = MODELS[generator.integers(len(MODELS))]
        named = version != NEWEST[variant] or bool(generator.random() < 0.5)
        sent, received = generator.random(2) < 0.7
        chosen = self._choose(generator, 16 if sent else 3)
        images = np.stack([self._pictures[each].pixels for each in chosen])
        tensor = {"name": "images", "datatype": "UINT8", "shape": images.shape}
        if sent:
            tensor["parameters"] = {"binary_data_size": images.nbytes}
        else:
            tensor["data"] = images.ravel().tolist()
        wish = {"id": str(number), "inputs": [tensor], "parameters": {}}
        if received:
            wish["parameters"] = {"binary_data_output": True}
        body, headers = json.dumps(wish).encode(), {}
        if sent:
            headers["Inference-Header-Content-Length"] = str(len(body))
            body += images.tobytes()
        rows = self._rows[model][chosen]

        def check(head: Headers, answered: bytes) -> str:
            end = int(head["inference-header-content-length"]) if received else len(answered)
            answer = json.loads(answered[:end])
            told = answer["id"], answer["model_name"], answer["model_version"]
            if told != (str(number), variant, str(version)):
                return f"request {number} to {model} is answered as {told}"
            data = (
                np.frombuffer(answered[end:], "<f4") if received else answer["outputs"][0]["data"]
            )
            return _wrong_numbers(np.reshape(data, rows.shape), rows)

        path = f"/v2/models/{variant}" + (f"/versions/{version}" if named else "") + "/infer"
        route = "/v2/models/<name>" + ("/versions/<version>" if named else "") + "/infer"
        computed = Counter({model: len(chosen)})
        return Ask(path, headers, body, (route, variant), check, computed=computed)

    def _refused(self, number: int, generator: np.random.Generator) -> Ask:
        body, headers, _ = self._upload(str(number), self._choose(generator, 2)[:1], form=False)
        path, body, status, variant = (
            ("/predict?variant=tanh_with_bn", body, 404, ""),
            ("/predict?version=9", body, 404, ""),
            ("/predict?variant=relu_with_bn", body[: len(body) // 2], 422, "relu_with_bn"),
            ("/predict", b"no picture", 415, DEFAULT),
            ("/predict", b"", 400, DEFAULT),
        )[generator.integers(5)]

        def check(_: Headers, answered: bytes) -> str:
            told = json.loads(answered)["status"]
            return "" if told == status else f"the problem says {told}"

        return Ask(path, headers, body, ("/predict", variant), check, status=status)

    def _upload(
        self, name: str, chosen: list[int], form: bool
    ) -> tuple[bytes, dict[str, str], list[str | None]]:
        """The body, its headers, and the names that the answer must bear."""
        pictures = [self._pictures[each] for each in chosen]
        if not form:
            return pictures[0].data, {"Content-Type": pictures[0].kind}, [None]
        boundary, names = f"boundary-{name}", [f"{name}-{place}" for place in range(len(chosen))]
        body = b"".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{each}"\r\n'
            f"Content-Type: {picture.kind}\r\n\r\n".encode()
            + picture.data
            + b"\r\n"
            for each, picture in zip(names, pictures, strict=True)
        )
        body += f"--{boundary}--\r\n".encode()
        return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}, [*names]


def _first(faults: Iterable[str]) -> str:
    return next(filter(None, faults), "")


def _wrong_top(top: list[dict[str, object]], row: np.ndarray, k: int) -> str:
    """What is wrong with the ``k`` likeliest classes of ``row``."""
    indices = [guess["index"] for guess in top]
    if len(set(indices)) != len(top) or len(top) != k:
        return f"{len(top)} classes instead of {k}, or one twice"
    if [guess["label"] for guess in top] != [CLASSES[index] for index in indices]:
        return "a label that is not its index's"
    told = np.array([guess["probability"] for guess in top])
    # By their values and not by their places: classes that are equally likely may change them.
    return _wrong_numbers(told, row[indices]) or _wrong_numbers(told, np.sort(row)[::-1][:k])


def _wrong_numbers(told: np.ndarray, expected: np.ndarray) -> str:
    error = np.abs(told - expected).max()
    return "" if error <= TOLERANCE else f"a probability is {error:.2g} from the serial one"
