"""A model is served only if it is the file that was exported, and does what its card says."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from service.models.model import Model, batch_sizes
from service.models.repository import ModelError, UnknownModelError, load_model, load_repository
from service.models.runtime import CUDA, GpuError, RuntimeOptions, create_session, why_no_gpu
from tests.service.tiny import VARIANTS, make_card, make_model, oracle, write_repository

CARD = make_card("relu_with_bn").to_json()
ONE_THREAD = RuntimeOptions(threads=1)


@pytest.fixture
def copy(models_dir: Path, tmp_path: Path) -> Path:
    """A repository to break."""
    return shutil.copytree(models_dir, tmp_path / "exported_models")


def edit_manifest(folder: Path, change: Callable[[Any], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_every_model_computes_its_own_formula(models_dir: Path, pixels: np.ndarray) -> None:
    repository = load_repository(models_dir, ONE_THREAD)
    for variant in VARIANTS:
        answer = repository.get(variant, 1).run(pixels)
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, oracle(variant, pixels), atol=1e-6)
    newest = repository.get("relu_with_bn").run(pixels)
    np.testing.assert_allclose(newest, oracle("newer", pixels), atol=1e-6)


def test_default_and_newest_are_chosen_and_unknown_ones_list_what_there_is(
    models_dir: Path,
) -> None:
    repository = load_repository(models_dir, ONE_THREAD)
    assert (repository.get().variant, repository.get().version) == ("sigmoid_without_bn", 1)
    assert repository.get("relu_with_bn").version == 2
    with pytest.raises(UnknownModelError, match="there are relu_with_bn, sigmoid_without_bn"):
        repository.get("tanh")
    with pytest.raises(UnknownModelError, match="no version 3 of relu_with_bn: there are 1, 2"):
        repository.get("relu_with_bn", 3)


def test_the_manifest_says_which_version_answers(copy: Path) -> None:
    edit_manifest(copy, lambda manifest: manifest.update(current={"relu_with_bn": 1}))
    repository = load_repository(copy, ONE_THREAD)
    assert repository.get("relu_with_bn").version == 1
    assert repository.get("relu_with_bn", 2).version == 2
    assert {model.version for model in repository.each().values()} == {1}
    assert repository.get("sigmoid_without_bn").version == 1


@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 32, 32, 4), (1, 16, 16, 3)])
def test_images_of_another_shape_are_refused(models_dir: Path, shape: tuple[int, ...]) -> None:
    model = load_repository(models_dir, ONE_THREAD).get()
    with pytest.raises(ValueError, match="not uint8"):
        model.run(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="not uint8"):
        model.run(np.zeros((1, 32, 32, 3), np.float32))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"card": None}, "has no model card"),
        ({"card": "{}"}, "model card: schema_version, variant, activation"),
        ({"card": CARD.replace(": 1,", ": 9,", 1)}, "schema_version is 9, but this software"),
        ({"classes": 10}, "its output is probabilities tensor(float) ['batch', 10]"),
        ({"input_name": "pixels_in"}, "its input is pixels_in tensor(uint8)"),
        ({"input_type": onnx.TensorProto.FLOAT}, "its input is images tensor(float)"),
        ({"batch": 1}, "its input is images tensor(uint8) [1, 32, 32, 3]"),
        ({"batch_statistics": True}, "as in a graph exported in training mode"),
    ],
)
def test_a_wrong_model_is_named(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(make_model("relu_with_bn", **{"card": CARD, **wrong}))
    with pytest.raises(ModelError) as caught:
        load_model(path, sha256=None, options=ONE_THREAD)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith(
        '; export it again ("make export"), or take a whole copy of the folder'
    )


def test_weights_in_another_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(make_model("relu_with_bn", CARD))
    onnx.save(model, "model.onnx", save_as_external_data=True, location="w", size_threshold=1000)
    with pytest.raises(ModelError, match="External data"):
        load_model(Path("model.onnx"), sha256=None, options=ONE_THREAD)


def change_one_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_one_byte, "manifest.json says"),
        (lambda path: path.write_bytes(b""), "manifest.json says"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "manifest.json says"),
        (lambda path: path.unlink(), "there is no such file"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read: Is a directory"),
    ],
)
def test_a_damaged_file_is_named(copy: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(copy / "relu_with_bn/1/model.onnx")
    with pytest.raises(ModelError) as caught:
        load_repository(copy, ONE_THREAD)
    assert str(caught.value).startswith(f"{copy}/relu_with_bn/1/model.onnx: ")
    assert message in str(caught.value)


def test_an_empty_and_a_corrupt_file_are_named_without_a_hash_to_tell(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for data, message in ((b"", "the file is empty"), (b"no model", "ONNX Runtime cannot load it")):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=message):
            load_model(path, sha256=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("default"), "default is missing"),
        (lambda m: m.update(default="tanh"), "default is 'tanh', which is not among the models"),
        (lambda m: m.update(schema_version=2), "schema_version is 2, but this software reads 1"),
        (lambda m: m.update(models=[]), "models is empty"),
        (lambda m: m["models"][0].pop("sha256"), "models[0].sha256 is missing"),
        (lambda m: m["models"][0].update(sha256="0"), "sha256 is '0', not 64 hexadecimal digits"),
        (lambda m: m["models"][0].update(version="1"), 'models[0].version is "1"'),
        (lambda m: m["models"][0].update(version=0), "versions count from 1"),
        (lambda m: m["models"][0].update(file="../model.onnx"), "which leaves the folder"),
        (lambda m: m["models"][0].update(file="a/../../model.onnx"), "which leaves the folder"),
        (lambda m: m["models"][0].update(file="/etc/hostname"), "which leaves the folder"),
        (lambda m: m["models"][0].update(file=""), "which leaves the folder"),
        (lambda m: m["models"][0].update(file="a\0b"), "which leaves the folder"),
        (lambda m: m["models"][0].update(variant="a/b"), "use letters, digits"),
        (lambda m: m["models"].append(m["models"][0]), "variant and version is listed twice"),
        (
            lambda m: m["models"][0].update(file=m["models"][1]["file"]),
            "file is listed twice",
        ),
        (lambda m: m.update(current={"tanh": 1}), "current is version 1 of 'tanh', which is not"),
        (lambda m: m.update(current={"relu_with_bn": 3}), "current is version 3 of 'relu_with_bn'"),
        (lambda m: m.update(current={"relu_with_bn": "1"}), 'current.relu_with_bn is "1", not a'),
        (lambda m: m.update(current=1), "current is 1, not an object"),
    ],
)
def test_a_broken_manifest_is_named(
    copy: Path, change: Callable[[Any], object], message: str
) -> None:
    edit_manifest(copy, change)
    with pytest.raises(ModelError) as caught:
        load_repository(copy, ONE_THREAD)
    assert str(caught.value).startswith(f"{copy}/manifest.json: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_manifest_that_is_no_json_object_is_named(copy: Path, data: bytes) -> None:
    (copy / "manifest.json").write_bytes(data)
    with pytest.raises(ModelError, match=f"^{re.escape(str(copy))}/manifest.json: "):
        load_repository(copy, ONE_THREAD)


@pytest.mark.parametrize(
    ("field", "value"),
    [("variant", "relu_without_bn"), ("recipe", "article"), ("dataset", "cifar100"), ("bytes", 1)],
)
def test_a_manifest_that_contradicts_the_card_is_named(
    copy: Path, field: str, value: object
) -> None:
    edit_manifest(copy, lambda manifest: manifest["models"][0].update({field: value}))
    with pytest.raises(ModelError, match=f"{field} is .*, manifest.json says {value}"):
        load_repository(copy, ONE_THREAD)


def test_a_link_out_of_the_folder_is_not_followed(copy: Path, tmp_path: Path) -> None:
    path = copy / "relu_with_bn/1/model.onnx"
    path.rename(tmp_path / "elsewhere.onnx")
    path.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ModelError, match="is a link that leaves the folder"):
        load_repository(copy, ONE_THREAD)


def test_links_that_go_in_circles_are_named(copy: Path, tmp_path: Path) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    with pytest.raises(ModelError, match=r"circle/manifest\.json: .*symbolic links"):
        load_repository(circle, ONE_THREAD)
    path = copy / "relu_with_bn/1/model.onnx"
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(ModelError, match=r"relu_with_bn/1/model\.onnx: .*symbolic links"):
        load_repository(copy, ONE_THREAD)


@pytest.mark.parametrize("folder", ["exported_models", "/srv/nowhere/models"])
def test_no_repository_at_all_names_the_folder_as_configured_and_how_to_get_one(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_repository(Path(folder))
    words = str(caught.value)
    assert words.startswith(f"{folder}/manifest.json: there is no such file; set MODELS_DIR to")
    assert caught.value.told.startswith(f"{Path(folder).name}/manifest.json: there is no such file")
    assert all(way in words for way in ('"make export" writes one in a clone', "a container"))


@pytest.mark.parametrize("file", ["manifest.json", "relu_with_bn/1/model.onnx"])
@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")],  # not for root
    ids=["denied", "broken"],
)
def test_a_file_that_cannot_be_read_is_named_with_the_way_out(
    copy: Path, file: str, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == copy / file:
            raise error
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ModelError) as caught:
        load_repository(copy, ONE_THREAD)
    words = str(caught.value)
    assert words.startswith(f"{copy}/{file}: cannot be read: {error.strerror}; let the user")
    assert "set MODELS_DIR to a folder whose manifest.json and models it may read" in words
    assert caught.value.told.startswith(f"exported_models/{file}: ")


def test_a_model_is_told_by_its_folders_name_and_not_by_where_it_lies(copy: Path) -> None:
    assert load_repository(copy, ONE_THREAD).get("relu_with_bn", 1).file == (
        "exported_models/relu_with_bn/1/model.onnx"
    )


def test_loading_is_silent_and_tells_nobody(
    models_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    load_repository(models_dir, ONE_THREAD)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(why_no_gpu() is None, reason="a GPU works here")
def test_a_required_gpu_that_is_missing_is_an_error_with_its_cause(models_dir: Path) -> None:
    with pytest.raises(GpuError, match=r"REQUIRE_GPU=1, but no GPU works: .+"):
        load_repository(models_dir, RuntimeOptions(require_gpu=True))


@pytest.mark.skipif(why_no_gpu() is not None, reason=f"no GPU: {why_no_gpu()}")
def test_the_gpu_answers_as_the_formula_does(models_dir: Path, pixels: np.ndarray) -> None:
    model = load_repository(models_dir, RuntimeOptions(require_gpu=True)).get()
    assert model.provider == "CUDAExecutionProvider"
    np.testing.assert_allclose(model.run(pixels), oracle(model.variant, pixels), atol=1e-5)


class Recording:
    """A session that keeps the sizes of the batches it is given."""

    def __init__(self, session: Any) -> None:
        self.session, self.sizes = session, list[int]()

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> Any:
        self.sizes.append(len(inputs["images"]))
        return self.session.run(outputs, inputs)

    def get_providers(self) -> Any:
        return self.session.get_providers()


class Short(Recording):
    """A session on a GPU that has no memory for large batches."""

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> Any:
        if len(inputs["images"]) > 8:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 268435456")
        return super().run(outputs, inputs)

    def get_providers(self) -> Any:
        return [CUDA, "CPUExecutionProvider"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


def test_a_gpu_that_has_too_little_memory_is_no_fault_of_the_file(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(data: bytes, options: RuntimeOptions) -> Any:
        return Short(create_session(data, options))

    monkeypatch.setattr("service.models.repository.create_session", short)
    with pytest.raises(ModelError, match=r"does not run on the GPU \(Failed .*GPU_MEMORY") as told:
        load_repository(models_dir, ONE_THREAD)
    assert "export" not in str(told.value).partition("model.onnx")[2]


def test_sessions_of_one_size_get_batches_of_that_size_alone(
    models_dir: Path, pixels: np.ndarray
) -> None:
    """As on a GPU, where a session that meets another size plans all over again."""
    data = (models_dir / "relu_with_bn/1/model.onnx").read_bytes()
    known = load_repository(models_dir, ONE_THREAD).get("relu_with_bn")
    sized = {size: Recording(create_session(data, ONE_THREAD)) for size in batch_sizes(12)}
    model = Model(
        sized[1], sized, card=known.card, file="m", version=1, sha256=known.sha256, size=len(data)
    )
    many = np.concatenate([pixels] * 4)
    for count in (1, 2, 8, 9, 12, 13, 32):
        images = many[:count]
        np.testing.assert_allclose(model.run(images), oracle("relu_with_bn", images), atol=1e-5)
    runs = {size: session.sizes for size, session in sized.items()}
    assert runs == {1: [1] * 2, 8: [8] * 3, 12: [12] * 5}


@pytest.mark.parametrize(("most", "sizes"), [(1, (1,)), (6, (1, 6)), (8, (1, 8)), (64, (1, 8, 64))])
def test_batches_are_padded_to_a_few_sizes(most: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(most) == sizes


def test_a_repository_can_be_moved(models_dir: Path, tmp_path: Path) -> None:
    data = (models_dir / "relu_with_bn/1/model.onnx").read_bytes()
    folder = write_repository(tmp_path / "other", {("relu_with_bn", 1): data}, "relu_with_bn")
    assert load_repository(folder, ONE_THREAD).get().file == "other/relu_with_bn/1/model.onnx"
