"""The real engine: Ansible, run as a program on playbooks of the collection. How hosts are reached is its business."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bnbenv.errors import Failed, InputError, UsageError
from bnbenv.fleet.desk import Follower, digest, private_folder, text_of, write_jobs, write_passwords
from bnbenv.fleet.events import APPLIED, LARGEST, Event, bootstrapped, report_of, result_of
from bnbenv.fleet.model import Delivery, HostReport, HostResult, Job, Told
from bnbenv.fleet.options import (
    APPLY_TIMEOUT,
    ASK_TIMEOUT,
    FORKS,
    Config,
    Options,
    environment,
    inventory_words,
    own_ssh,
    read_config,
    to_ask,
    vault_words,
    words_for,
)
from bnbenv.fleet.sentences import of_ansible, warnings_of
from bnbenv.paths import expand
from bnbenv.process import Command, Finished, Runner

COLLECTIONS = Path(__file__).parent  # holds ansible_collections/
LISTING = 600.0  # seconds for an inventory: one of a cloud asks its interfaces
SLACK = 120.0  # seconds beyond the time limits of the hosts
STEPS = {"Copy the bundle": "copying the bundle", "Load the bundle": "loading the bundle", APPLIED: "installing"}

NAME_ONE = "Name one with -i: a file, a folder, a script, or host1,host2, with a comma."

AskPassword = Callable[[str], str]


class AnsibleEngine:
    """Implements ``model.Engine``. ``ask_password`` is given a prompt, and raises UsageError where nobody is there."""

    def __init__(
        self, options: Options, environ: Mapping[str, str], cwd: Path, runner: Runner, ask_password: AskPassword
    ) -> None:
        self._options, self._environ, self._cwd, self._runner = options, environ, cwd, runner
        self._ask_password = ask_password
        self._known: tuple[Path, Config, dict[str, str]] | None = None
        self._hosts: tuple[str, ...] | None = None
        self._locale: dict[str, str] = {}

    def hosts(self) -> tuple[str, ...]:
        """The hosts of the inventory, after its limits, in its order. Raises InputError, Failed, UsageError."""
        if self._hosts is None:
            self._hosts = self._list()
        return self._hosts

    def ask(self, hosts: Sequence[str], told: Told) -> dict[str, HostReport]:
        """One report for each of these hosts. Raises Failed, InputError where Ansible did not begin."""
        reports: dict[str, HostReport] = {}

        def take(event: Event) -> None:
            report = report_of(event)
            if report is not None and report.name in wanted and report.name not in reports:
                reports[report.name] = report
                told(report.name, report.because or "answered")

        wanted = set(hosts)
        ended = self._play("desk_ask", hosts, {}, take, self._options.timeout or ASK_TIMEOUT)
        for host in hosts:
            if host not in reports:
                because = f"it gave no answer before Ansible ended ({ended.because})"
                reports[host] = HostReport(host, "failed", None, because)
        return {host: reports[host] for host in hosts}

    def bootstrap(self, hosts: Sequence[str], bundle: str, told: Told) -> dict[str, HostResult]:
        """Install bnbenv on bare hosts out of a bundle. Raises Failed, InputError where Ansible did not begin."""
        failures: dict[str, Event] = {}
        numbers: dict[str, dict[str, int]] = {}

        def take(event: Event) -> None:
            if event.event in ("failed", "unreachable"):
                failures.setdefault(event.host, event)
            elif event.event == "began" and event.task.startswith(("Bring ", "Install into ")):
                told(event.host, event.task[:1].lower() + event.task[1:])
            numbers.update(event.hosts)

        variables = {"bootstrap_bundle": str(Path(bundle).absolute()), "bootstrap_sha256": digest(Path(bundle))}
        ended = self._play("desk_bootstrap", hosts, variables, take, self._options.timeout or APPLY_TIMEOUT)
        return {
            host: bootstrapped(failures.get(host), numbers.get(host), host)
            or HostResult(host, "failed", f"Ansible ended before it was done ({ended.because})")
            for host in hosts
        }

    def apply(self, jobs: Sequence[Job], delivery: Delivery, told: Told) -> dict[str, HostResult]:
        """Bring each host to its content. Raises Failed, InputError where Ansible did not begin."""
        results: dict[str, HostResult] = {}
        began: set[str] = set()

        def take(event: Event) -> None:
            result = result_of(event)
            if result is not None and result.host in wanted and result.host not in results:
                results[result.host] = result
                told(result.host, f"{result.state}: {result.because}" if result.because else result.state)
            elif event.event == "began" and event.task in STEPS:
                if event.task == APPLIED:
                    began.add(event.host)
                told(event.host, STEPS[event.task])

        wanted = {job.host for job in jobs}
        variables = {"bnbenv_desk_how": delivery.how, "bnbenv_desk_place": delivery.place.rstrip("/") or "/"}
        names = [job.host for job in jobs]
        ended = self._play("desk_apply", names, variables, take, self._options.timeout or APPLY_TIMEOUT, jobs)
        for host in names:
            if host not in results:
                state, said = ("unreachable", "while it was at work") if host in began else ("not-tried", "before")
                results[host] = HostResult(host, state, f"Ansible ended {said} ({ended.because})")  # type: ignore[arg-type]
        return {host: results[host] for host in names}

    def _list(self) -> tuple[str, ...]:
        programs, config, passwords = self._begin()
        options = self._options
        with private_folder(self._environ) as folder:
            files = write_passwords(folder, passwords)
            words = [*inventory_words(options), *vault_words(options, files)]
            words += ["--limit", options.limit] if options.limit is not None else []
            env = environment(config, COLLECTIONS, files)
            done = self._run([str(programs / "ansible"), "all", "--list-hosts", *words], LISTING, env)
        if not done.ok:
            raise self._unreadable(done)
        hosts = tuple(line[4:] for line in done.stdout.splitlines() if line.startswith("    "))
        if not hosts:
            raise InputError(self._inventory(config), "", "it holds no hosts", NAME_ONE)
        return hosts

    def _inventory(self, config: Config) -> str:
        """How errors call the inventory."""
        given = self._options.inventories or config.lists("DEFAULT_HOST_LIST") or ("/etc/ansible/hosts",)
        return ", ".join(given)

    def _unreadable(self, done: Finished) -> InputError | Failed:
        """Why the hosts could not be listed, in Ansible's own words."""
        if done.timed_out:
            return Failed("ansible-hung", f"Ansible did not list the inventory's hosts in {LISTING:.0f} seconds")
        said, warnings = of_ansible(done.stderr), warnings_of(done.stderr)
        if "no hosts to target" in said and self._options.limit is not None:
            return InputError("--limit", "", f'no host of the inventory fits "{self._options.limit}"')
        config = self._begin()[1]
        for one in self._options.inventories:
            if "," not in one and not (self._cwd / expand(one)).exists():
                return InputError(one, "", "there is no such file or folder", NAME_ONE)
        step = NAME_ONE if not warnings else ""
        error = InputError(self._inventory(config), "", said or "Ansible cannot read it", step)
        error.detail = "\n".join(warnings)
        return error

    def _begin(self) -> tuple[Path, Config, dict[str, str]]:
        """Where Ansible's programs are, what it is set to, and the passwords; looked for and asked for once."""
        if self._known is None:
            programs = find_programs(self._environ)
            config = read_config(self._dump(programs))
            text = text_of(config.file)
            config = Config(config.settings, config.file, own_ssh(text, self._environ))
            asked = to_ask(self._options, config)
            self._known = programs, config, {kind: self._ask_password(prompt) for kind, prompt in asked.items()}
        return self._known

    def _dump(self, programs: Path) -> object:
        """What Ansible is set to. Raises InputError for an ansible.cfg, Failed where Ansible itself is broken."""
        dump = [str(programs / "ansible-config"), "dump", "--only-changed", "--format", "json"]
        done = self._run(dump, 60.0, {"ANSIBLE_VERBOSITY": "0"})  # else it says more than the document
        if not done.ok and "locale" in done.stderr:  # it wants one that is UTF-8 and that is here
            self._locale = {"LC_ALL": "C.UTF-8"}
            done = self._run(dump, 60.0, {"ANSIBLE_VERBOSITY": "0"})
        try:
            return json.loads(done.stdout)
        except (ValueError, RecursionError):
            said = of_ansible(done.stderr)
        if not said or "unrecognized arguments" in said:
            message = f"{dump[0]} does not run, or is older than {OLDEST} ({said or _how(done)})"
            raise Failed("no-ansible", message, INSTALL, done.stderr[-4000:])
        raise InputError("Ansible's configuration", "", said)

    def _play(
        self,
        playbook: str,
        hosts: Sequence[str],
        variables: Mapping[str, Any],
        take: Callable[[Event], None],
        timeout: int,
        jobs: Sequence[Job] = (),
    ) -> _Ended:
        """Run a playbook for these hosts, and give ``take`` what happens while it does."""
        if not hosts:
            return _Ended("")
        programs, config, passwords = self._begin()
        forks = self._options.forks or config.settings.get("DEFAULT_FORKS") or FORKS
        with private_folder(self._environ) as folder:
            files = write_passwords(folder, passwords)
            limit, vars_file, events = folder / "hosts", folder / "variables.json", folder / "events"
            limit.write_text("".join(f"{host}\n" for host in hosts), encoding="utf-8")
            more = {"bnbenv_desk_project": self._options.project, "bnbenv_desk_timeout": timeout, **variables}
            if jobs:
                more["bnbenv_desk_jobs"] = str(write_jobs(folder, jobs))
            vars_file.write_text(json.dumps(more), encoding="utf-8")
            events.touch()
            words = [*words_for(self._options, files), "--forks", str(forks)]
            words += ["--limit", f"@{limit}", "--extra-vars", f"@{vars_file}", f"bnbenv.fleet.{playbook}"]
            env = environment(config, COLLECTIONS, files)
            env |= {"BNBENV_DESK_EVENTS": str(events), "BNBENV_DESK_LARGEST": str(LARGEST)}
            # Tags choose how bundles travel; those of an ansible.cfg are about other playbooks.
            env |= {"ANSIBLE_RUN_TAGS": variables.get("bnbenv_desk_how", "all"), "ANSIBLE_SKIP_TAGS": "bnbenv-none"}
            rounds = -(-len(hosts) // int(forks))
            with Follower(events, take, files.values()) as follower:
                done = self._run(
                    [str(programs / "ansible-playbook"), *words],
                    rounds * len(STEPS) * timeout + SLACK,
                    env,
                    lambda *_: follower.follow(),
                )
        return self._ended(done, follower)

    def _ended(self, done: Finished, follower: Follower) -> _Ended:
        said = of_ansible(done.stderr)
        if done.timed_out:
            return _Ended("it took longer than all time limits together")
        how = said or _how(done)
        if not follower.results and (not follower.started or said):
            if re.search("(?i)decrypt|vault", said):
                step = "Give its password: --vault-password-file FILE, --vault-id NAME@FILE, or -J to be asked."
                raise InputError(self._inventory(self._begin()[1]), "", said, step)
            step = "Run it with -v to see how Ansible was called."
            raise Failed("ansible-failed", f"Ansible asked no host: {how}", step, done.stderr[-4000:])
        return _Ended(how)

    def _run(
        self,
        argv: Sequence[str],
        timeout: float,
        env: Mapping[str, str | None],
        watch: Callable[[int, str, str], None] | None = None,
    ) -> Finished:
        try:
            return self._runner.run(Command(tuple(argv), timeout, {**env, **self._locale}, str(self._cwd), None, watch))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise Failed("no-ansible", f"{argv[0]} cannot be started ({reason})", INSTALL) from None


OLDEST = "2.17"  # as the extra in pyproject.toml says
INSTALL = f"Install it beside bnbenv: {shlex.quote(sys.executable)} -m pip install 'bnbenv[fleet]'"


class _Ended(NamedTuple):
    because: str


def _how(done: Finished) -> str:
    """How a program ended that gave no reason."""
    if done.timed_out:
        return "it took too long"
    return done.signal_name or f"exit code {done.returncode}"


def find_programs(environ: Mapping[str, str], python: str = sys.executable, system: str = os.name) -> Path:
    """The folder of ansible-playbook: that of ``python``, else the first on PATH. Raises Failed, UsageError."""
    if system == "nt":
        message = "Ansible runs on Linux and macOS, not on Windows"
        raise UsageError("no-windows-desk", message, "Run bnbenv fleet inside WSL.")
    places = os.pathsep.join((str(Path(python).parent), environ.get("PATH", os.defpath)))
    found = shutil.which("ansible-playbook", path=places)
    if found is None:
        raise Failed("no-ansible", "there is no ansible-playbook on this machine", INSTALL)
    return Path(found).parent
