"""Civitai: numbers and addresses to the right file, with the token where it belongs and nowhere else."""

from __future__ import annotations

import random
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from catalog.server import Fault, Server, civitai_file, civitai_model, civitai_version, listen, running, sha256

from vaekit.catalog import civitai
from vaekit.catalog.download import download
from vaekit.catalog.web import AccessError, NetworkError
from vaekit.errors import FileError, OptionError, UnsafeFileError

CONTENT = random.Random(1).randbytes(50_000)
SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with running() as started:
        monkeypatch.setenv("CIVITAI_ENDPOINT", started.url + "/")
        monkeypatch.delenv("CIVITAI_API_TOKEN", raising=False)
        monkeypatch.setitem(sys.modules, "keyring", None)
        yield started


def put_model(server: Server, *versions: dict[str, Any], **changes: Any) -> None:
    model = civitai_model(276082, list(versions), **changes)
    server.put_json("/api/v1/models/276082", model)


def version(server: Server, number: int = 311162, **changes: Any) -> dict[str, Any]:
    return civitai_version(number, [civitai_file(server, number, CONTENT, **changes)])


@pytest.mark.parametrize(("text", "numbers"), [("276082", (276082, None)), ("276082@311162", (276082, 311162))])
def test_a_target_is_a_model_and_a_version(text: str, numbers: tuple[int, int | None]) -> None:
    assert civitai.parse(text) == numbers


@pytest.mark.parametrize("text", ["", "vae", "1@", "@1", "1@2@3", "-1", "1.5", "276082/311162", "१२", "9" * 40])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="civitai:MODEL"):
        civitai.parse(text)


@pytest.mark.parametrize(
    ("url", "numbers"),
    [
        ("https://civitai.com/models/276082", (276082, None)),
        ("https://civitai.com/models/276082/vae-ft-mse", (276082, None)),
        ("https://civitai.com/models/276082/x?a=1&modelVersionId=311162#y", (276082, 311162)),
        ("https://www.civitai.red/models/276082?modelVersionId=311162", (276082, 311162)),
        ("https://civitai.com/api/download/models/311162?type=VAE&format=SafeTensor", (None, 311162)),
        ("https://civitai.com/images/1", None),
        ("https://civitai.com.evil.example/models/1", None),
    ],
)
def test_addresses_of_pages_are_targets_too(url: str, numbers: tuple[int | None, int | None] | None) -> None:
    assert civitai.parse_page(url) == numbers


def test_the_newest_version_is_taken_unless_one_is_named(server: Server) -> None:
    put_model(server, version(server, 311162), version(server, 5))
    assert civitai.find(276082)[0] == "vae-311162.safetensors"
    name, remote = civitai.find(276082, 5)
    assert name == "vae-5.safetensors"
    assert remote.sha256 == sha256(CONTENT)


def test_a_version_is_found_by_its_number_alone(server: Server) -> None:
    shape = version(server) | {"modelId": 276082, "model": {"name": "x", "type": "VAE", "nsfw": False, "poi": False}}
    server.put_json("/api/v1/model-versions/311162", shape)
    assert civitai.find(None, 311162)[1].sha256 == sha256(CONTENT)


def test_the_file_comes_through_the_redirect(server: Server, tmp_path: Path) -> None:
    put_model(server, version(server))
    _, remote = civitai.find(276082)
    download(remote, tmp_path / "vae.safetensors")
    assert (tmp_path / "vae.safetensors").read_bytes() == CONTENT
    assert server.asked[-1].query == {"X-Amz-Signature": ["abc"]}


def test_of_a_checkpoint_the_linked_vae_is_taken(server: Server) -> None:
    files = [
        civitai_file(server, 1, b"checkpoint", type="Model"),
        civitai_file(server, 2, CONTENT, type="VAE", primary=False),
    ]
    put_model(server, civitai_version(1, files), type="Checkpoint")
    assert civitai.find(276082)[0] == "vae-2.safetensors"
    put_model(server, civitai_version(1, files[:1]), type="Checkpoint")
    with pytest.raises(FileError, match="a Checkpoint without a VAE file"):
        civitai.find(276082)


def test_safetensors_are_preferred_to_pickles(server: Server) -> None:
    pickle = civitai_file(server, 1, b"pickle", name="x.pt", metadata={"format": "PickleTensor"})
    safe = civitai_file(server, 2, CONTENT, primary=False)
    put_model(server, civitai_version(1, [pickle, safe]))
    assert civitai.find(276082)[0] == "vae-2.safetensors"


