"""What people wish for: bnbenv.toml, read strictly and edited without losing their comments."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from bnbenv.decode import convert, read_toml, shown
from bnbenv.envs.project import CONFIG, DEFAULT_ENV, Project, check_env_name
from bnbenv.errors import InputError
from bnbenv.paths import write_atomically
from bnbenv.redact import redact
from bnbenv.solve.model import KEEP, Current, FamilyName, Request
from bnbenv.solve.situation import read_gpus
from bnbenv.solve.versions import read_specifier

UPSTREAM = "upstream"  # as the source of builds: the repository of bitsandbytes itself
ENV_NAMES = {"bitsandbytes": DEFAULT_ENV, "gptq": "gptq", "awq": "awq", "none": "torch"}  # by family, unless told
LARGEST = 1 << 20  # bytes; tomllib takes minutes for some texts of more


_OTHERWISE = "Correct it, or move it away: bnbenv init then writes a new one."


class EnvWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One environment. ``gpus`` is "all", or indices and UUIDs; ``torch`` a specifier, or "keep": that which is there.

    ``package`` names the package that a family other than bitsandbytes is about, as a requirement; empty: its first.
    ``bitsandbytes`` is for that family alone.

    ``guard``: the environment itself says that it was changed behind its lock; nothing is solved anew for that.
    """

    family: FamilyName = "bitsandbytes"
    package: str = ""
    python: str = ">=3.10"
    torch: str = "*"
    bitsandbytes: str = "*"
    requirements: tuple[str, ...] = ()
    gpus: str | list[str | int] = "all"
    backend: Literal["auto", "cuda", "cpu"] = "auto"
    guard: bool = False


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prefer: Literal["newest", "minimal-change"] = "newest"
    build: Literal["auto", "never", "always"] = "auto"
    mix: bool = False


class SourcesWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """``[sources]``. Folders may be relative to bnbenv.toml, and may begin with ``~``.

    ``bitsandbytes_source`` is what source builds compile: ``upstream``'s repository, or a git URL, a folder, a tarball.
    """

    indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    bitsandbytes_source: str = UPSTREAM


class Wishes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of bnbenv.toml; without a file, one bitsandbytes environment with the defaults."""

    envs: dict[str, EnvWish] = {}
    policy: Policy = Policy()
    sources: SourcesWish = SourcesWish()

    def digest(self, env: str) -> str:
        """What the solution of one environment depends on; comments and other environments do not change it."""
        wish = msgspec.structs.asdict(self.envs[env])
        del wish["guard"]
        if not wish["package"]:  # as below
            del wish["package"]
        sources = msgspec.to_builtins(self.sources)
        if self.sources.bitsandbytes_source == UPSTREAM:  # a lock of before there was this key keeps its digest
            del sources["bitsandbytes-source"]
        relevant = (wish, self.policy, sources)
        return hashlib.sha256(msgspec.json.encode(relevant)).hexdigest()

    def request(self, env: str, file: str = CONFIG, current: Current | None = None) -> Request:
        """The solver's request. Raises InputError for a specifier that cannot be read."""
        wish, where = self.envs[env], f"envs.{env}"
        return Request(
            torch=read_torch(wish.torch, file, f"{where}.torch"),
            bitsandbytes=read_specifier(wish.bitsandbytes, file, f"{where}.bitsandbytes"),
            python=read_specifier(wish.python, file, f"{where}.python"),
            gpus=read_gpus(wish.gpus, file, f"{where}.gpus"),
            backend=wish.backend,
            build=self.policy.build,
            prefer=self.policy.prefer,
            current=current,
            family=wish.family,
            package=wish.package,
        )


def read_torch(text: str, file: str, where: str) -> str:
    """The wish for the torch of an environment: a specifier, or ``keep``. Raises InputError."""
    if text.strip() == KEEP:
        return KEEP
    return read_specifier(text, file, where)


def load_wishes(project: Project) -> Wishes:
    """The project's wishes; the defaults where there is no file. Raises InputError."""
    try:
        data = project.config.read_bytes()
    except FileNotFoundError:
        if project.config.is_symlink():
            raise InputError(str(project.config), "", "this link leads nowhere", _OTHERWISE) from None
        return Wishes(envs={DEFAULT_ENV: EnvWish()})
    except OSError as error:
        raise InputError(str(project.config), "", f"cannot be read ({error.strerror})", _OTHERWISE) from None
    return decode_wishes(data, str(project.config))


def as_wished(project: Project, env: str, wished: str) -> tuple[str | None, list[str]] | None:
    """The digest of bnbenv.toml's bytes (None: no file) and the environments in it.

    None where it does not ask for that of which ``wished`` is the digest: somebody edits it while a sync is under way.
    """
    try:
        data = project.config.read_bytes() if project.config.exists() else None
        wishes = load_wishes(project) if data is None else decode_wishes(data, str(project.config))
    except (OSError, InputError):
        return None
    if env not in wishes.envs or wishes.digest(env) != wished:
        return None
    return None if data is None else hashlib.sha256(data).hexdigest(), list(wishes.envs)


