"""Reading InferenceService and InferenceMonitor files."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.errors import UserError
from deploy.manifests import load_monitors, load_services

SERVICE = Path(__file__).parent / "testdata" / "service.yaml"
HEAD = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: a}\n"


def test_a_kserve_manifest_is_read_as_it_is() -> None:
    """Every field that matters locally is taken from KServe's own shape."""
    (service,) = load_services([SERVICE])

    assert (service.name, service.namespace, service.model_format) == ("iris", "shop", "sklearn")
    assert service.storage_uri == "file://model"
    assert service.model_args == ("--trusted",)
    assert service.logger is not None
    assert service.logger.mode == "all"
    assert service.logger.metadata_headers == ("x-client",)
    assert service.explainer_args == ("--explainer", "kernel-shap")


def test_fields_without_effect_are_named_not_refused() -> None:
    """A user brings a manifest from a cluster; what does nothing here is listed by its path."""
    (service,) = load_services([SERVICE])

    assert service.ignored == (
        "spec.explainer.containers[0].env",
        "spec.explainer.containers[0].resources.limits.cpu",
        "spec.explainer.containers[1].image",
        "spec.explainer.minReplicas",
        "spec.predictor.logger.batchSize",
        "spec.predictor.logger.url",
        "spec.predictor.minReplicas",
        "spec.predictor.model.modelFormat.version",
        "spec.predictor.model.resources.limits.cpu",
        "spec.transformer.containers[0].image",
    )


def test_legacy_framework_fields_still_work(tmp_path: Path) -> None:
    """KServe's older `spec.predictor.sklearn` spelling means the same."""
    path = tmp_path / "s.yaml"
    path.write_text(HEAD + "spec: {predictor: {sklearn: {storageUri: 'file:///models/a'}}}\n")
    (service,) = load_services([path])

    assert (service.model_format, service.storage_uri, service.namespace) == ("sklearn", "file:///models/a", "default")
    assert service.logger is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("just text", "has no 'kind'"),
        (HEAD.replace("v1beta1", "v1alpha1") + "spec: {}\n", "apiVersion: expected serving.kserve.io/v1beta1"),
        (HEAD + "spec: {predictor: {containers: [{image: x}]}}\n", "custom containers do not run locally"),
        (HEAD + "spec: {predictor: {sklearn: {}}}\n", "spec.predictor.sklearn.storageUri: expected text, got None"),
        (
            HEAD + "spec: {predictor: {sklearn: {storageUri: 'file://m'}, logger: {mode: some}}}\n",
            "spec.predictor.logger.mode: expected one of all, request, response, got 'some'",
        ),
        (
            HEAD + "spec: {predictor: {sklearn: {storageUri: 'file://m'}}, explainer: {containers: [{image: art}]}}\n",
            "spec.explainer.containers[0].image",
        ),
        (
            HEAD + "spec: {predictor: {sklearn: {storageUri: 'file://m'}},"
            " explainer: {containers: [{image: sidelight/explainer, args: --x}]}}\n",
            "spec.explainer.containers[0].args: expected a list, got '--x'",
        ),
    ],
)
def test_a_mistake_names_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    """Every refusal says which file, which field, what was expected and what was there."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_services([path])

    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    """A wrong path is a user's mistake, not a traceback."""
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_services([tmp_path / "none.yaml"])


def test_an_unknown_monitor_key_is_refused(tmp_path: Path) -> None:
    """A misspelt key in our own kind would silently switch a detector off, so it is an error that names it."""
    path = tmp_path / "monitor.yaml"
    path.write_text(
        "apiVersion: sidelight.dev/v1alpha1\nkind: InferenceMonitor\nmetadata: {name: m}\n"
        "spec: {inferenceService: a, detecters: []}\n"
    )
    with pytest.raises(UserError, match="detecters"):
        load_monitors([path])


def test_a_transformer_of_ours_needs_its_code(tmp_path: Path) -> None:
    """STORAGE_URI names the code, as KServe's storage initializer reads it; without it nothing could run."""
    path = tmp_path / "s.yaml"
    service = "spec: {predictor: {sklearn: {storageUri: 'file:///models/a'}}, transformer: {containers: [%s]}}\n"
    path.write_text(HEAD + service % "{image: ghcr.io/sidelight/predictor}")
    with pytest.raises(UserError, match="STORAGE_URI"):
        load_services([path])

    path.write_text(
        HEAD + service % "{image: ghcr.io/sidelight/predictor, env: [{name: STORAGE_URI, value: 'file://code'}]}"
    )
    (found,) = load_services([path])
    assert found.transformer is not None
    assert (found.transformer.storage_uri, found.transformer.args, found.transformer.logger) == (
        "file://code",
        (),
        None,
    )
    assert found.ignored == ()
