"""deploy/, held against the platforms' schemas and against the code, so that they cannot drift."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.knative_serving.serving.v1 import Service as KnativeService
from flask import Flask

from service.server import GRACE_SECONDS
from service.settings import SETTINGS, Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
GUIDE = (DEPLOY / "README.md").read_text()
JOB = (DEPLOY / "train_and_export.sh").read_text()
KUBERNETES = "1.34"
KNATIVE_DRAINS_SECONDS = 30
"""So long its proxy keeps SIGTERM from a container, by a preStop hook: drainSleepDuration in
pkg/queue/sharedmain/main.go of knative/serving, where no request comes any more."""

Manifest = dict[str, Any]


def manifests(*files: Path) -> list[Manifest]:
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def named(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


OF_KUBERNETES = manifests(*sorted(DEPLOY.glob("kubernetes/*.yaml")))
OF_KNATIVE = manifests(*sorted(DEPLOY.glob("knative/*.yaml")))
ALL = [*OF_KUBERNETES, *OF_KNATIVE]


def pods(manifest: Manifest) -> Iterator[Manifest]:
    if "template" in manifest.get("spec", {}):
        yield manifest["spec"]["template"]["spec"]


PODS = [(named(manifest), pod) for manifest in ALL for pod in pods(manifest)]
SERVING = [
    (name, pod) for name, pod in PODS if "service" in pod["containers"][0]["image"].split(":")[0]
]
every_pod = pytest.mark.parametrize("pod", [pod for _, pod in PODS], ids=[name for name, _ in PODS])
every_serving_pod = pytest.mark.parametrize(
    "pod", [pod for _, pod in SERVING], ids=[name for name, _ in SERVING]
)


def environment(pod: Manifest) -> dict[str, str]:
    return {each["name"]: each["value"] for each in pod["containers"][0].get("env", ())}


def settings(pod: Manifest) -> Settings:
    return Settings.from_environment(environment(pod))


@pytest.mark.parametrize("manifest", OF_KUBERNETES, ids=named)
def test_a_kubernetes_manifest_is_what_the_schema_asks_for(manifest: Manifest) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_a_mistake_in_a_kubernetes_manifest_would_be_seen() -> None:
    (deployment,) = (m for m in OF_KUBERNETES if named(m) == "Deployment batchnorm")
    container = {**deployment["spec"]["template"]["spec"]["containers"][0], "readynessProbe": {}}
    broken = yaml.safe_load(yaml.safe_dump(deployment))
    broken["spec"]["template"]["spec"]["containers"] = [container]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


@pytest.mark.parametrize("manifest", OF_KNATIVE, ids=named)
def test_a_knative_manifest_is_what_the_schema_asks_for(manifest: Manifest) -> None:
    assert known_to_knative(manifest) == manifest


def test_a_mistake_in_a_knative_manifest_would_be_seen() -> None:
    broken = yaml.safe_load(yaml.safe_dump(OF_KNATIVE[0]))
    broken["spec"]["template"]["spec"]["containerConcurency"] = 1
    assert known_to_knative(broken) != broken


def known_to_knative(manifest: Manifest) -> Manifest:
    """What of ``manifest`` the schema knows: the model leaves out what it does not know."""
    model = KnativeService.model_validate(manifest)
    known: Manifest = model.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return known


def test_every_kind_that_is_promised_is_there() -> None:
    kinds = {named(manifest) for manifest in ALL}
    assert kinds >= {
        "Deployment batchnorm",
        "Deployment batchnorm-gpu",
        "HorizontalPodAutoscaler batchnorm",
        "Job batchnorm-training",
        "Service batchnorm",
    }
    assert OF_KNATIVE


@every_serving_pod
def test_a_pod_is_asked_on_the_port_and_routes_that_the_service_has(
    pod: Manifest, app: Flask
) -> None:
    (container,) = pod["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == settings(pod).port == image_port()
    client = app.test_client()
    routes = {"readinessProbe": "/health/ready", "livenessProbe": "/health/live"}
    if "startupProbe" in container:
        routes["startupProbe"] = "/health/ready"
    for probe, route in routes.items():
        asked = container[probe]["httpGet"]
        assert asked["path"] == route
        assert asked.get("port", port["name"]) == port["name"]
        assert client.get(asked["path"]).status_code == 200


@every_serving_pod
def test_a_pod_has_time_to_drain(pod: Manifest) -> None:
    """Longer than the server takes by itself, whatever its workers do."""
    if "timeoutSeconds" in pod:  # Knative's, which it has a pod's grace period be
        grace = pod["timeoutSeconds"] - KNATIVE_DRAINS_SECONDS
    else:
        grace = pod["terminationGracePeriodSeconds"]
    asked = settings(pod)
    assert grace > asked.drain_seconds + asked.deadline_seconds + GRACE_SECONDS


@every_serving_pod
def test_a_pods_environment_is_of_settings_with_values_that_are_allowed(pod: Manifest) -> None:
    assert set(environment(pod)) <= {setting.name for setting in SETTINGS}
    settings(pod)  # raises where one is not allowed


@every_pod
def test_a_pod_runs_without_rights_on_a_file_system_it_cannot_write(pod: Manifest) -> None:
    (container,) = pod["containers"]
    context = {**pod.get("securityContext", {}), **container["securityContext"]}
    assert context["runAsNonRoot"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"USER {context.get('runAsUser', 10001)}:{context.get('runAsGroup', 10001)}\n" in (
        DOCKERFILE
    )


@every_serving_pod
def test_a_pod_may_take_the_memory_of_the_largest_pictures(pod: Manifest) -> None:
    limits = pod["containers"][0]["resources"]["limits"]
    workers = 1 if "nvidia.com/gpu" in limits else int(cpus_of(limits["cpu"]))
    assert bytes_of(limits["memory"]) >= memory_needed(settings(pod), workers)


@every_pod
def test_every_image_is_one_that_the_dockerfile_makes(pod: Manifest) -> None:
    image = pod["containers"][0]["image"]
    assert image.removeprefix("batchnorm-").split(":")[0] in targets()


def test_the_gpu_deployment_differs_from_the_other_in_what_a_gpu_needs_alone() -> None:
    cpu, gpu = (
        next(m for m in OF_KUBERNETES if named(m) == f"Deployment {name}")["spec"]["template"][
            "spec"
        ]
        for name in ("batchnorm", "batchnorm-gpu")
    )
    differing = {key for key in cpu.keys() | gpu.keys() if cpu.get(key) != gpu.get(key)}
    assert differing == {"containers", "tolerations", "topologySpreadConstraints"}
    ours, theirs = cpu["containers"][0], gpu["containers"][0]
    assert {key for key in ours if ours[key] != theirs[key]} == {"image", "resources"}
    assert theirs["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_kubernetes_service_finds_the_pods_and_the_autoscaler_the_deployment() -> None:
    by_name = {named(manifest): manifest for manifest in OF_KUBERNETES}
    service = by_name["Service batchnorm"]["spec"]
    for name in ("Deployment batchnorm", "Deployment batchnorm-gpu"):
        deployment = by_name[name]["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        assert deployment["selector"]["matchLabels"] == labels
        for selector in (
            service["selector"],
            by_name["PodDisruptionBudget batchnorm"]["spec"]["selector"]["matchLabels"],
            by_name["NetworkPolicy batchnorm"]["spec"]["podSelector"]["matchLabels"],
        ):
            assert selector.items() <= labels.items()
        (port,) = deployment["template"]["spec"]["containers"][0]["ports"]
        assert service["ports"][0]["targetPort"] == port["name"]
        (let_in,) = by_name["NetworkPolicy batchnorm"]["spec"]["ingress"]
        assert [each["port"] for each in let_in["ports"]] == [port["name"]]
    scaled = by_name["HorizontalPodAutoscaler batchnorm"]["spec"]["scaleTargetRef"]
    assert named(by_name[f"{scaled['kind']} {scaled['name']}"]) == "Deployment batchnorm"


def test_knative_lets_no_more_in_than_may_wait() -> None:
    for manifest in OF_KNATIVE:
        template = manifest["spec"]["template"]
        (pod,) = pods(manifest)
        assert pod["containerConcurrency"] <= settings(pod).queue_images
        # Of the target Knative aims at a share, 70 % where none is named (the setting
        # container-concurrency-target-percentage of its config-autoscaler).
        annotations = template["metadata"]["annotations"]
        share = annotations.get("autoscaling.knative.dev/target-utilization-percentage", "70")
        target = int(annotations["autoscaling.knative.dev/target"]) * int(share) / 100
        assert target <= pod["containerConcurrency"]
        said = f"{target:g} requests at a time, and never more than {pod['containerConcurrency']}"
        assert said in GUIDE


def test_the_training_job_sets_what_its_script_reads_and_mounts_what_the_image_has() -> None:
    (job,) = (m for m in OF_KUBERNETES if named(m) == "Job batchnorm-training")
    (pod,) = pods(job)
    read = set(re.findall(r"\$\{([A-Z_]+):", JOB))
    assert {"RECIPE", "VARIANTS", "SEEDS"} <= set(environment(pod)) <= read
    mounts = {each["mountPath"]: each for each in pod["containers"][0]["volumeMounts"]}
    (volumes,) = re.findall(r"^VOLUME (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert set(yaml.safe_load(volumes)) <= set(mounts)
    assert {each["name"] for each in mounts.values()} == {each["name"] for each in pod["volumes"]}


def test_what_pods_of_several_nodes_share_may_be_mounted_by_many() -> None:
    """The claim that a manifest makes; one that must be there first is the guide's to describe."""
    by_name = {named(manifest): manifest for manifest in OF_KUBERNETES}
    job = by_name["Job batchnorm-trials"]["spec"]
    assert job["parallelism"] > 1
    volumes = {each["name"]: each for each in job["template"]["spec"]["volumes"]}
    made = volumes["output"]["persistentVolumeClaim"]["claimName"]
    modes = by_name[f"PersistentVolumeClaim {made}"]["spec"]["accessModes"]
    assert modes == ["ReadWriteMany"]
    there_first = volumes["data"]["persistentVolumeClaim"]
    assert f"PersistentVolumeClaim {there_first['claimName']}" not in by_name
    assert there_first["readOnly"]
    assert "`ReadOnlyMany` or `ReadWriteMany`" in GUIDE


