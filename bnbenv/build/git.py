"""git, asked without prompts: what a repository has, one commit of it as a tar file, and how a work tree stands.

No hook runs, no submodule is followed, and an address is no option or command. Credentials in addresses go to git in
its environment, which other users cannot read, and not on its command line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bnbenv.build.advice import package_manager
from bnbenv.build.files import MOST_BYTES, MOST_FILES
from bnbenv.build.giterrors import explain, is_missing, is_no_shallow
from bnbenv.build.refs import Refs, is_commit, parse_refs
from bnbenv.errors import Failed, UsageError
from bnbenv.paths import Sysroot
from bnbenv.process import Command, Finished, Runner, Watch
from bnbenv.progress import Progress
from bnbenv.redact import redact, secrets_of, without_userinfo

QUICK = 15.0  # seconds for a question
LONG = 900.0  # seconds for a fetch; one that stands still ends long before
PROTOCOLS = ("https", "http", "ssh", "file")

_SCP = re.compile(r"(?:[\w.+-]{1,64}@)?(?:[\w.-]{1,255}|\[[0-9a-fA-F:]{2,45}\]):(?!//)[^\s:]\S{0,1024}")
_PERCENT = re.compile(r"(?:Receiving|Counting|Resolving)[^:\r\n]{0,40}:\s{0,3}(\d{1,3})%")
# Line ends as the tree itself wants them; no filter runs (git before 2.32 knows no GIT_CONFIG_GLOBAL), and nothing is
# left out of the archive or filled in.
_ATTRIBUTES = "* -filter -export-ignore -export-subst\n"
# A hook, a pager, an editor or a prompt of the user's configuration has no place here.
_OPTIONS = (
    *("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.askPass=", "-c", "gc.auto=0"),
    *("-c", "maintenance.auto=false", "-c", "fetch.recurseSubmodules=false", "-c", "submodule.recurse=false"),
    *("-c", "protocol.version=2", "-c", "fetch.writeCommitGraph=false", "-c", "core.autocrlf=false"),
    *("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=30", "-c", "advice.detachedHead=false"),
)
_KEPT = ("GIT_SSH", "GIT_SSL_", "GIT_PROXY_", "GIT_CONFIG_", "GIT_EXEC_PATH", "GIT_HTTP_", "GIT_CREDENTIAL_")
_PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")
_INSTALL = {
    "apt": "apt-get install",
    "dnf": "dnf install",
    "zypper": "zypper install",
    "pacman": "pacman -S",
    "apk": "apk add",
}


def looks_remote(text: str) -> bool:
    """Whether a source names a repository elsewhere: an address, or ``git@host:path`` as ssh writes it."""
    return "://" in text or "::" in text or (_SCP.fullmatch(text) is not None and not re.match(r"[A-Za-z]:[\\/]", text))


def check_address(text: str) -> None:
    """Refuse addresses that are options or commands to git. Raises UsageError ``bad-source``."""
    shown = redact(text)[:200]
    step = "An address begins with https://, ssh:// or file://, or is like git@host:path."
    if re.match(r"[A-Za-z0-9+.-]*::", text):
        raise UsageError("bad-source", f'"{shown}" would run a program of its own: such addresses are not taken', step)
    if text.startswith("-") or re.search(r"[\x00-\x20\x7f]", text):
        raise UsageError("bad-source", f'"{shown}" is no address', step)
    if "://" not in text:
        return
    scheme = text.partition("://")[0].lower().removeprefix("git+")
    if scheme not in PROTOCOLS:
        raise UsageError("bad-source", f'"{shown}": git is asked by {", ".join(PROTOCOLS)}, not by "{scheme}"', step)
    try:
        host = urlsplit(text.removeprefix("git+")).hostname or ""
    except ValueError:
        raise UsageError("bad-source", f'"{shown}" is no address', step) from None
    if scheme != "file" and (not host or host.startswith("-")):
        raise UsageError("bad-source", f'"{shown}" names no host', step)


@dataclass(frozen=True)
class Git:
    """git for one source. ``address`` is what it is asked for, ``asked`` how errors call it (without credentials)."""

    runner: Runner
    environ: Mapping[str, str]
    sysroot: Sysroot
    address: str = field(repr=False)
    asked: str

    def refs(self, limit: float = QUICK) -> Refs:
        """What the repository has. Raises as ``giterrors.explain`` says, and Failed ``no-git``."""
        url, env = self._hidden()
        done = self._run(("ls-remote", "--quiet", "--", url), limit, env)
        if not done.ok:
            raise explain(done, self.asked, secrets_of((self.address,)))
        return parse_refs(done.stdout)

    def take(self, wanted: str, folder: Path, progress: Progress, what: str) -> tuple[str, Path]:
        """One commit as a tar file in a folder, with its id. ``wanted`` is a full name or a (begun) commit id.

        The folder may be thrown away as soon as the file is moved out of it. Raises also UsageError ``no-such-ref``.
        """
        place = folder / "git"
        self._own(("init", "--quiet", "--bare", "--template=", str(place)))
        (place / "info").mkdir(exist_ok=True)
        (place / "info" / "attributes").write_text(_ATTRIBUTES)
        whole = wanted.startswith("refs/") or wanted == "HEAD" or is_commit(wanted)
        done = self._fetch(place, wanted, progress, what) if whole else None
        if done is None or (not done.ok and is_missing(done) and is_commit(wanted)):
            # A commit's beginning can be looked up only here, and not every server gives what no branch points to.
            done = self._fetch_all(place, progress, what)
            wanted = f"{wanted}^{{commit}}"
        else:
            wanted = "refs/wanted^{commit}"
        if not done.ok:
            raise self._no_such(wanted) if is_missing(done) else explain(done, self.asked, secrets_of((self.address,)))
        found = self._own(("rev-parse", "--verify", "--quiet", wanted), place, may_fail=True)
        commit = found.stdout.strip()
        if not found.ok or not is_commit(commit):
            raise self._no_such(wanted)
        self._check_size(place, commit)
        tar = folder / "tree.tar"
        self._own(("archive", "--format=tar", "-o", str(tar), commit), place)
        return commit, tar

    def _no_such(self, wanted: str) -> UsageError:
        name = wanted.removesuffix("^{commit}")
        message = f"{self.asked} has no commit {name}"
        return UsageError("no-such-ref", message, "Name a tag, a branch, or the id of a commit that a branch leads to.")

    def _fetch(self, place: Path, wanted: str, progress: Progress, what: str) -> Finished:
        """The commit alone; with its history where the far end cannot cut it off."""
        spec = f"+{wanted}:refs/wanted"
        done = self._fetch_specs(place, ("--depth=1",), (spec,), progress, what)
        if not done.ok and is_no_shallow(done):
            done = self._fetch_specs(place, (), (spec,), progress, what)
        return done

    def _fetch_all(self, place: Path, progress: Progress, what: str) -> Finished:
        return self._fetch_specs(place, (), ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"), progress, what)

    def _fetch_specs(
        self, place: Path, options: tuple[str, ...], specs: tuple[str, ...], progress: Progress, what: str
    ) -> Finished:
        url, env = self._hidden()
        words = ("fetch", "--progress", "--no-tags", "--no-recurse-submodules", "--update-shallow", *options)
        return self._run((*words, "--", url, *specs), LONG, env, place, _watch(progress, what))

    def _check_size(self, place: Path, commit: str) -> None:
        """Before anything of it is written: a tree that cannot be bitsandbytes' is not unpacked."""
        listed = self._own(("ls-tree", "-r", "-l", "-z", "--full-tree", commit), place).stdout.split("\0")
        sizes = [
            int(parts[3]) for line in listed if len(parts := line.partition("\t")[0].split()) == 4 and parts[3] != "-"
        ]
        if len(sizes) > MOST_FILES or sum(sizes) > MOST_BYTES:
            message = (
                f"{self.asked} holds {len(sizes)} files of {sum(sizes) >> 20} MB: no source of bitsandbytes is so large"
            )
            raise UsageError("source-too-large", message, "Name a repository of bitsandbytes.")

    def head_if_clean(self, folder: Path, copy: Path) -> str | None:
        """The commit of a work tree, where the copy that was made of it is that commit; None else, or without git.

        A file that no commit has does not count if the copy does not have it. The index is not rewritten: nothing in a
        folder of the user's is touched.
        """

        def ask(*words: str) -> Finished:
            return self._run(("-C", str(folder), *words), QUICK, {"GIT_OPTIONAL_LOCKS": "0"})

        try:
            top = ask("rev-parse", "--show-toplevel", "--verify", "HEAD")
            lines = top.stdout.splitlines()
            if not top.ok or len(lines) != 2 or not _same(Path(lines[0]), folder):
                return None
            words = ("--porcelain", "-z", "--untracked-files=normal", "--ignored=traditional", "--no-renames")
            status = ask("status", *words, "--ignore-submodules=none")
        except Failed:  # no git: the digest says all the same what is compiled
            return None
        if not status.ok:
            return None
        for line in status.stdout.split("\0"):
            if line and not (line[:2] in ("??", "!!") and not os.path.lexists(copy / line[3:])):
                return None
        return lines[1] if is_commit(lines[1]) else None

    def _hidden(self) -> tuple[str, dict[str, str | None]]:
        """The address without its credentials, and an environment in which git puts them back."""
        clean = without_userinfo(self.address)
        env: dict[str, str | None] = {}
        if "://" not in self.address or self.address.startswith("ssh://"):
            return self.address, self._ssh() if looks_remote(self.address) else env
        env |= self._certificates()
        if clean == self.address:
            return self.address, env
        count = self.environ.get("GIT_CONFIG_COUNT", "")
        number = int(count) if count.isdigit() else 0
        env["GIT_CONFIG_COUNT"] = str(number + 1)
        env[f"GIT_CONFIG_KEY_{number}"] = f"url.{self.address}.insteadOf"
        env[f"GIT_CONFIG_VALUE_{number}"] = clean
        return clean, env

    def _certificates(self) -> dict[str, str | None]:
        """Those that uv and requests take, unless git has its own: it does not look at SSL_CERT_FILE."""
        names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        file = next((self.environ[name] for name in names if self.environ.get(name)), "")
        if not self.address.startswith("https:") or "GIT_SSL_CAINFO" in self.environ or not Path(file).is_file():
            return {}
        named = self._run(("config", "--get-urlmatch", "http.sslCAInfo", without_userinfo(self.address)), QUICK, {})
        return {} if named.stdout.strip() else {"GIT_SSL_CAINFO": file}

    def _ssh(self) -> dict[str, str | None]:
        """ssh as the user has it for git, though it asks nothing."""
        command = self.environ.get("GIT_SSH_COMMAND")
        if command is None and "GIT_SSH" not in self.environ:
            command = self._run(("config", "--get", "core.sshCommand"), QUICK, {}).stdout.strip() or "ssh"
        program = (command or "").split()[:1]
        if not program or Path(program[0]).name != "ssh":  # another program has other options
            return {}
        return {"GIT_SSH_COMMAND": f"{command} -oBatchMode=yes -oConnectTimeout=10"}

    def _own(self, words: tuple[str, ...], place: Path | None = None, may_fail: bool = False) -> Finished:
        """A question to a repository of bnbenv's own, for which the user's configuration counts nothing."""
        alone: dict[str, str | None] = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        alone["GIT_ATTR_NOSYSTEM"] = "1"
        done = self._run(("-c", f"core.attributesFile={os.devnull}", *words), LONG, alone, place)
        if not done.ok and not may_fail:
            raise explain(done, self.asked, secrets_of((self.address,)))
        return done

    def _run(
        self,
        words: tuple[str, ...],
        limit: float,
        env: Mapping[str, str | None],
        place: Path | None = None,
        watch: Watch | None = None,
    ) -> Finished:
        where = ("--git-dir", str(place)) if place else ()
        changes = {**_environment(self.environ), **env}
        command = Command(("git", *_OPTIONS, *where, *words), limit, changes, watch=watch)
        try:
            return self.runner.run(command)
        except FileNotFoundError:
            raise no_git(self.sysroot) from None