def test_nulls_and_unknown_fields_are_taken(server: Server) -> None:
    file = civitai_file(server, 1, CONTENT, hashes=None, metadata=None, primary=None, somethingNew={"a": [1]})
    put_model(server, civitai_version(1, [file], stats=None, images=None), tags=None, allowCommercialUse=None)
    assert civitai.find(276082)[1].sha256 is None


@pytest.mark.parametrize("scan", ["pickleScanResult", "virusScanResult"])
def test_what_civitai_calls_dangerous_is_not_fetched(server: Server, scan: str) -> None:
    put_model(server, version(server, 1, **{scan: "Danger"}))
    with pytest.raises(UnsafeFileError, match="dangerous"):
        civitai.find(276082)


def test_a_version_that_is_not_there_is_told_with_those_that_are(server: Server) -> None:
    put_model(server, version(server))
    with pytest.raises(FileError, match=r"no version 7; it has 276082@311162 \(v311162\)"):
        civitai.find(276082, 7)


def test_an_archived_model_has_nothing_to_download(server: Server) -> None:
    put_model(server, civitai_version(1, []), mode="Archived")
    with pytest.raises(FileError, match="without a VAE file of its own to download"):
        civitai.find(276082)
    put_model(server)
    with pytest.raises(FileError, match="none to download"):
        civitai.find(276082)


@pytest.mark.parametrize("answer", [[], "x", None, {}, {"id": 1, "name": "x", "type": "VAE", "modelVersions": [1]}])
def test_an_answer_in_another_shape_is_one_line(server: Server, answer: object) -> None:
    server.put_json("/api/v1/models/276082", answer)
    with pytest.raises(NetworkError, match="shape that vaekit does not know") as caught:
        civitai.find(276082)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(404), FileError),
        (Fault(401), AccessError),
        (Fault(500), NetworkError),
        (Fault(drop_after=9), NetworkError),
    ],
)
def test_refusals_are_one_line(server: Server, fault: Fault, kind: type[Exception]) -> None:
    put_model(server)
    server.pages["/api/v1/models/276082"].always = fault
    with pytest.raises(kind) as caught:
        civitai.find(276082)
    assert "\n" not in str(caught.value)


# The token


def test_the_token_of_the_environment_is_sent_to_civitai_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listen(monkeypatch, caplog, "DEBUG")
    monkeypatch.setenv("CIVITAI_API_TOKEN", SECRET)
    put_model(server, version(server))
    server.pages["/api/download/models/311162"].token = SECRET
    _, remote = civitai.find(276082)
    download(remote, tmp_path / "vae.safetensors")
    assert [asked.headers.get("authorization") for asked in server.asked[:2]] == [f"Bearer {SECRET}"] * 2
    with running() as other:
        put_model(server, version(other, 311162))
        _, remote = civitai.find(276082)
        assert remote.token is None
    assert SECRET not in caplog.text + repr(remote)


def test_the_token_of_the_keyring_is_used_where_there_is_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    keyring, errors = types.ModuleType("keyring"), types.ModuleType("keyring.errors")
    keyring.get_password = lambda *names: asked.append(names) or SECRET  # type: ignore[attr-defined]
    errors.KeyringError = RuntimeError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    put_model(server, version(server))
    civitai.find(276082)
    assert asked[0] == ("vaekit", "civitai")
    assert server.asked[0].headers["authorization"] == f"Bearer {SECRET}"

    def locked(*names: str) -> None:
        raise RuntimeError("locked")

    keyring.get_password = locked  # type: ignore[attr-defined]
    civitai.find(276082)
    assert "authorization" not in server.asked[-1].headers


def test_without_a_token_a_login_page_is_told_how(server: Server, tmp_path: Path) -> None:
    put_model(server, version(server))
    server.pages["/api/download/models/311162"].token = SECRET
    with pytest.raises(AccessError, match="CIVITAI_API_TOKEN or `keyring set vaekit civitai`"):
        download(civitai.find(276082)[1], tmp_path / "vae.safetensors")


@pytest.mark.parametrize(
    ("allowed", "credit", "text"),
    [
        (["Image", "Sell"], True, "commercial use: Image, Sell"),
        ("{Image,Rent}", False, "commercial use: Image, Rent, with credit"),
        ([], True, "no commercial use"),
        (["None"], False, "no commercial use, with credit"),
        ("Sell", True, "commercial use: Sell"),
        (None, True, "unknown"),
    ],
)
def test_what_the_author_allows_is_told_in_words(allowed: object, credit: bool, text: str) -> None:
    shape = civitai_model(1, [], allowCommercialUse=allowed, allowNoCredit=credit)
    assert civitai.licence(civitai.Model.model_validate(shape)) == text
