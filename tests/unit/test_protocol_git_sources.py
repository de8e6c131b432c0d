"""What can be cloned, and what is refused before git sees it."""

import shutil
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runvoy_protocol import git_sources


@pytest.mark.parametrize(
    ("repo", "transport"),
    [
        ("https://github.com/org/repo", "https"),
        ("https://git.example.com:8443/group/sub/repo.git", "https"),
        ("https://[2001:db8::1]:8443/x.git", "https"),
        ("http://127.0.0.1:3000/x.git", "http"),
        ("http://localhost/x", "http"),
        ("http://[::1]:80/x", "http"),
        ("ssh://git@example.com/x.git", "ssh"),
        ("ssh://git@example.com:2222/~/x.git", "ssh"),
        ("ssh://example.com/x", "ssh"),
        ("git@github.com:org/repo.git", "ssh"),
        ("deploy_1.x@host:/srv/git/x.git", "ssh"),
        ("file:///srv/git/x.git", "file"),
        ("/srv/git/my repo.git", "file"),
    ],
)
def test_the_forms_of_an_address(repo, transport):
    assert git_sources.transport(repo) == transport
    assert list(git_sources.problems(repo, "", "")) == []


@pytest.mark.parametrize(
    ("repo", "why"),
    [
        ("", "empty"),
        ("x", "none of the addresses"),
        ("./x", "none of the addresses"),
        ("../x", "none of the addresses"),
        ("-x", "begins with a dash"),
        ("--upload-pack=touch x", "begins with a dash"),
        ("ext::sh -c touch% x", "none of the addresses"),
        ("fd::17", "none of the addresses"),
        ("a@b::c", "none of the addresses"),
        ("git@host:-oProxyCommand=x", "none of the addresses"),
        ("git@-oProxyCommand=x:y", "none of the addresses"),
        ("-oProxyCommand=x@host:y", "begins with a dash"),
        ("ssh://-oProxyCommand=x/y", "none of the addresses"),
        ("ssh://git@-oProxyCommand=x/y", "user or a password"),
        ("ssh://git:secret@host/x", "user or a password"),
        ("https://user:secret@host/x", "user or a password"),
        ("https://ghp_0123456789@github.com/x", "user or a password"),
        ("https://host", "none of the addresses"),
        ("https:///x", "none of the addresses"),
        ("https://ho st/x", "none of the addresses"),
        ("https://host/x y", "none of the addresses"),
        ("https://host/x\ny", "not printable"),
        ("https://host\\@evil/x", "user or a password"),
        ("HTTPS://host/x", "none of the addresses"),
        ("http://example.com/x", "write https://"),
        ("http://127.0.0.1.evil.example/x", "write https://"),
        ("http://localhost.evil.example/x", "write https://"),
        ("git://host/x", "none of the addresses"),
        ("ftp://host/x", "none of the addresses"),
        ("file://host/x", "none of the addresses"),
        ("C:\\x", "none of the addresses"),
        ("https://e.example/" + "x" * 2048, "over 2048 characters"),
    ],
)
def test_another_address_is_refused_and_not_quoted(repo, why):
    (problem,) = git_sources.problems(repo, "", "")
    assert why in problem
    assert "secret@" not in problem
    assert "ghp_" not in problem


@pytest.mark.parametrize(
    ("repo", "is_of_it"),
    [
        ("/x", True),
        ("file:///x", True),
        ("http://127.0.0.1/x", True),
        ("https://localhost:8443/x", True),
        ("https://127.e.example/x", False),
        ("git@localhost:x", False),  # asks for a key and so for a secret; nothing else listens to it
    ],
)
def test_what_means_the_machine_that_clones(repo, is_of_it):
    assert git_sources.is_of_the_machine(repo) is is_of_it


@pytest.mark.parametrize("ref", ["main", "feature/x", "v1.2.3", "refs/pull/7/head", "a" * 40, "ünï", "x@y", "a-b", "1"])
def test_refs(ref):
    assert list(git_sources.problems("/x", ref, "")) == []


