"""Triton's own schema reads what the exporter writes for it, and the service says the same."""

from __future__ import annotations

import pytest
from flask import Flask
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from service.app import create_app
from service.settings import Settings
from tests.service.tiny import VARIANTS
from training.triton import triton_config


@pytest.fixture(scope="module")
def app(settings: Settings) -> Flask:
    return create_app(settings)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_config_names_the_tensors_of_the_services_metadata(app: Flask, variant: str) -> None:
    config = text_format.Parse(triton_config(variant), model_config_pb2.ModelConfig())
    metadata = app.test_client().get(f"/v2/models/{variant}").json
    assert (config.name, config.platform) == (metadata["name"], metadata["platform"])
    assert config.max_batch_size >= 32
    for tensors, told in (
        (config.input, metadata["inputs"]),
        (config.output, metadata["outputs"]),
    ):
        assert [
            {
                "name": each.name,
                "datatype": model_config_pb2.DataType.Name(each.data_type).removeprefix("TYPE_"),
                "shape": [-1, *each.dims],
            }
            for each in tensors
        ] == told


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_services_config_is_the_exporters(app: Flask, variant: str) -> None:
    answer = app.test_client().get(f"/v2/models/{variant}/config").json
    told = json_format.ParseDict(answer, model_config_pb2.ModelConfig())
    assert told == text_format.Parse(triton_config(variant), model_config_pb2.ModelConfig())
