"""Decoders of what people, uv, pip and package indexes write."""

from __future__ import annotations

from pathlib import Path

import requests
from packaging.specifiers import SpecifierSet
from requests.adapters import BaseAdapter

from bnbenv.envs.listing import NoIndexPage, parse_links_page, parse_project_page
from bnbenv.envs.lockfile import agrees, measured, read_lock
from bnbenv.envs.network import read_network
from bnbenv.envs.pipconfig import combine_pip, parse_pip_file
from bnbenv.envs.plan import lock_problem
from bnbenv.envs.project import Project, check_env_name
from bnbenv.envs.record import Record, read_record
from bnbenv.envs.sources import PackageSources, read_sources
from bnbenv.envs.uvconfig import UvFiles
from bnbenv.envs.uverrors import explain
from bnbenv.envs.wishes import TEMPLATE, SourcesWish, Wishes, decode_wishes, edited
from bnbenv.errors import BnbenvError, Failed, InputError, RebootRequired, SourceUnreachable
from bnbenv.facts.model import HostFacts
from bnbenv.matrix.index import Listing, list_project
from bnbenv.matrix.news import Place, new_builds, new_wheels
from bnbenv.paths import exists
from bnbenv.redact import redact, secrets_of, strip_credentials
from bnbenv.solve.model import Current, Request
from bnbenv.solve.solver import solve

from .documents import ERRORS, LOCK, PAGES, PIP_FILES, RECORD, SETTINGS, UV_FILES, WISHES
from .edits import SECRET
from .oracle import LOGIN, Fault, Target, check_error
from .places import NO_GPU, OneText, finished, matrix, put, recorded, scratch, settings, text_of

FILE = "bnbenv.toml"
LOCK_FILE = "pylock.bnb.toml"


def _host() -> HostFacts:
    return recorded(NO_GPU)


def _wishes(data: bytes) -> Wishes:
    wishes = decode_wishes(data, FILE)
    for env in wishes.envs:
        wishes.digest(env)
        request = wishes.request(env, FILE, Current("3.11", "2.13.0+cpu", "0.50.2"))
        solve(_host(), matrix(), request)
    return wishes


def _edited_wishes(data: bytes) -> None:
    """What ``sync --torch ...`` writes is read again, and holds what was asked for."""
    before = decode_wishes(data, FILE)
    config = put(FILE, data)
    env = next(iter(before.envs))
    text = edited(Project(scratch(), config), env, {"torch": "==2.9.*", "gpus": [0, "GPU-1"]})
    after = decode_wishes(text.encode(), FILE)
    if after.envs[env].torch != "==2.9.*" or after.envs[env].gpus != [0, "GPU-1"]:
        raise Fault(f"the wish is not in what was written: {text[:300]!r}")
    others = {name: wish for name, wish in before.envs.items() if name != env}
    if {name: wish for name, wish in after.envs.items() if name != env} != others:
        raise Fault("an environment that was not meant has changed")


def _lock(data: bytes) -> None:
    locked = read_lock(text_of(data), LOCK_FILE)
    request = Request(torch="*", bitsandbytes=">=0.40", python=">=3.10")
    agrees(locked, LOCK_FILE)
    measured(locked, matrix(), _host().platform, LOCK_FILE)
    lock_problem(locked, "bnb", locked.decision.wishes, request, _host(), matrix())


def _record(data: bytes) -> None:
    """A record that is taken for one can be used as ``check``, ``list`` and ``plan`` use it."""
    record = read_record(put("1.json", data))
    if record is None:
        return
    choice = record.decision.get("choice", {})
    str((choice.get("torch", {}).get("version"), choice.get("bitsandbytes", {}).get("version"), choice.get("python")))
    sorted(record.environments)
    record.write(scratch() / "2.json")
    again = read_record(scratch() / "2.json")
    if not isinstance(again, Record):
        raise Fault("what was written cannot be read")


def _uv_errors(data: bytes) -> None:
    text = text_of(data)
    for code, late in ((1, False), (-9, False), (1, True)):
        error = explain(finished("", text, code, late), "resolve the packages", {SECRET})
        if not isinstance(error, BnbenvError):
            raise Fault("no error")
        check_error(error)