def decode_wishes(data: bytes, file: str) -> Wishes:
    """Read bnbenv.toml strictly. Raises InputError with the line or the path in it and what was expected."""
    if len(data) > LARGEST:
        raise InputError(file, "", f"expected a few lines of TOML, found {len(data) >> 20} MB", _OTHERWISE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(file, f"byte {error.start}", "expected UTF-8 text", _OTHERWISE) from None
    wishes = convert(read_toml(text, file), Wishes, file)
    if not wishes.envs:
        wishes = msgspec.structs.replace(wishes, envs={DEFAULT_ENV: EnvWish()})
    for name in wishes.envs:
        _check_env(wishes, name, file)
    _check_sources(wishes.sources, file)
    return wishes


def _check_sources(sources: SourcesWish, file: str) -> None:
    """An address is one that can be asked; what has no scheme is a folder (a single letter is a drive of Windows)."""
    for key, places in (("indexes", sources.indexes), ("find-links", sources.find_links)):
        for position, place in enumerate(places):
            scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", place)
            if not place.strip() or (scheme and scheme[1].lower() not in ("http", "https", "file")):
                found = shown(redact(place))
                expected = f'expected a folder or an address such as "https://host/simple", found "{found}"'
                raise InputError(file, f"sources.{key}[{position}]", expected)
    given = sources.bitsandbytes_source
    if not given.strip() or not given.isprintable() or given.startswith("-"):
        expected = f'expected "{UPSTREAM}", a git URL, a folder or a tarball, found "{shown(redact(given))}"'
        raise InputError(file, "sources.bitsandbytes-source", expected)


def _check_env(wishes: Wishes, name: str, file: str) -> None:
    from packaging.requirements import Requirement

    wish = wishes.envs[name]
    check_env_name(name, file, "envs")
    wishes.request(name, file)
    if wish.family == "bitsandbytes" and not wish.package and not wish.requirements:
        return
    from bnbenv.envs.families import check_package, check_requirement
    from bnbenv.matrix.load import load_families

    families = load_families()
    if wish.package:
        check_package(wish.package, wish.family, families, file, f"envs.{name}.package")
    if wish.family != "bitsandbytes" and wish.bitsandbytes != "*":
        expected = f'expected nothing: "bitsandbytes" is for its own family, and this one is {wish.family}'
        raise InputError(file, f"envs.{name}.bitsandbytes", expected, "Take the line out, or set family = ...")
    for position, text in enumerate(wish.requirements):
        where = f"envs.{name}.requirements[{position}]"
        try:
            requirement = Requirement(text)
        except ValueError:
            found = shown(text)
            raise InputError(file, where, f'expected a requirement such as "peft>=0.14", found "{found}"') from None
        if requirement.name.lower() == "torch":
            raise InputError(file, where, f'expected no {requirement.name}: set "torch = ..." instead')
        check_requirement(requirement.name, wish.family, wishes.policy.mix, families, file, where)


TEMPLATE = """\
# What bnbenv should make and keep working. Every line that begins with "#" shows a default.
# After a change: bnbenv plan (what would happen), bnbenv sync (do it).

[envs.bnb]                       # the environment .venv-bnb; any name will do
# family = "bitsandbytes"        # what it is for; bnbenv add gptq (awq, none) makes another one beside it
# package = ""                   # of gptq and awq: which one, such as "gptqmodel>=7" or "autoawq[kernels]"
# python = ">=3.10"              # which Pythons may be used
# torch = "*"                    # a version or specifier, such as "2.9.1" or ">=2.8,<2.11"; or "keep"
# bitsandbytes = "*"             # likewise
# requirements = []              # what else, such as ["transformers", "accelerate", "peft"]:
                                 # with these sync also loads, runs and trains a small quantized model
# gpus = "all"                   # or indices [0, 1], or UUIDs ["GPU-..."]
# backend = "auto"               # or "cuda", or "cpu"
# guard = false                  # true: it says itself when pip changed torch or bitsandbytes (bnbenv guard)

[policy]
# prefer = "newest"              # or "minimal-change": keep what is there as long as it works
# build = "auto"                 # compile bitsandbytes where no wheel fits; or "never", or "always"
# mix = false                    # true: packages of several families in one environment, with a warning

[sources]
# indexes = []                   # package indexes beside those that uv and pip are set up with
# find-links = []                # folders of wheels
# bitsandbytes-source = "upstream"  # what a source build compiles; or a git URL, a folder, a tarball
"""


def edited(
    project: Project, env: str, changes: dict[str, Any], policy: Mapping[str, str] = {}, alone: bool = False
) -> str:
    """The text of bnbenv.toml with values of one environment and of the policy set, and all else as people wrote it.

    It has been read as wishes before. Where there is none, one is begun, with ``alone`` for this environment only. One
    that names no environment means the default one, which is named then as well, but for ``alone``. Raises OSError.
    """
    import tomlkit

    try:
        text = project.config.read_bytes().decode("utf-8-sig")  # line ends stay as they are
    except FileNotFoundError:
        text = TEMPLATE
        if alone:
            text = text.replace("[envs.bnb] ", f"[envs.{env}] ", 1).replace(".venv-bnb;", f".venv-{env};", 1)
    document = tomlkit.parse(text)
    new = False
    if changes:
        envs = document.setdefault("envs", tomlkit.table(is_super_table=True))
        inline = isinstance(envs, tomlkit.items.InlineTable)
        for name in (env,) if envs or alone else dict.fromkeys((DEFAULT_ENV, env)):
            if name not in envs:
                envs[name] = tomlkit.inline_table() if inline else tomlkit.table()
        new = not envs[env] and not inline
        envs[env].update(changes)
        if new:
            envs[env].add(tomlkit.nl())  # what follows begins after an empty line
    if policy:
        document.setdefault("policy", tomlkit.table()).update(policy)
    edited = tomlkit.dumps(document)
    return edited[:-1] if new and edited.endswith("\n\n") and not text.endswith("\n\n") else edited


def write_template(path: Path) -> None:
    """Write the commented default bnbenv.toml. Raises OSError."""
    write_atomically(path, TEMPLATE)
