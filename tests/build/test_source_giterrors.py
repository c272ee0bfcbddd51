"""What git says when it fails: the right exit code, one sentence, the next step."""

from __future__ import annotations

import pytest

from bnbenv.build.giterrors import explain
from bnbenv.process import Command, Finished


@pytest.mark.parametrize(
    ("text", "code", "exit_code"),
    [
        ("fatal: unable to access 'https://h/x/': Could not resolve host: h", "source-unreachable", 7),
        (
            "fatal: unable to access 'https://h/x/': SSL certificate problem: unable to get local",
            "source-unreachable",
            7,
        ),
        (
            "ssh: connect to host h port 22: Connection timed out\nfatal: Could not read from remote",
            "source-unreachable",
            7,
        ),
        ("error: RPC failed; curl 92\nfatal: early EOF", "source-unreachable", 7),
        ("Host key verification failed.\nfatal: Could not read from remote repository.", "source-unreachable", 7),
        ("git@h: Permission denied (publickey).\nfatal: Could not read from remote", "access-refused", 7),
        ("fatal: could not read Username for 'https://h': terminal prompts disabled", "access-refused", 7),
        ("remote: Repository not found.\nfatal: repository 'https://h/x/' not found", "not-a-repository", 2),
        ("fatal: '/x' does not appear to be a git repository", "not-a-repository", 2),
        ("fatal: detected dubious ownership in repository at '/srv/x'", "git-failed", 1),
        ("fatal: write error: No space left on device\nfatal: fetch-pack: invalid index-pack output", "no-space", 1),
        ("something else entirely", "git-failed", 1),
    ],
)
def test_what_git_says(text: str, code: str, exit_code: int) -> None:
    done = Finished(Command(("git",), 1.0), 128, "", f"Receiving objects:  10% (1/9)\n{text}", False, 0.1)
    error = explain(done, "https://h/x", frozenset())
    assert (error.code, int(error.exit)) == (code, exit_code)
    assert "10%" not in error.detail
    assert error.next_step or code == "git-failed"
