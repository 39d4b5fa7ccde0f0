"""The layout of a local run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path

import pytest

from deploy.errors import UserError
from deploy.manifests import ServiceManifest, load_services
from deploy.plan import PlanSettings, make, model_directory
from deploy.supervisor import Program
from streams.topics import Topics

MANIFEST = Path(__file__).parent / "testdata" / "service.yaml"


@pytest.fixture
def service(tmp_path: Path) -> ServiceManifest:
    """Give the example service with a model folder beside its manifest."""
    (tmp_path / "model").mkdir()
    path = tmp_path / "service.yaml"
    path.write_bytes(MANIFEST.read_bytes())
    return load_services([path])[0]


def settings(**changes: object) -> PlanSettings:
    """Give settings for a broker on port 9092."""
    base = PlanSettings(
        kafka="127.0.0.1:9092",
        topics=Topics("t"),
        files=(Path("m.yaml"),),
        monitored=frozenset({"shop/iris"}),
        volumes={},
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def ports() -> Callable[[], int]:
    """Give ports in order, from 5000."""
    numbers = count(5000)
    return lambda: next(numbers)


def argument(program: Program, flag: str) -> str:
    """Give the word that follows a flag."""
    return program.command[program.command.index(flag) + 1]


def test_clients_reach_the_predictor_only_through_the_logger(service: ServiceManifest) -> None:
    """The service's address is the logger's, which forwards to the predictor; the explainer calls it too."""
    plan = make([service], settings(port=8080), ports())
    programs = {program.name: program for program in plan.programs}

    assert plan.services == {"shop/iris": "http://127.0.0.1:8080"}
    assert argument(programs["logger-iris"], "--port") == "8080"
    assert argument(programs["logger-iris"], "--component-port") == argument(programs["predictor-iris"], "--http_port")
    assert argument(programs["explainer-iris"], "--predictor_host") == "127.0.0.1:8080"
    assert argument(programs["logger-iris"], "--log-url") == "kafka://127.0.0.1:9092/t.payloads"
    assert argument(programs["logger-iris"], "--metadata-annotations") == "team=data"


def test_shadows_are_logged_where_the_service_is(service: ServiceManifest) -> None:
    """What shadow versions answer goes to the logger's topic, under its names and rules; without a logger, nowhere."""
    chosen = settings(kafka_flags=("--kafka-ca-file=/ca",), logger_flags=("--privacy=p", "--log-mode=request"))
    words = make([service], chosen, ports()).programs
    predictor = next(program for program in words if program.name == "predictor-iris")
    unlogged = make([replace(service, logger=None)], chosen, ports()).programs

    assert argument(predictor, "--log-shadows") == "kafka://127.0.0.1:9092/t.payloads"
    assert argument(predictor, "--inference-service") == "iris"
    assert argument(predictor, "--namespace") == "shop"
    assert {"--privacy=p", "--kafka-ca-file=/ca"} <= set(predictor.command)
    assert not any("--log-shadows" in program.command for program in unlogged)


def test_without_a_logger_the_predictor_answers_itself(service: ServiceManifest) -> None:
    """A service that asks for no logging gets no proxy."""
    plan = make([replace(service, logger=None)], settings(port=8080), ports())

    assert not [program for program in plan.programs if program.name.startswith("logger")]
    assert plan.services == {"shop/iris": "http://127.0.0.1:8080"}


def test_the_model_format_chooses_the_runtime(service: ServiceManifest) -> None:
    """A format that no runtime reads fails at the start, with the known ones; arguments of the user's come last."""
    plan = make([replace(service, model_args=("--runtime", "own:Class"))], settings(), ports())
    (command,) = [program.command for program in plan.programs if program.name == "predictor-iris"]

    assert [word for flag, word in pairwise(command) if flag == "--runtime"] == ["sklearn", "own:Class"]


def test_workers_are_multiplied(service: ServiceManifest) -> None:
    """`workers` processes of each role, each with a metrics page of its own."""
    plan = make([service], settings(workers=2), ports())
    workers = [program for program in plan.programs if program.name.startswith(("assembler", "detector"))]

    assert [program.name for program in workers] == ["assembler-0", "assembler-1", "detector-0", "detector-1"]
    assert len({program.metrics for program in workers}) == 4


def test_one_name_twice_is_refused(service: ServiceManifest) -> None:
    """Two services of one name would mix their streams."""
    with pytest.raises(UserError, match="shop/iris is described twice"):
        make([service, service], settings(), ports())


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://bucket/model", "scheme 's3' is not served locally"),
        ("pvc://claim/model", "--volume claim=DIR"),
        ("file:///nowhere/at/all", "is no directory"),
    ],
)
def test_a_storage_uri_that_cannot_be_served_says_so(service: ServiceManifest, uri: str, message: str) -> None:
    """The message names the field, the reason and the way out."""
    with pytest.raises(UserError, match=message) as caught:
        model_directory(replace(service, storage_uri=uri), {})

    assert "spec.predictor.model.storageUri" in str(caught.value)


