"""What Triton's published examples call, through Triton's own client; run by `.venv/triton`, not by the suite's Python.

    python calls.py http|grpc HOST:PORT

Says "done" at its end; anything else is an error.
"""

# ruff: noqa: ANN401 - the client is not there where types are checked

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from typing import Any

import numpy as np

HTTP = "http"


def main(protocol: str, address: str) -> None:
    """Make the calls."""
    library = import_module(f"tritonclient.{protocol}")
    client = library.InferenceServerClient(address)
    described(client, protocol)
    inferred(library, client)
    counted(client, protocol)
    in_sequence(library, client)
    classified(library, client)
    managed(client, protocol)
    if protocol != HTTP:
        streamed(library, client)
    sys.stdout.write("done\n")


def described(client: Any, protocol: str) -> None:
    """Health, metadata, configuration, and the words for what is unknown."""
    expect(client.is_server_live() and client.is_server_ready() and client.is_model_ready("simple"))
    expect(plain(client.get_server_metadata(), protocol)["name"] == "triton")
    expect(plain(client.get_model_metadata("simple"), protocol)["name"] == "simple")
    config = plain(client.get_model_config("simple"), protocol)
    config = config.get("config", config)
    expect((config["name"], config["max_batch_size"]) == ("simple", 8))
    expect([each["data_type"] for each in config["input"]] == ["TYPE_INT32"] * 2)
    expect("Request for unknown model" in refused(lambda: client.get_model_metadata("wrong")))


def inferred(library: Any, client: Any) -> None:
    """Numbers and texts, there and back."""
    for model, datatype in (("simple", "INT32"), ("simple_string", "BYTES")):
        one, two = np.arange(16).reshape(1, 16), np.full((1, 16), 2)
        given = [_sent(library, f"INPUT{at}", array, datatype) for at, array in enumerate((one, two))]
        asked = [library.InferRequestedOutput(f"OUTPUT{at}") for at in range(2)]
        answer = client.infer(model, given, outputs=asked, request_id="7")
        expect(np.array_equal(answer.as_numpy("OUTPUT0").astype(np.int64), one + two))
        expect(np.array_equal(answer.as_numpy("OUTPUT1").astype(np.int64), one - two))


def counted(client: Any, protocol: str) -> None:
    """One inference of the model so far, at least."""
    (told,) = plain(client.get_inference_statistics("simple"), protocol)["model_stats"]
    expect(int(told["inference_count"]) >= 1)
    expect(int(told["inference_stats"]["success"]["ns"]) > 0)


def in_sequence(library: Any, client: Any) -> None:
    """Parameters that say which calls belong together."""
    values = [
        client.infer(
            "simple_dyna_sequence", [_sent(library, "INPUT", np.array([[value]]), "INT32")],
            sequence_id=1_000, sequence_start=value == 0, sequence_end=value == 7,
        ).as_numpy("OUTPUT")[0, 0]
        for value in (0, 5, 7)
    ]  # fmt: skip
    expect(values == [1, 5, 1_007])


def classified(library: Any, client: Any) -> None:
    """An image's two best kinds, with their labels."""
    image = _sent(library, "pixels", np.ones((1, 8, 6, 3), np.float32), "FP32")
    answer = client.infer("image", [image], outputs=[library.InferRequestedOutput("scores", class_count=2)])
    expect([text.decode().split(":")[2][:4] for text in answer.as_numpy("scores")[0]] == ["kind"] * 2)


def managed(client: Any, protocol: str) -> None:
    """A model is loaded with another configuration, unloaded, and loaded as it was."""
    client.load_model("simple_int8", config='{"max_batch_size":"16"}')
    config = plain(client.get_model_config("simple_int8"), protocol)
    expect(config.get("config", config)["max_batch_size"] == 16)
    client.unload_model("simple_int8")
    expect(not client.is_model_ready("simple_int8"))
    client.load_model("simple_int8")
    expect("failed to load" in refused(lambda: client.load_model("wrong")))


def streamed(library: Any, client: Any) -> None:
    """Several requests of one stream are answered in their order."""
    queue = import_module("queue").Queue()
    client.start_stream(lambda result, error: queue.put((result, error)))
    for value in range(4):
        client.async_stream_infer(
            "simple_sequence", [_sent(library, "INPUT", np.array([[value]]), "INT32")], sequence_id=5,
            sequence_start=value == 0, sequence_end=value == 3,
        )  # fmt: skip
    found = [queue.get(timeout=60) for _ in range(4)]
    client.stop_stream()
    expect([error for _, error in found] == [None] * 4)
    expect([int(result.as_numpy("OUTPUT")[0, 0]) for result, _ in found] == [1, 1, 2, 3])


def plain(found: Any, protocol: str) -> dict[str, Any]:
    """Give an answer as an object, whichever form the client has it in."""
    if protocol == HTTP:
        told: dict[str, Any] = found
        return told
    json = import_module("google.protobuf.json_format")
    said: dict[str, Any] = json.MessageToDict(found, preserving_proto_field_name=True)
    return said


def refused(call: Any) -> str:
    """Give the words of a call that is to fail."""
    try:
        call()
    except import_module("tritonclient.utils").InferenceServerException as exc:
        return str(exc.message())
    raise SystemExit("expected a refusal, got an answer")


def expect(held: object) -> None:
    """End where something is not as it should be."""
    if not held:
        raise SystemExit(f"not as expected: {inspect.stack()[1].code_context} line {inspect.stack()[1].lineno}")


def _sent(library: Any, name: str, array: Any, datatype: str) -> Any:
    if datatype == "BYTES":
        data = np.array([str(value).encode() for value in array.ravel()], object).reshape(array.shape)
    else:
        data = array.astype({"INT32": np.int32, "FP32": np.float32}[datatype])
    tensor = library.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(data)
    return tensor


if __name__ == "__main__":
    main(*sys.argv[1:])
