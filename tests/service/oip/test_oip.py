"""The Open Inference Protocol as its clients see it: ``tritonclient`` against the real server."""

from __future__ import annotations

import asyncio
import gzip
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

import service
from tests.service.test_server import DEADLINE, Running, started, wait_until_alive
from tests.service.tiny import VARIANTS, encode, make_card, oracle

MODEL, VERSION = "relu_with_bn", "1"
CLASSES = make_card(MODEL).classes


@pytest.fixture(scope="module")
def server(models_dir: Path) -> Iterator[Running]:
    with started(models_dir, DEADLINE_SECONDS="60") as running:
        wait_until_alive(running)
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4) as client:
        yield client


def tensor(
    images: np.ndarray, *, binary: bool = True, name: str = "images", datatype: str = "UINT8"
) -> list[triton.InferInput]:
    made = triton.InferInput(name, list(images.shape), datatype)
    return [made.set_data_from_numpy(images, binary_data=binary)]


def wanted(*, binary: bool, classes: int = 0) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=classes)]


def test_the_server_says_who_it_is_and_that_it_is_ready(
    client: triton.InferenceServerClient,
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata() == {
        "name": "batchnorm-service",
        "version": service.__version__,
        "extensions": ["binary_tensor_data", "classification", "model_configuration"],
    }


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((Path(service.__file__).parents[1] / "pyproject.toml").read_text())
    assert project["project"]["version"] == service.__version__


def test_a_models_metadata_name_its_versions_and_tensors(
    client: triton.InferenceServerClient,
) -> None:
    expected = {
        "name": MODEL,
        "versions": ["1", "2"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 100]}],
    }
    assert client.get_model_metadata(MODEL) == expected
    assert client.get_model_metadata(MODEL, "2") == expected
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "2")
    assert not client.is_model_ready(MODEL, "3")
    assert not client.is_model_ready("resnet50")
    assert client.get_model_config(MODEL)["max_batch_size"] == 64
    assert [(m["name"], m["version"], m["state"]) for m in client.get_model_repository_index()] == [
        (MODEL, "1", "READY"),
        (MODEL, "2", "READY"),
        ("sigmoid_without_bn", "1", "READY"),
    ]


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("received", [False, True])
def test_json_and_binary_tensors_give_the_formulas_numbers(
    client: triton.InferenceServerClient, pixels: np.ndarray, sent: bool, received: bool
) -> None:
    for variant in VARIANTS:
        result = client.infer(
            variant,
            tensor(pixels, binary=sent),
            model_version=VERSION,
            outputs=wanted(binary=received),
            request_id="42",
        )
        rows = result.as_numpy("probabilities")
        assert (rows.dtype, rows.shape) == (np.float32, (8, 100))
        assert np.abs(rows - oracle(variant, pixels)).max() <= 1e-6
        answer = result.get_response()
        assert (answer["id"], answer["model_name"], answer["model_version"]) == (
            "42",
            variant,
            VERSION,
        )


def test_the_numbers_are_those_of_predict(
    server: Running, client: triton.InferenceServerClient, pixels: np.ndarray
) -> None:
    rows = client.infer(MODEL, tensor(pixels)).as_numpy("probabilities")
    files = [("image", (f"{i}.png", encode(image))) for i, image in enumerate(pixels)]
    answer = requests.post(
        f"{server.url}/predict?variant={MODEL}&top_k=100", files=files, timeout=DEADLINE
    ).json()
    assert answer["version"] == 2
    for row, image in zip(rows, answer["images"], strict=True):
        for guess in image["top"]:
            assert row[guess["index"]] == pytest.approx(guess["probability"], abs=1e-6)


@pytest.mark.parametrize("binary", [False, True])
def test_thirty_two_pictures_come_back_in_their_order(
    client: triton.InferenceServerClient, binary: bool
) -> None:
    images = np.random.default_rng(3).integers(0, 256, (32, 32, 32, 3), dtype=np.uint8)
    result = client.infer(MODEL, tensor(images, binary=binary), model_version=VERSION)
    assert np.abs(result.as_numpy("probabilities") - oracle(MODEL, images)).max() <= 1e-6


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("count", [1, 3, 100, 1000])
def test_classification_names_the_likeliest_classes(
    client: triton.InferenceServerClient, pixels: np.ndarray, binary: bool, count: int
) -> None:
    outputs = wanted(binary=binary, classes=count)
    result = client.infer(MODEL, tensor(pixels), model_version=VERSION, outputs=outputs)
    assert result.get_output("probabilities")["datatype"] == "BYTES"
    names = result.as_numpy("probabilities")
    assert names.shape == (8, min(count, 100))
    expected = oracle(MODEL, pixels)
    for row, probabilities in zip(names, expected, strict=True):
        texts = [each.decode() if binary else each for each in row]
        found = [text.split(":", 2) for text in texts]
        assert [int(index) for _, index, _ in found] == list(np.argsort(-probabilities)[:count])
        for value, index, label in found:
            assert float(value) == pytest.approx(probabilities[int(index)], abs=1e-6)
            assert label == CLASSES[int(index)]


def test_asynchronous_requests_each_get_their_own_answer(
    client: triton.InferenceServerClient, pixels: np.ndarray
) -> None:
    calls = [
        client.async_infer(MODEL, tensor(pixels[i : i + 1]), model_version=VERSION)
        for i in range(8)
    ]
    rows = np.concatenate([call.get_result().as_numpy("probabilities") for call in calls])
    assert np.abs(rows - oracle(MODEL, pixels)).max() <= 1e-6


