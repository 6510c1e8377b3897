"""Requests whose counts are known, and what the metrics must say of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.service.exposition import Samples, requests_by, total
from tests.service.hostile import PHOTO
from tests.service.test_api import multipart
from tests.service.tiny import encode

PNG = encode(PHOTO)


def send_mixed(post: Any, get: Any) -> Counter[tuple[str, ...]]:
    """Good and bad requests, and how they must be counted."""
    expected: Counter[tuple[str, ...]] = Counter()
    pair = multipart([("image", PNG, "a.png"), ("image", PNG, "b.png")])
    for send, url, body, key, times in (
        (post, "/predict", {"data": PNG}, ("/predict", "sigmoid_without_bn", "200"), 7),
        (post, "/predict?variant=relu_with_bn", pair, ("/predict", "relu_with_bn", "200"), 3),
        (post, "/predict?variant=tanh", {"data": PNG}, ("/predict", "", "404"), 2),
        (post, "/predict", {"data": b"no picture"}, ("/predict", "sigmoid_without_bn", "415"), 4),
        (post, "/compare", {"data": PNG}, ("/compare", "", "200"), 2),
        (get, "/models", {}, ("/models", "", "200"), 1),
        (get, "/models/relu_with_bn", {}, ("/models/<variant>", "", "200"), 2),
        (get, "/models/no-such-model", {}, ("/models/<variant>", "", "404"), 2),
        (get, "/nowhere/at/all", {}, ("none", "", "404"), 3),
        (get, "/predict", {}, ("none", "", "405"), 1),
        (get, "/health/ready", {}, ("/health/ready", "", "200"), 2),
    ):
        for _ in range(times):
            response = send(url, **body)
            assert response.status_code == int(key[2]), url
        expected[key] += times
    return expected


def assert_adds_up(found: Samples, expected: Counter[tuple[str, ...]], rounds: int = 1) -> None:
    """``rounds`` is how often ``send_mixed`` was called."""
    assert requests_by(found) == expected
    assert requests_by(found, "batchnorm_request_seconds_count") == expected
    # 7 single pictures, 3 pairs and 2 comparisons of two variants.
    assert total(found, "batchnorm_images_total") == 17 * rounds
    runs = total(found, "batchnorm_executions_total")
    assert total(found, "batchnorm_batch_images_sum") == 17 * rounds
    assert total(found, "batchnorm_batch_images_count") == runs
    assert total(found, "batchnorm_run_seconds_count") == runs
    assert 0 < runs <= total(found, "batchnorm_queue_seconds_count") <= 17 * rounds
    newest = {"variant": "relu_with_bn", "version": "2"}
    assert total(found, "batchnorm_images_total", **newest) == 8 * rounds
    assert total(found, "batchnorm_decode_seconds_count") == 12 * rounds
    assert total(found, "batchnorm_queue_images") == 0
    assert total(found, "batchnorm_decoding_images") == 0
