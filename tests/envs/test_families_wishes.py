"""Families in bnbenv.toml and at the package sources: what is read, refused, asked for, and kept apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bnbenv.envs.families import asked_for, requirement_lines
from bnbenv.envs.project import Project
from bnbenv.envs.reach import check_reach
from bnbenv.envs.sources import PackageSources, Source
from bnbenv.envs.wishes import decode_wishes, edited
from bnbenv.errors import InputError, UsageError
from bnbenv.matrix.load import load_matrix
from bnbenv.solve.model import Choice, PackageChoice, TorchChoice


def read(text: str) -> Any:
    return decode_wishes(text.encode(), "bnbenv.toml")


def test_a_family_and_its_package_reach_the_solver() -> None:
    wishes = read('[envs.q]\nfamily = "awq"\npackage = "autoawq[kernels]>=0.2"\n[envs.t]\nfamily = "none"\n')
    assert (wishes.request("q").family, wishes.request("q").package) == ("awq", "autoawq[kernels]>=0.2")
    assert wishes.request("t").family == "none"
    plain = read('[envs.q]\nfamily = "awq"\n')
    assert plain.digest("q") != wishes.digest("q") != read("[envs.q]\n").digest("q")


@pytest.mark.parametrize(
    ("family", "requirement", "names"),
    [
        ("bitsandbytes", "AutoAWQ>=0.2", "awq"),
        ("bitsandbytes", "auto_gptq", "gptq"),
        ("gptq", "bitsandbytes", "bitsandbytes"),
        ("none", "gptqmodel", "gptq"),
    ],
)
def test_two_families_in_one_environment_are_refused_with_the_reason(family: str, requirement: str, names: str) -> None:
    text = f'[envs.q]\nfamily = "{family}"\nrequirements = ["peft", "{requirement}"]\n'
    with pytest.raises(UsageError) as refused:
        read(text)
    assert refused.value.code == "mixed-families"
    assert "envs.q.requirements[1]" in refused.value.message and "torch" in refused.value.message
    assert f"bnbenv add {names}" in refused.value.next_step
    assert read(f"{text}[policy]\nmix = true\n").policy.mix


def test_transformers_is_bound_to_the_torch_of_the_choice() -> None:
    """It names the torch that it needs in an extra alone. Where nothing comes through it, it is not brought in."""
    torch, matrix = TorchChoice(version="2.6.0", cuda="12.4", source="default-index"), load_matrix()
    awq = Choice("3.12", torch, {}, packages=(PackageChoice("autoawq", "0.2.9", "sdist", "", ""),))
    assert "transformers[torch]" in asked_for(matrix, awq, ())
    alone = Choice("3.12", torch, {})
    assert asked_for(matrix, alone, ["einops"]) == ("einops",)
    assert asked_for(matrix, alone, ["PEFT>=0.14"]) == ("transformers[torch]", "PEFT>=0.14")
    assert asked_for(matrix, alone, ["trl", "transformers[vision]>=5"]) == ("trl", "transformers[torch,vision]>=5")


def test_an_address_is_no_wish_for_a_package() -> None:
    with pytest.raises(InputError, match="without an address or a marker"):
        read('[envs.q]\nfamily = "gptq"\npackage = "gptqmodel @ https://host.example/x.whl"\n')


def test_an_extra_that_is_mistyped_is_not_passed_over() -> None:
    with pytest.raises(InputError, match='expected the extra "kernels", found "kernel"'):
        read('[envs.q]\nfamily = "awq"\npackage = "autoawq[kernel]"\n')


def test_where_there_is_no_file_one_is_begun_for_the_new_environment_alone(tmp_path: Path) -> None:
    text = edited(Project(tmp_path, tmp_path / "bnbenv.toml"), "gptq", {"family": "gptq"}, alone=True)
    assert list(read(text).envs) == ["gptq"]
    assert ".venv-gptq" in text and "# torch = " in text and ".venv-bnb" not in text


def test_a_new_environment_stands_apart_from_what_follows(tmp_path: Path) -> None:
    config = tmp_path / "bnbenv.toml"
    config.write_text("[envs.bnb]\n\n[policy]\n")
    text = edited(Project(tmp_path, config), "gptq", {"family": "gptq"})
    assert text == '[envs.bnb]\n\n[envs.gptq]\nfamily = "gptq"\n\n[policy]\n'


def test_extras_go_with_their_package_but_for_that_which_has_to_be_compiled() -> None:
    def package(name: str) -> PackageChoice:
        return PackageChoice(name, "1.0", "sdist", f"{name}-1.0.tar.gz", "0" * 64)

    torch = TorchChoice(version="2.13.0", source="default-index")
    kernels = Choice("3.11", torch, {}, packages=(package("autoawq"), package("autoawq-kernels")))
    assert requirement_lines(kernels, "autoawq[kernels]") == ["autoawq===1.0", "autoawq-kernels===1.0"]
    assert requirement_lines(Choice("3.11", torch, {}, packages=(package("gptqmodel"),)), "GPTQModel[hf]>=1") == [
        "gptqmodel[hf]===1.0"
    ]


def test_sources_are_asked_for_the_packages_of_one_family_and_their_source_archives_count(index: Any) -> None:
    index.add("torch", "2.13.0")
    index.add("gptqmodel", "7.0.0")
    for name in ("gptqmodel-7.6.0.tar.gz", "torch-2.12.0.tar.gz"):
        (index.wheels / name).write_bytes(b"an archive")
    sources = PackageSources(Source("default-index", index.url("simple"), "uv"), (), (), index.url("status-404"))
    reach = check_reach(sources, projects=("torch", "gptqmodel", "auto-gptq"))
    assert {offer.filename for _, offer in reach.offers("gptqmodel")} == {
        *("gptqmodel-7.0.0-py3-none-any.whl", "gptqmodel-7.6.0.tar.gz"),
    }
    assert [offer.version for _, offer in reach.offers("torch")] == ["2.13.0"]
    assert not any("bitsandbytes" in path for path, _ in index.requests)


@pytest.mark.real
def test_one_environment_that_cannot_be_made_keeps_none_of_the_others_back(project: Any, wheel_maker: Any) -> None:
    """And a later environment stays with the versions that an earlier one locked."""
    for version in ("1.0", "2.0"):
        wheel_maker(project.root / "wheels", "tinypackage", version)
    (project.root / "bnbenv.toml").write_text(
        '[envs.bnb]\nrequirements = ["tinypackage<2"]\n[envs.q]\nfamily = "gptq"\npackage = "gptqmodel>=99"\n'
        '[envs.t]\nfamily = "none"\nrequirements = ["tinypackage"]\n[sources]\nfind-links = ["wheels"]\n'
    )
    ended = project("sync", "--no-verify", "--json")
    assert (ended.code, ended.document["error"]["code"]) == (4, "no-combination")
    message = ended.document["error"]["message"]
    assert message.startswith("q: ") and "(in sync now: bnb, t)" in message
    assert "bnbenv sync --env q --package gptqmodel" in ended.document["error"]["next_step"]
    assert 'name = "tinypackage"\nversion = "1.0"' in (project.root / "pylock.t.toml").read_text()
    assert set(project.drift()) == {"unverified", "no-environment"}


@pytest.mark.real
def test_what_a_requirement_brings_in_is_kept_apart_as_well(project: Any, wheel_maker: Any) -> None:
    wheel_maker(project.root / "wheels", "bringsawq", "1.0", ("autoawq-kernels",))
    wheel_maker(project.root / "wheels", "autoawq_kernels", "0.0.1")
    wishes = '[envs.bnb]\nrequirements = ["bringsawq"]\n[sources]\nfind-links = ["wheels"]\n'
    (project.root / "bnbenv.toml").write_text(wishes)
    refused = project("sync", "--no-verify", "--json")
    assert (refused.code, refused.document["error"]["code"]) == (4, "mixed-families")
    assert "autoawq-kernels" in refused.document["error"]["message"]
    (project.root / "bnbenv.toml").write_text(f"{wishes}[policy]\nmix = true\n")
    (row,) = project.done("sync", "--no-verify")["generations"]
    warning = "families are mixed here"
    assert warning in " ".join(row["notes"])
    assert warning in project("sync", "--no-verify").stdout
    assert warning in project("status").stdout and warning in project("plan").stdout


@pytest.mark.real
def test_an_add_that_is_refused_leaves_nothing(project: Any) -> None:
    before = project.listing()
    refused = project("add", "gptq", "--package", "gptqmodel>=99", "--json")
    assert refused.code == 4
    assert "bnbenv add gptq --package gptqmodel" in refused.document["error"]["next_step"]
    for words in (("awq", "--env", "bnb"), ("bitsandbytes", "--torch", "2.9"), ("awq", "--package", "gptqmodel")):
        assert project("add", *words).code == 2
    assert project("add", "bitsandbytes").stdout.startswith("there already")
    changed = {path for path, seen in project.listing().items() if before.get(path) != seen}
    assert changed <= {str(project.root / ".bnbenv" / name) for name in (".", "lock", "generations", "generations/.")}
    assert project.done("add", "awq", "--no-sync")["synced"] is False
    assert project.drift() == {"no-environment": "there is no .venv-awq yet"}
