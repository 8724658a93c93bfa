"""serve."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaekit.cli import common
from vaekit.errors import OptionError

if TYPE_CHECKING:
    from vaekit.web.desk import Desk

log = logging.getLogger("vaekit")

ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?")
LEAVING = 3
"""Seconds that open connections are waited for at the end."""


SHOWN = 12
"""Options that are named when there is nothing for them."""


def serve(
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; another than this machine's: --listen.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port.")] = 7860,
    listen: Annotated[bool, typer.Option("--listen", help="Let other machines in, on every address.")] = False,
    api_auth: Annotated[
        str | None,
        typer.Option(
            "--api-auth", metavar="USER:PASSWORD", envvar="VAEKIT_API_AUTH", help="Of the API; alone, of the page too."
        ),
    ] = None,
    ui_auth: Annotated[
        str | None,
        typer.Option(
            "--ui-auth", metavar="USER:PASSWORD", envvar="VAEKIT_UI_AUTH", help="Of the page; alone, of the API too."
        ),
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="With --listen: let everybody in, knowingly.")] = False,
    models: Annotated[
        list[Path] | None, typer.Option("--models", metavar="FOLDER", help="Look for models there too; repeatable.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="For pictures that requests want kept.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", metavar="https://SITE", help="Let pages of that site in; repeatable."),
    ] = None,
    allow_pickles: Annotated[
        bool, typer.Option("--allow-pickles", help="Let requests load .pt and .ckpt files too, with tensors alone.")
    ] = False,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch pictures that requests name by URL, from public addresses.")
    ] = False,
    import_a1111: Annotated[
        Path | None, typer.Option("--import-a1111", metavar="CONFIG.JSON", help="Take its options over first.")
    ] = None,
    device: common.Device = "auto",
) -> None:
    """Serve the page, and the HTTP API by A1111's names.

    Example: vaekit serve, and then http://127.0.0.1:7860 in a browser
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise OptionError("the page needs FastAPI and uvicorn: pip install 'vaekit[web]'") from error
    from vaekit import folders
    from vaekit.web.app import create
    from vaekit.web.desk import Desk
    from vaekit.web.guard import LOOPBACK
    from vaekit.web.options import Store

    if host not in LOOPBACK and not listen:
        raise OptionError(f"--host {host} lets other machines in; say --listen too")
    if no_auth and not listen:
        raise OptionError("--no-auth belongs to --listen")
    if listen and not api_auth and not ui_auth and not no_auth:
        raise OptionError("--listen needs --api-auth or --ui-auth USER:PASSWORD (or --no-auth to let everybody in)")
    if no_auth and (api_auth or ui_auth):
        raise OptionError("--no-auth lets everybody in; --api-auth and --ui-auth do not")
    for option, given in (("--api-auth", api_auth), ("--ui-auth", ui_auth)):
        if given is not None and not all(given.partition(":")):
            raise OptionError(f"{option} takes USER:PASSWORD")
    for origin in allow_origin or ():
        if not ORIGIN.fullmatch(origin):
            raise OptionError(f"--allow-origin takes https://SITE[:PORT], without a path, not {origin!r}")
    store = Store()
    desk = Desk(store, output or folders.downloads().parent / "outputs", models or [], device, pickles=allow_pickles)
    if import_a1111 is not None:
        _take_over(import_a1111, desk)
    store.read()
    desk.library()
    where = ("0.0.0.0" if host == "127.0.0.1" else host) if listen else host
    app = create(
        desk,
        hosts=("*",) if listen else None,
        api_auth=api_auth,
        ui_auth=ui_auth,
        origins=tuple(allow_origin or ()),
        urls=allow_urls,
    )
    log.info("http://%s:%d", f"[{where}]" if ":" in where else where, port)
    config = uvicorn.Config(app, where, port, log_level="warning", access_log=False, timeout_graceful_shutdown=LEAVING)
    server = uvicorn.Server(config)
    try:
        server.run()
    except SystemExit as stop:  # uvicorn's way to say that the port is taken
        raise OptionError(f"port {port} on {where} cannot be listened on; --port takes another") from stop


def _take_over(path: Path, desk: Desk) -> None:
    from vaekit.generate.architectures import read_json

    found = desk.store.take_over(read_json(path), desk.check)
    log.info("taken over: %s", ", ".join(found.taken) or "nothing")
    for name, reason in found.refused.items():
        log.warning("not taken over: %s: %s", name, reason)
    if found.ignored:
        shown = ", ".join(found.ignored[:SHOWN]) + (" …" if len(found.ignored) > SHOWN else "")
        log.info("vaekit has nothing for %d others: %s", len(found.ignored), shown)