def no_git(sysroot: Sysroot) -> Failed:
    """git is not installed."""
    manager = package_manager(sysroot.read("/etc/os-release") or "")
    install = f" (sudo {_INSTALL[manager]} git)" if manager else ""
    message = "git is not installed, and the source lies in a repository"
    return Failed("no-git", message, f"Install git{install}, or name a folder or tarball with --source.")


def _environment(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Changes for every call: nobody can be asked, and where bnbenv runs in a git hook its repository is not meant."""
    changes: dict[str, str | None] = {}
    for name in environ:
        if name.startswith("GIT_") and not name.startswith(_KEPT):
            changes[name] = None
    changes |= {name: environ[name] for name in _PROXIES if name in environ}  # pip's, where it is pip that has one
    changes |= {"LC_ALL": "C", "LANGUAGE": "", "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "SSH_ASKPASS": None}
    changes |= {"SSH_ASKPASS_REQUIRE": "never", "GCM_INTERACTIVE": "never", "GIT_LFS_SKIP_SMUDGE": "1"}
    changes |= {"GIT_ALLOW_PROTOCOL": ":".join(PROTOCOLS), "GIT_PAGER": "cat", "GIT_NO_REPLACE_OBJECTS": "1"}
    return changes


def _watch(progress: Progress, what: str) -> Watch:
    def watch(_: int, __: str, err: str) -> None:
        found = _PERCENT.findall(err[-400:])
        progress.at(f"{what}: {found[-1]} %" if found else what)

    return watch


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
