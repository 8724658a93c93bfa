"""Searching Civitai and the hub: what is found, how it is told, and what happens when one of them does not answer."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from catalog.server import Fault, Server, civitai_file, civitai_model, civitai_version, hub_repository, listen, running
from huggingface_hub import constants

from vaekit.catalog import civitai
from vaekit.catalog.search import Hit, family_of, search
from vaekit.catalog.web import NetworkError
from vaekit.errors import FamilyError, OptionError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with running() as started:
        monkeypatch.setenv("CIVITAI_ENDPOINT", started.url)
        monkeypatch.setenv("HF_ENDPOINT", started.url)
        monkeypatch.delenv("CIVITAI_API_TOKEN", raising=False)
        monkeypatch.setitem(sys.modules, "keyring", None)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        stock(started)
        yield started


def stock(server: Server) -> None:
    """Two VAEs on Civitai, one with versions for two base models, and four repositories on the hub."""
    clear = [
        civitai_version(88156, [civitai_file(server, 88156, bytes(4096))], name="v2.3"),
        civitai_version(99999, [civitai_file(server, 99999, bytes(4096))], name="XL", baseModel="SDXL 1.0"),
        civitai_version(26689, [civitai_file(server, 26689, bytes(4096))], name="v1"),
    ]
    models = [
        civitai_model(22354, clear, name="ClearVAE"),
        civitai_model(1, [civitai_version(2, [civitai_file(server, 2, bytes(10))])], name="Other", tags=["photo"]),
        civitai_model(3, [civitai_version(4, [])], name="Archived anime VAE"),
        {"id": "broken"},
    ]
    server.put_json("/api/v1/models", {"items": models, "metadata": {"pageSize": 100}})
    repositories = [
        hub_repository(server, "stabilityai/sd-vae-ft-mse", {"config.json": b"{}", WEIGHTS: bytes(1000)}),
        hub_repository(
            server,
            "someone/anime-vae-sdxl",
            {"vae.safetensors": bytes(500)},
            downloadsAllTime=70,
            tags=["license:openrail", "base_model:finetune:stabilityai/stable-diffusion-xl-base-1.0", "anime"],
        ),
        hub_repository(server, "someone/anime-vae-lora", {"README.md": b"no weights"}),
        hub_repository(server, "someone/anime-vae-pipeline", {"model_index.json": b"{}", "vae/config.json": b"{}"}),
    ]
    listed = [info | {"siblings": [{"rfilename": s["rfilename"]} for s in info["siblings"]]} for info in repositories]
    server.put_json("/api/models", listed)


def targets(hits: list[Hit]) -> list[str]:
    return [hit.target for hit in hits]


def test_both_sources_are_asked_and_the_most_downloaded_come_first(server: Server) -> None:
    hits = search("anime")
    assert targets(hits) == ["civitai:22354@99999", "civitai:22354@88156", "hf:someone/anime-vae-sdxl"]
    assert [hit.downloads for hit in hits] == [99999, 88156, 70]


def test_a_hit_tells_what_a_choice_needs(server: Server) -> None:
    clear, hub = search("clear", base="sd1")[0], search("ft-mse")[0]
    assert clear == Hit(
        target="civitai:22354@88156",
        name="ClearVAE, v2.3",
        base="SD 1.5",
        family="sd1",
        downloads=88156,
        size=4096,
        licence="commercial use: Image, Sell",
        page="https://civitai.com/models/22354?modelVersionId=88156",
        preview="https://image.civitai.com/x/plain.jpeg",
    )
    assert (hub.target, hub.size, hub.licence) == ("hf:stabilityai/sd-vae-ft-mse", 1002, "mit")
    assert hub.page == "https://huggingface.co/stabilityai/sd-vae-ft-mse"


def test_base_keeps_one_family(server: Server) -> None:
    assert targets(search("anime", base="sdxl")) == ["civitai:22354@99999", "hf:someone/anime-vae-sdxl"]
    assert targets(search("anime", base="flux2")) == []


def test_every_word_has_to_fit_and_limit_cuts(server: Server) -> None:
    assert targets(search("anime clear v2.3")) == ["civitai:22354@88156"]
    assert targets(search("VAE Photo")) == ["civitai:1@2"]
    assert len(search("vae", limit=2)) == 2
    assert search("anime nonsense") == []


def test_civitai_is_leafed_through_with_its_cursor(server: Server) -> None:
    late = civitai_model(7, [civitai_version(8, [civitai_file(server, 8, b"x")])], name="Late anime")
    pages = {None: ([], "a|b"), "a|b": ([late], "c")}

    def answer(query: Mapping[str, list[str]]) -> object:
        items, following = pages.get(query.get("cursor", [None])[0], ([], "more"))
        return {"items": items, "metadata": {"nextCursor": following, "nextPage": "https://civitai.example/trap"}}

    server.pages["/api/v1/models"].by_query = answer
    assert targets(search("late")) == ["civitai:7@8"]
    asked = server.asked_for("/api/v1/models")
    assert all(request.query["types"] == ["VAE"] for request in asked)
    assert asked[1].query["cursor"] == ["a|b"]
    assert len(asked) == civitai.MOST_PAGES


def test_the_hub_is_asked_for_the_longest_word_and_for_vaes(server: Server) -> None:
    search("sd anime")
    assert {asked.query["search"][0] for asked in server.asked_for("/api/models")} == {"anime", "vae"}


def test_one_source_that_does_not_answer_is_a_warning(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    listen(monkeypatch, caplog, "WARNING")
    server.pages["/api/v1/models"].always = Fault(500)
    assert targets(search("anime")) == ["hf:someone/anime-vae-sdxl"]
    assert [record.levelname for record in caplog.records if record.name == "vaekit"] == ["WARNING"]
    assert "out of order (500)" in caplog.text
    server.pages["/api/v1/models"].always = None
    server.pages["/api/models"].always = Fault(500)
    assert targets(search("anime"))[0] == "civitai:22354@99999"


def test_a_repository_whose_size_is_not_told_is_listed_all_the_same(server: Server) -> None:
    server.pages["/api/models/someone/anime-vae-sdxl"].always = Fault(500)
    assert search("anime")[-1].size is None


def test_offline_is_one_line_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for variable in ("CIVITAI_ENDPOINT", "HF_ENDPOINT"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(NetworkError, match=r"neither Civitai nor the hub answers: .*offline") as caught:
            search("anime")
    assert "\n" not in str(caught.value)
    assert waited == []


def test_a_family_that_is_not_there_and_a_limit_of_nothing_are_refused() -> None:
    with pytest.raises(FamilyError, match="did you mean"):
        search("anime", base="sd11")
    with pytest.raises(OptionError, match="limit"):
        search("anime", limit=0)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("SD 1.5", "sd1"), ("SD 1.5 LCM", "sd1"), ("SD 2.1 768", "sd1"), ("SDXL 1.0", "sdxl"), ("Pony", "sdxl"),
        ("Illustrious", "sdxl"), ("NoobAI", "sdxl"), ("Hunyuan 1", "sdxl"), ("SD 3.5 Medium", "sd3"), ("SD 3", "sd3"),
        ("Flux.1 D", "flux1"), ("Flux.1 Kontext", "flux1"), ("Chroma", "flux1"), ("ZImageTurbo", "flux1"),
        ("Flux.2 D", "flux2"), ("Flux.2 Klein 9B", "flux2"), ("Playground v2", "playground25"),
        ("Wan Video 14B t2v", None), ("Qwen", None), ("Hunyuan Video", None), ("Other", None), ("SVD XT", None),
        ("stabilityai/sd-vae-ft-mse", "sd1"), ("stabilityai/sdxl-vae", "sdxl"), ("madebyollin/taef1", "flux1"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"), ("madebyollin/taef2", "flux2"),
        ("black-forest-labs/FLUX.2-dev", "flux2"), ("stabilityai/stable-diffusion-3.5-large", "sd3"),
        ("runwayml/stable-diffusion-v1-5", "sd1"), ("madebyollin/taesdxl", "sdxl"), ("madebyollin/taesd", "sd1"),
    ],
)  # fmt: skip
def test_families_of_base_models(name: str, family: str | None) -> None:
    assert family_of(name) == family