def test_a_claim_is_mounted_from_a_folder(service: ServiceManifest, tmp_path: Path) -> None:
    """`pvc://claim/path` is `path` under the folder that --volume names."""
    (tmp_path / "volume" / "iris").mkdir(parents=True)
    claimed = replace(service, storage_uri="pvc://models/iris")

    assert model_directory(claimed, {"models": tmp_path / "volume"}) == tmp_path / "volume" / "iris"


def test_flags_for_the_logger_and_the_broker(service: ServiceManifest) -> None:
    """Who reads payloads hears how, and who reaches Kafka; what the user says comes after what the YAML leads to."""
    chosen = settings(
        kafka_flags=("--kafka-ca-file=/ca",), logger_flags=("--privacy=p", "--log-mode=request"),
        assembler_flags=("--keys=k",), spools=Path("/spools"),
    )  # fmt: skip
    programs = {program.name: program for program in make([service], chosen, ports()).programs}

    assert {name for name, program in programs.items() if "--kafka-ca-file=/ca" in program.command} == {
        "assembler-0", "detector-0", "logger-iris", "predictor-iris",
    }  # fmt: skip
    assert [name for name, program in programs.items() if "--keys=k" in program.command] == ["assembler-0"]
    assert programs["logger-iris"].command[-2:] == ("--privacy=p", "--log-mode=request")
    assert argument(programs["logger-iris"], "--spool-dir") == "/spools/shop.iris"


def test_loggers_do_not_share_a_spool(service: ServiceManifest) -> None:
    """A folder that is named is one logger's: for two the start ends, instead of one going without its disk."""
    chosen = settings(logger_flags=("--outbox=spool", "--spool-dir=/s"))
    make([service], chosen, ports())
    with pytest.raises(UserError, match="--spool-dir is for one logger, not 2"):
        make([service, replace(service, name="other")], chosen, ports())


_TRANSFORMER = """  transformer:
    containers:
      - name: kserve-container
        image: ghcr.io/sidelight/predictor:0.1
        args: [--trusted, --predictor_protocol, {protocol}]
        env: [{{name: STORAGE_URI, value: 'file://code'}}]
    logger: {{mode: all}}
"""


@pytest.mark.parametrize("protocol", ["v1", "v2", "grpc-v2"])
@pytest.mark.parametrize("logged", [True, False])
def test_a_transformer_stands_before_the_predictors_logger(tmp_path: Path, protocol: str, *, logged: bool) -> None:
    """Clients reach the transformer, by its own logger; it asks the predictor by the predictor's, if there is one."""
    (tmp_path / "model").mkdir()
    (tmp_path / "code").mkdir()
    path = tmp_path / "service.yaml"
    text = MANIFEST.read_text().replace("  transformer:\n    containers: [{image: shop/scaler}]\n", "@")
    path.write_text(text.replace("@", _TRANSFORMER.format(protocol=protocol)))
    (service,) = load_services([path])
    plan = make([service if logged else replace(service, logger=None)], settings(port=8080), ports())
    programs = {program.name: program for program in plan.programs}
    front, transformer, model = (
        programs[name] for name in ("logger-iris.transformer", "transformer-iris", "predictor-iris")
    )

    assert plan.services == {"shop/iris": "http://127.0.0.1:8080"}
    assert (argument(front, "--port"), argument(front, "--component")) == ("8080", "transformer")
    assert argument(front, "--component-port") == argument(transformer, "--http_port")
    assert argument(transformer, "--model_dir") == str(tmp_path / "code")
    assert "--trusted" in transformer.command
    asked = argument(transformer, "--predictor_host").removeprefix("127.0.0.1:")
    if logged:
        back = programs["logger-iris"]
        assert asked == argument(back, "--port")
        assert argument(back, "--component-port") == argument(model, "--http_port")
        assert argument(back, "--spool-dir") != argument(front, "--spool-dir")
        if protocol == "grpc-v2":
            assert argument(back, "--grpc-component-port") == argument(model, "--grpc_port") != "0"
    else:
        assert asked == argument(model, "--grpc_port" if protocol == "grpc-v2" else "--http_port")
    assert argument(programs["explainer-iris"], "--predictor_host") == (
        f"127.0.0.1:{argument(programs['logger-iris'] if logged else model, '--port' if logged else '--http_port')}"
    )
