"""A predictor that speaks TLS only, by an authority of its own, behind a transformer that trusts it or does not."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from deploy import environment
from inference.protocol.grpc_codec import Received, encode_response
from inference.protocol.grpc_messages import SERVICE
from inference.protocol.v2 import InferResponse
from tests.inference.serving import predictor
from tests.inference.upstream.scripted import V1_ANSWER, scripted
from tests.secured import Authority

_PLAIN = "class Transformer:\n    def postprocess(self, outputs):\n        return outputs"
_ROOTS = {"v1": "SSL_CERT_FILE", "grpc-v2": "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"}


def _echo(data: bytes, _context: Any) -> bytes:  # noqa: ANN401 - grpc has no types
    received = Received(data)
    response = InferResponse(model_name=received.model, outputs=received.request().inputs, model_version="7")
    return encode_response(response, raw=received.raw)


@contextmanager
def _grpc(certificate: Path, key: Path) -> Iterator[int]:
    """Serve ModelInfer, encrypted, until the block ends; give the port."""
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(_echo)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


@contextmanager
def _rest(certificate: Path, key: Path) -> Iterator[int]:
    """Serve one V1 answer, encrypted, until the block ends; give the port."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with scripted(V1_ANSWER, tls=tls) as script:
        yield script.port


@pytest.mark.parametrize("protocol", ["v1", "grpc-v2"])
def test_only_who_trusts_the_authority_is_answered(tmp_path: Path, protocol: str) -> None:
    """With the authority's certificate the call goes through; without, the predictor cannot be reached: 503."""
    authority = Authority(tmp_path, "own")
    (tmp_path / "transformer.py").write_text(_PLAIN)
    serve = _grpc if protocol == "grpc-v2" else _rest
    variables = {name: value for name, value in environment.inherited().items() if name not in _ROOTS.values()}

    def ask(more: dict[str, str]) -> httpx.Response:
        words = ("--trusted", "--predictor_host", f"localhost:{port}", "--predictor_protocol", protocol)
        served = predictor(tmp_path, tmp_path, *words, "--predictor_use_ssl", variables=variables | more)
        with served as server, server.client() as client:
            return client.post("/v1/models/m:predict", json={"instances": [1.5]})

    with serve(*authority.issue("predictor")) as port:
        trusted, stranger = ask({_ROOTS[protocol]: str(authority.file)}), ask({})

    assert trusted.json() == {"predictions": [1.5]}
    assert stranger.status_code == 503
    assert "cannot be reached" in stranger.json()["error"]
