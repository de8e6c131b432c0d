"""What an image may be called and written, and its short names."""

import pytest

from runvoy_protocol.errors import ErrorCode, RunvoyError
from runvoy_protocol.images import RegisterImage, check, is_image_name, short_names

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    "reference",
    [
        *("alpine", "alpine:3.20", "hashicorp/terraform:1.9", "docker.io/library/alpine", "localhost/x", "a__b-c.d/e"),
        *("registry.example:5000/team/tools:Latest_1", f"ghcr.io/a/b@{DIGEST}", f"a:1@{DIGEST}", "a/" * 248 + "tool"),
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/tools:v1.2.3-rc.1",
    ],
)
def test_references_that_are_some(reference):
    check(RegisterImage(reference=reference))
    assert is_image_name(reference), "without --name an image is called by its reference"
    assert reference in short_names(reference)


@pytest.mark.parametrize(
    "reference",
    [
        *(
            "",
            " ",
            "-a",
            "--privileged",
            "a b",
            "a\n",
            "alpine:",
            "alpine:a b",
            ":1",
            "/a",
            "a/",
            "a//b",
            "a/Bad",
            "ümläut",
        ),
        *(
            "https://example.com/a",
            "docker-archive:/etc/passwd",
            "a@sha256:xyz",
            "a@",
            "a:1:2",
            "a" * 513,
            "a:" + "x" * 129,
        ),
        *("../etc", "a/../b", "a\0b", "host:port/a", "A"),
    ],
)
def test_references_that_are_none(reference):
    with pytest.raises(RunvoyError) as refused:
        check(RegisterImage(reference=reference))
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert "is no reference of an image" in refused.value.message


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": ""}, "no name"),
        ({"name": "a b"}, "no name"),
        ({"name": "-a"}, "no name"),
        ({"name": "a" * 513}, "no name"),
        ({"name": "ä"}, "no name"),
        ({"platform": "linux/mips"}, "linux/arm64 or linux/amd64"),
        ({"platform": ""}, "linux/arm64 or linux/amd64"),
        ({"task_role": ""}, "task role"),
        ({"task_role": "a\n"}, "task role"),
        ({"description": "x" * 513}, "description"),
        ({"description": "a\x1b[31m"}, "description"),
    ],
)
def test_what_no_deployment_would_register(fields, told):
    with pytest.raises(RunvoyError, match=told):
        check(RegisterImage(reference="alpine", **fields))


def test_every_problem_is_told_at_once():
    with pytest.raises(RunvoyError) as refused:
        check(RegisterImage(reference="-", name="", platform="x"))
    assert refused.value.message.count(";") == 2


def test_short_names_are_the_ends_of_the_path_with_or_without_tag_and_digest():
    assert short_names("docker.io/hashicorp/terraform:1.9") == {
        *("terraform", "terraform:1.9", "hashicorp/terraform", "hashicorp/terraform:1.9"),
        *("docker.io/hashicorp/terraform", "docker.io/hashicorp/terraform:1.9"),
    }
    assert short_names("alpine") == {"alpine"}
    assert short_names("localhost:5000/a") == {"a", "localhost:5000/a"}
    assert short_names(f"x/a:1@{DIGEST}") == {
        *("a", "a:1", f"a@{DIGEST}", f"a:1@{DIGEST}", "x/a", "x/a:1", f"x/a@{DIGEST}", f"x/a:1@{DIGEST}"),
    }


def test_texts_of_just_the_most_characters():
    check(RegisterImage(reference="a" * 512, name="n" * 500, task_role="r" * 512, description="d" * 512))
    with pytest.raises(RunvoyError, match="task role"):
        check(RegisterImage(reference="a", task_role="r" * 513))
    made = RegisterImage(reference="a")
    assert (made.description, made.version) == ("", 0)


@pytest.mark.parametrize("image", [RegisterImage(reference="a" * 501), RegisterImage(reference="a", name="a" * 501)])
def test_what_is_longer_than_an_index_takes_is_registered_under_a_shorter_name(image):
    with pytest.raises(RunvoyError, match="over 500 characters: register it under a shorter name"):
        check(image)
    check(RegisterImage(reference=image.reference, name="a" * 500))
