"""Credentials appear in no text that bnbenv shows or writes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbenv.redact import redact, redact_variables, secrets_of, strip_credentials

WORD = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_.~%!$*+", min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@host:8443/simple/", "https://****@host:8443/simple/"),
        ("https://ghp_token@host/simple", "https://****@host/simple"),
        ("git+ssh://git:pw@host/repo.git", "git+ssh://****@host/repo.git"),
        ("https://me:p@ss:word@host/simple", "https://****@host/simple"),
        ("socks5://me:pw@[::1]:1080", "socks5://****@[::1]:1080"),
        (
            "'http://me:pa/ss@host/none' for '--index': invalid port",
            "'http://****@host/none' for '--index': invalid port",
        ),
        ("see https://host/f.whl?token=abc&x=1#sha256=00", "see https://host/f.whl?token=****&x=1#sha256=00"),
        ("https://host/f?X-Amz-Signature=1f&X-Amz-Date=2", "https://host/f?X-Amz-Signature=****&X-Amz-Date=2"),
        ("Authorization: Basic bWU6cHc=", "Authorization: Basic ****"),
        ("UV_INDEX_MINE_PASSWORD=hunter2 uv", "UV_INDEX_MINE_PASSWORD=**** uv"),
        ("HF_TOKEN=hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789", "HF_TOKEN=hf_****"),
    ],
)
def test_credentials_go_and_host_and_path_stay(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8080/simple/torch@2/x",
        "http://[::1]:8080/a@b",
        "mail to someone@example.org about https://host/x",
        "torch @ https://host/torch-2.13.0%2Bcpu.whl#sha256=aa",
        "https://host/design?version=2&keyboard=de",
        "hf_hub_download(sk-learn)",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redact(text) == text
    assert strip_credentials(text) == text


@settings(deadline=None)
@given(user=WORD, password=WORD, before=st.text(max_size=30), after=st.text(max_size=30))
def test_no_login_survives(user: str, password: str, before: str, after: str) -> None:
    shown = redact(f"{before} https://{user}:{password}@host.example/simple/x {after}")
    assert f"{user}:{password}@" not in shown
    assert "https://****@host.example/simple/x" in shown


@settings(deadline=None)
@given(st.text())
def test_any_text_is_read_and_reading_twice_changes_nothing_more(text: str) -> None:
    once = redact(text, {"secret-one"})
    assert redact(once, {"secret-one"}) == once
    strip_credentials(text)


@pytest.mark.parametrize(
    "piece", ["://a:", "://", "?token=", "://a:b@", "authorization: ", "UV_INDEX_A_", "a" * 50 + "&", "hf_"]
)
def test_a_megabyte_of_garbage_takes_no_time(piece: str) -> None:
    text = piece * (1_000_000 // len(piece))
    begun = time.process_time()
    redact(text)
    strip_credentials(text)
    # Linear reading takes well under a second of processor time; what grows with the square takes minutes.
    assert time.process_time() - begun < 10


def test_known_secrets_are_blanked_wherever_they_stand() -> None:
    secrets = secrets_of(
        ["https://me:p%40ss-w0rd@host/", "https://tokentoken@host/", "https://host/?api_key=kkkk-1"],
        {"UV_INDEX_MINE_PASSWORD": "fr0m-env", "HOME": "/home/me"},
    )
    text = redact("p@ss-w0rd p%40ss-w0rd tokentoken kkkk-1 fr0m-env me /home/me", secrets)
    assert text == "**** **** **** **** **** me /home/me"


def test_a_lock_keeps_usable_addresses_without_credentials() -> None:
    lock = (
        'wheels = [{ url = "https://me:pw@host/f/a-1.whl?token=abc", hashes = { sha256 = "00" } },\n'
        '          { url = "https://host/f/b-1.whl?token=abc&v=1#sha256=11" }, { url = "https://host/c?v=1&sig=x" }]'
    )
    assert strip_credentials(lock) == (
        'wheels = [{ url = "https://host/f/a-1.whl", hashes = { sha256 = "00" } },\n'
        '          { url = "https://host/f/b-1.whl?v=1#sha256=11" }, { url = "https://host/c?v=1" }]'
    )


def test_variables_for_ansible_are_not_shown() -> None:
    words = ["-i", "hosts", "-e", "@vars.yml", "-e", "a=s3cret", "-eb=s3cret", "--extra-vars", "{s3cret}"]
    words += ["--extra-vars=c=s3cret", "--extra-vars=@more.yml", "-e"]
    shown = redact_variables(words)
    assert "s3cret" not in " ".join(shown)
    assert [word for word in shown if "****" not in word] == [word for word in words if "s3cret" not in word]