def test_the_asyncio_client_is_served_too(server: Running, pixels: np.ndarray) -> None:
    async def ask() -> list[np.ndarray]:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata(MODEL))["versions"] == ["1", "2"]
            calls = (
                client.infer(MODEL, tensor(pixels[i : i + 1]), model_version=VERSION)
                for i in range(8)
            )
            return [each.as_numpy("probabilities") for each in await asyncio.gather(*calls)]

    rows = np.concatenate(asyncio.run(ask()))
    assert np.abs(rows - oracle(MODEL, pixels)).max() <= 1e-6


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_answered(
    client: triton.InferenceServerClient, pixels: np.ndarray, algorithm: str, binary: bool
) -> None:
    result = client.infer(
        MODEL,
        tensor(pixels, binary=binary),
        model_version=VERSION,
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert np.abs(result.as_numpy("probabilities") - oracle(MODEL, pixels)).max() <= 1e-6


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"images": np.zeros((1, 16, 16, 3), np.uint8)}, "shape is [1, 16, 16, 3]"),
        ({"images": np.zeros((32, 32, 3), np.uint8)}, "shape is [32, 32, 3]"),
        ({"images": np.zeros((0, 32, 32, 3), np.uint8)}, "at least one picture"),
        ({"images": np.zeros((1, 32, 32, 3), np.float32), "datatype": "FP32"}, 'is "FP32"'),
        ({"images": np.zeros((1, 32, 32, 3), np.int8), "datatype": "INT8"}, 'is "INT8"'),
        ({"images": np.zeros((1, 32, 32, 3), np.uint8), "name": "image"}, 'input "image"'),
    ],
)
def test_a_wrong_tensor_is_refused_by_what_is_wrong(
    client: triton.InferenceServerClient, inputs: dict[str, object], words: str, binary: bool
) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer(MODEL, tensor(**inputs, binary=binary))
    assert refused.value.status() == "400"
    assert words in refused.value.message()


def test_unknown_models_versions_and_outputs_are_refused(
    client: triton.InferenceServerClient, pixels: np.ndarray
) -> None:
    for model, version, words in (
        ("resnet50", "", "there are relu_with_bn, sigmoid_without_bn"),
        (MODEL, "3", "no version 3 of relu_with_bn: there are 1, 2"),
        (MODEL, "first", "no version 'first' of relu_with_bn: there are 1, 2"),
    ):
        with pytest.raises(InferenceServerException, match=words) as refused:
            client.infer(model, tensor(pixels), model_version=version)
        assert refused.value.status() == "404"
        with pytest.raises(InferenceServerException, match=words):
            client.get_model_metadata(model, version)
        with pytest.raises(InferenceServerException, match=words):
            client.get_model_config(model, version)
    outputs = [triton.InferRequestedOutput("logits")]
    with pytest.raises(InferenceServerException, match='unknown output "logits"') as refused:
        client.infer(MODEL, tensor(pixels), outputs=outputs)
    assert refused.value.status() == "400"


def test_what_this_server_does_not_do_is_refused_in_the_protocols_words(
    client: triton.InferenceServerClient, pixels: np.ndarray
) -> None:
    with pytest.raises(InferenceServerException, match="no such route"):
        client.load_model(MODEL)
    shared = triton.InferInput("images", [1, 32, 32, 3], "UINT8")
    shared.set_shared_memory("region", 3072)
    with pytest.raises(InferenceServerException, match="no shared memory"):
        client.infer(MODEL, [shared])


def test_too_many_pictures_are_refused_with_the_limit(
    client: triton.InferenceServerClient,
) -> None:
    images = np.zeros((65, 32, 32, 3), np.uint8)
    with pytest.raises(InferenceServerException, match="65 pictures are more than the 64") as no:
        client.infer(MODEL, tensor(images))
    assert no.value.status() == "413"


def test_wrong_lengths_of_the_parts_of_a_binary_body_are_refused(
    server: Running, pixels: np.ndarray
) -> None:
    body, length = triton.InferenceServerClient.generate_request_body(tensor(pixels))
    assert length is not None
    path = f"{server.url}/v2/models/{MODEL}/versions/{VERSION}/infer"

    def post(data: bytes, header: str | None) -> requests.Response:
        headers = {} if header is None else {"Inference-Header-Content-Length": header}
        return requests.post(path, data=data, headers=headers, timeout=DEADLINE)

    good = post(body, str(length))
    assert good.headers["Content-Type"] == "application/octet-stream"
    assert int(good.headers["Content-Length"]) == len(good.content)
    result = triton.InferenceServerClient.parse_response_body(
        good.content, header_length=int(good.headers["Inference-Header-Content-Length"])
    )
    assert np.abs(result.as_numpy("probabilities") - oracle(MODEL, pixels)).max() <= 1e-6
    for data, header in (
        (body[:-1], str(length)),
        (body + b"\0", str(length)),
        (body[:length], str(length)),
        (body, str(length - 1)),
        (body, str(length + 1)),
        (body, str(len(body))),
        (body, str(len(body) + 1)),
        (body, "9" * 30),
        (body, "0"),
        (body, "-1"),
        (body, "many"),
        (body, f"{length}, {length}"),
        (body, None),
    ):
        response = post(data, header)
        assert response.status_code == 400, (header, response.text)
        assert list(response.json()) == ["error"]


def test_a_compressed_body_keeps_to_the_bodys_ceiling(server: Running) -> None:
    path = f"{server.url}/v2/models/{MODEL}/infer"
    bomb = gzip.compress(bytes(50 << 20))
    assert len(bomb) < 1 << 20
    headers = {"Content-Encoding": "gzip"}
    response = requests.post(path, data=bomb, headers=headers, timeout=DEADLINE)
    assert response.status_code == 413
    assert "1,048,576 bytes allowed, once it is inflated" in response.json()["error"]