def _sources(
    wish: SourcesWish | None = None, environ: dict[str, str] | None = None, uv: bytes = b"", pip: bytes = b""
) -> PackageSources:
    project = put("project/uv.toml", uv).parent
    own = {"PIP_CONFIG_FILE": str(put("pip.conf", pip)), "UV_NO_SYSTEM_CONFIG": "1"}
    home = scratch() / "home"
    system = OneText("", scratch() / "empty")
    return read_sources(
        {**own, **(environ or {})}, system, wish or SourcesWish(), home, project, "https://host/whl", ()
    )


def _used(sources: PackageSources) -> None:
    """No credential is shown, nor given to uv as an argument that others can see."""
    shown = [source.shown for source in (*sources.indexes, *sources.find_links, *(d for d in (sources.default,) if d))]
    shown += sources.uv_arguments()
    for source in (*sources.indexes, *sources.find_links):
        folder = source.folder
        if folder is not None:
            exists(folder)
    sources.uv_environment()
    sources.without(sources.indexes[:1]).with_pytorch("cu128").uv_environment()
    if any(LOGIN.search(text) for text in shown):
        raise Fault(f"a password is shown: {shown}")


def _uv_config(data: bytes) -> None:
    _used(_sources(uv=data))


def _pip_config(data: bytes) -> None:
    options = parse_pip_file(text_of(data), "pip.conf")
    config = combine_pip([options], {})
    read_network({}, config, UvFiles())
    _used(_sources(pip=data))


def _environment(data: bytes) -> None:
    names = {line.partition("=")[0] for line in SETTINGS[0].decode().split("\n")}
    environ = settings(data, names)
    _used(_sources(environ=environ, uv=b'index = [{name = "mine", url = "https://host/simple"}]'))


def _wished_sources(data: bytes) -> None:
    words = tuple(data.decode("utf-8", "replace").split("\n"))
    _used(_sources(SourcesWish(indexes=words[:3], find_links=words[3:6])))


def _pages(data: bytes) -> None:
    for kind in ("application/vnd.pypi.simple.v1+json", "text/html"):
        try:
            offers = parse_project_page(data, kind, "https://host/simple/torch/", "torch")
            offers += parse_links_page(data, "https://host/links", ("torch", "bitsandbytes"))
        except NoIndexPage:
            continue
        for offer in offers:
            if offer.project not in ("torch", "bitsandbytes") or (offer.path is not None and not offer.path.is_file()):
                raise Fault(f"no wheel that was asked for: {offer}")


class _Server(BaseAdapter):
    """Answers every request with the same bytes."""

    def __init__(self, body: bytes, kind: str) -> None:
        super().__init__()
        self._body, self._kind = body, kind

    def send(self, request: requests.PreparedRequest, **_: object) -> requests.Response:  # type: ignore[override]
        answer = requests.Response()
        answer.status_code, answer.url, answer._content = 200, str(request.url), self._body
        answer._content_consumed = True
        answer.headers["Content-Type"] = self._kind
        answer.request = request
        return answer

    def close(self) -> None: ...


def _index(data: bytes) -> None:
    for kind in ("application/vnd.pypi.simple.v1+json", "text/html; charset=utf-8"):
        session = requests.Session()
        session.mount("https://", _Server(data, kind))
        try:
            listing = list_project(session, f"https://me:{SECRET}@host/simple/", "torch")
        except (Failed, SourceUnreachable) as error:
            check_error(error)
            continue
        if not all(file.filename.endswith(".whl") and len(file.sha256) == 64 for file in listing.files):
            raise Fault(f"no wheels: {listing}")
        _news(listing)


def _news(listing: Listing) -> None:
    """What such a page makes known: at most one wheel to measure for each file."""
    place, spec = Place("https://host/simple/"), SpecifierSet(">=2.0")
    for found in (
        new_builds(listing, matrix().torch, place, spec),
        new_wheels(listing, matrix().bitsandbytes, place, spec),
    ):
        if len(found.tasks) + len(found.left_out) > len(listing.files) + len(listing.unhashed):
            raise Fault(f"more is new than there is: {found}")