@pytest.mark.parametrize(
    "ref",
    [
        "-x",
        "--force",
        "+main",
        "main:evil",
        "^main",
        "ma*n",
        "a..b",
        "a b",
        "a~1",
        "main^",
        "@",
        "@{1}",
        "a@{1}",
        "x?",
        "[x",
    ]
    + ["x\\y", "/x", "x/", "x//y", ".x", "x/.y", "x.lock", "x.lock/y", "x.", "a\n", "a\0", "r" * 257],
)
def test_what_is_no_ref_is_refused(ref):
    assert any("git_ref" in problem for problem in git_sources.problems("/x", ref, ""))


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git on this machine")
@settings(max_examples=60, deadline=None)
@example("a@b/c")
@given(st.text(alphabet="ab/.@{-+~^:?*[\\\x7f\x01 \u00fclock", min_size=1, max_size=12))
def test_every_ref_that_is_taken_is_one_to_git(ref):
    if not list(git_sources.problems("/x", ref, "")):
        judged = subprocess.run(["git", "check-ref-format", f"refs/heads/{ref}"], check=False)
        assert judged.returncode == 0


@given(st.text(max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_nothing_that_is_taken_is_an_option_or_a_second_line(repo, ref, path):
    if not list(git_sources.problems(repo, ref, path)):
        for text in (repo, ref, path):
            assert not text.startswith("-")
            assert text.isprintable()


@pytest.mark.parametrize("path", ["a", "a/b", "a/b/", ".github", "a b", "..a", "a..b"])
def test_folders(path):
    assert list(git_sources.problems("/x", "", path)) == []


@pytest.mark.parametrize(
    "path", ["/a", "..", "a/..", "a/../b", ".", "./a", "a//b", ".git", "a/.GIT/b", "-a", "a\0", "p" * 1025]
)
def test_a_folder_that_leads_out_is_refused(path):
    assert any("git_path" in problem for problem in git_sources.problems("/x", "", path))


@pytest.mark.parametrize(("text", "depth"), [("0", 0), ("1", 1), ("50", 50), ("1000000", 1_000_000)])
def test_a_depth(text, depth):
    assert git_sources.depth_problem({"GIT_DEPTH": text}) == ""
    assert git_sources.depth({"GIT_DEPTH": text}) == depth
    assert (git_sources.depth_problem({}), git_sources.depth({})) == ("", 1)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "all", "1000001", " 1", "²", "1" * 4000])
def test_what_is_no_depth_is_refused(text):
    assert "GIT_DEPTH" in git_sources.depth_problem({"GIT_DEPTH": text})


@pytest.mark.parametrize(
    ("env_name", "repo", "why"),
    [
        ("TOKEN", None, ""),
        ("RUNVOY_GIT_TOKEN", "https://e.example/x", ""),
        ("RUNVOY_GIT_TOKEN", "http://localhost/x", ""),
        ("RUNVOY_GIT_SSH_KEY", "git@e.example:x", ""),
        ("RUNVOY_GIT_KNOWN_HOSTS", "ssh://e.example/x", ""),
        ("RUNVOY_GIT_TOKEN", None, "names no repository"),
        ("RUNVOY_GIT_SSH_KEY", None, "names no repository"),
        ("RUNVOY_GIT_TOKEN", "git@e.example:x", "for HTTPS"),
        ("RUNVOY_GIT_SSH_KEY", "https://e.example/x", "for SSH"),
        ("RUNVOY_GIT_KNOWN_HOSTS", "/x", "for SSH"),
        ("RUNVOY_GIT_CERTIFICATES", "https://e.example/x", ""),
        ("RUNVOY_GIT_CERTIFICATES", "git@e.example:x", "for HTTPS"),
    ],
)
def test_a_secret_for_cloning_belongs_to_its_kind_of_address(env_name, repo, why):
    problem = git_sources.credential_problem(env_name, repo)
    assert bool(problem) == bool(why)
    assert why in problem