def test_a_pod_that_trains_ends_when_it_is_told_to() -> None:
    """The image's own command sees to that; SIGTERM ends no other that is process 1."""
    for name, pod in PODS:
        if "training" in pod["containers"][0]["image"]:
            own = "command" not in pod["containers"][0]
            assert own or pod.get("shareProcessNamespace"), name


def test_lambda_asks_for_readiness_on_the_images_port_with_settings_that_exist() -> None:
    dockerfile = (DEPLOY / "lambda/Dockerfile").read_text()
    variables = dict(re.findall(r"\b([A-Z_]+)=(\S+)", dockerfile.split("ENV ")[1]))
    ours = {name: value for name, value in variables.items() if not name.startswith("AWS_LWA_")}
    assert set(ours) <= {setting.name for setting in SETTINGS}
    assert Settings.from_environment(ours).web_concurrency == 1
    # 6 MB are a request, in which a picture is base64: 4 characters for 3 bytes, and JSON around.
    assert Settings.from_environment(ours).max_body_bytes * 4 / 3 < 6 << 20
    assert int(variables["AWS_LWA_PORT"]) == image_port()
    assert variables["AWS_LWA_READINESS_CHECK_PATH"] == "/health/ready"
    (commands,) = re.findall(r"```sh\n(docker build[^`]*aws lambda .*?)```", GUIDE, re.DOTALL)
    for each in (commands, dockerfile):  # Lambda refuses an image with a provenance
        assert "docker build --provenance=false --platform linux/amd64 " in each
    options = dict(re.findall(r"--([a-z-]+)=(\S+)", commands))
    assert int(options["memory-size"]) << 20 >= memory_needed(Settings.from_environment(ours), 1)
    assert int(options["timeout"]) > Settings.from_environment(ours).deadline_seconds