def _redact(data: bytes) -> None:
    """A credential that is planted into any text does not survive."""
    before, _, after = text_of(data).replace(SECRET, "").partition("\n")
    word = "".join(sign for sign in before if sign.isascii() and (sign.isalnum() or sign in "-_.~%!$*+"))[:20]
    planted = f"{word}{SECRET}{'x' * (len(after) % 2 * 5000)}"
    for form in (
        f"https://me:{planted}@host/simple",
        f"http://{planted}@host:80/",
        f"https:///me:{planted}@host/simple",
        f"https://host/f?x=1&token={planted}&y=2",
        f"Authorization: Bearer {planted}",
        f"UV_INDEX_MINE_PASSWORD={planted}",
    ):
        address = form.startswith("http")
        text = f"{before}{' ' if address else chr(10)}{form} {after}"
        if SECRET in (shown := redact(text)):
            raise Fault(f"{form} is left in {shown[:300]!r}")
        if address and SECRET in (shown := strip_credentials(text)):
            raise Fault(f"{form} is left in {shown[:300]!r}")
        if address and SECRET in (shown := redact(f"{after}{planted}{before}", secrets_of([form]))):
            raise Fault(f"{planted} is left in {shown[:300]!r}")


def _names(data: bytes) -> None:
    name = check_env_name(data.decode("utf-8", "surrogateescape"), FILE, "envs")
    path = Project(Path("/project"), Path("/project/bnbenv.toml")).lock(name)
    if path.parent != Path("/project") or "\n" in path.name:
        raise Fault(f"it leads out of the project: {path}")


_JSON_PAGES = tuple(page for page in PAGES if page.startswith(b"{"))
_URLS = b"https://me:pw@host/simple\n../wheels\nfile:///srv/index\n~/wheels\nhttps://host/links.html\n/srv/wheels"
_LOCK_ERRORS = (InputError, RebootRequired)

TARGETS = (
    Target("wishes", "toml", _wishes, lambda: (TEMPLATE.encode(), *WISHES), (InputError,), FILE),
    Target("wishes-text", "text", _wishes, lambda: (TEMPLATE.encode(), *WISHES), (InputError,), FILE),
    Target("wishes-edited", "toml", _edited_wishes, lambda: (TEMPLATE.encode(), *WISHES), (InputError,), FILE, True),
    Target("wishes-edited-text", "text", _edited_wishes, lambda: WISHES, (InputError,), FILE, True),
    Target("lock", "toml", _lock, lambda: (LOCK,), _LOCK_ERRORS, LOCK_FILE, True),
    Target("lock-text", "text", _lock, lambda: (LOCK,), _LOCK_ERRORS, LOCK_FILE),
    Target("record", "json", _record, lambda: (RECORD,)),
    Target("uv-errors", "text", _uv_errors, lambda: ERRORS, slow=True),
    Target("uv-config", "toml", _uv_config, lambda: UV_FILES, (InputError,), str(scratch() / "project" / "uv.toml")),
    Target("uv-config-text", "text", _uv_config, lambda: UV_FILES, (InputError,), str(scratch() / "project/uv.toml")),
    Target("pip-config", "text", _pip_config, lambda: PIP_FILES, (InputError,)),
    Target("source-settings", "text", _environment, lambda: SETTINGS, (InputError,)),
    Target("source-wishes", "text", _wished_sources, lambda: (_URLS,), (InputError,)),
    Target("index-pages", "text", _pages, lambda: PAGES, slow=True),
    Target("index-pages-json", "json", _pages, lambda: _JSON_PAGES, slow=True),
    Target("index-client", "json", _index, lambda: _JSON_PAGES, slow=True),
    Target("index-client-text", "text", _index, lambda: PAGES, slow=True),
    Target("redaction", "text", _redact, lambda: ERRORS),
    Target("environment-names", "text", _names, lambda: (b"bnb", b"bnb-2_x"), (InputError,), FILE),
)