def image_port() -> int:
    """The port in the image, which is the settings' default."""
    (port,) = re.findall(r"^ENV HOST=0\.0\.0\.0 PORT=(\d+)$", DOCKERFILE, re.MULTILINE)
    assert f"\nEXPOSE {port}\n" in DOCKERFILE
    assert port == next(setting.default for setting in SETTINGS if setting.name == "PORT")
    return int(port)


def targets() -> set[str]:
    """What ``make image`` can be asked for."""
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE))
    return (stages & {"service", "service-gpu", "training"}) | {"training-gpu"}


def bytes_of(quantity: str) -> int:
    units = {"Mi": 1 << 20, "Gi": 1 << 30}
    return int(quantity[:-2]) * units[quantity[-2:]]


def cpus_of(quantity: str) -> float:
    return int(quantity[:-1]) / 1000 if quantity.endswith("m") else int(quantity)


def memory_needed(asked: Settings, workers: int) -> float:
    """Bytes: 250 MB of models and interpreters, and in each worker 20 for each pixel of the largest
    picture and of one of 8 million pixels, the two that it decodes at a time (MAX_PIXELS)."""
    return 250e6 + workers * 20 * (asked.max_pixels + 8e6)


def test_cloud_run_asks_on_the_port_and_routes_of_the_image_and_lets_no_more_in_than_may_wait() -> (
    None
):
    ((command,),) = [re.findall(r"```sh\n(gcloud run deploy .*?)```", GUIDE, re.DOTALL)]
    options = dict(re.findall(r"--([a-z-]+)=(\S+)", command))
    assert int(options["port"]) == image_port()
    variables = dict(each.split("=", 1) for each in options["set-env-vars"].split(","))
    assert set(variables) <= {setting.name for setting in SETTINGS}
    asked = Settings.from_environment(variables)
    assert int(options["concurrency"]) <= asked.queue_images
    assert int(options["timeout"]) > asked.deadline_seconds
    # Ten seconds after SIGTERM it is killed: that cannot be set.
    assert asked.drain_seconds + asked.deadline_seconds + 1 < 10
    # The service counts CPUs once, as it starts, and then --cpu-boost lends it more of them.
    assert asked.web_concurrency == int(options["cpu"])
    assert bytes_of(options["memory"]) >= memory_needed(asked, asked.web_concurrency)
    assert "httpGet.path=/health/ready" in options["startup-probe"].split(",")
    assert "httpGet.path=/health/live" in options["liveness-probe"].split(",")


def test_the_guide_names_what_the_training_job_reads_and_files_that_are_there() -> None:
    for name in re.findall(r"\$\{([A-Z_]+):", JOB):
        assert f"`{name}`" in GUIDE
    for path in re.findall(r"deploy/[\w./-]+", GUIDE):
        assert (ROOT / path).exists(), path
