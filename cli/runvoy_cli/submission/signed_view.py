"""The request of an execution as it was signed, and its receipt, as people read them."""

from __future__ import annotations

from collections.abc import Iterator

from runvoy_cli.submission import request_view
from runvoy_cli.terminal.render import facts, moment
from runvoy_cli.terminal.words import cpu_text, memory_text
from runvoy_protocol.playbooks import VARIABLE_PREFIX
from runvoy_protocol.receipts import Receipt
from runvoy_protocol.signed_requests import SignedRequest, SignedRequestAnswer


def lines(answer: SignedRequestAnswer) -> Iterator[str]:
    """All of it. Values of a playbook's parameters are left out, as in request.json: some may be secret."""
    request = answer.request
    digest = f"{answer.object_sha256} (the object that was signed)" if answer.object_sha256 else ""
    pairs = [("id", answer.execution_id), ("signed by", answer.key_id), ("sha256", digest)]
    if answer.batch_id:
        pairs.append(("batch", answer.batch_id))
    if request is None:
        pairs.append(("request", f"cannot be shown: {answer.missing}"))
    else:
        pairs += [
            ("deployment", request.deployment_id),
            ("issued", moment(request.issued_at)),
            ("expires", moment(request.expires_at)),
            ("content", answer.content_digest),
            ("playbook", request.playbook or ""),
            *request_view.settings(request),
        ]
    yield from facts([*pairs, *_receipt(answer.receipt)])
    if request is not None:
        yield from request_view.command_lines(request, _parameters(request), "(a parameter; --json has it)")


def _parameters(request: SignedRequest) -> frozenset[str]:
    if request.playbook is None:
        return frozenset()
    return frozenset(name for name in request.env if name.startswith(VARIABLE_PREFIX))


def _receipt(receipt: Receipt | None) -> list[tuple[str, str]]:
    if receipt is None:
        return [("receipt", "not decided yet")]
    at = moment(receipt.at)
    made = receipt.resolved
    if made is None:
        code = receipt.code.value if receipt.code is not None else ""
        return [
            ("receipt", f"{receipt.outcome} {at}"),
            ("code", code),
            ("why", receipt.message),
            ("hint", receipt.hint),
        ]
    image = made.image or ""
    if made.image_name not in (None, made.image):
        image = f"{made.image_name} ({made.image})"
    size = " ".join(filter(None, (cpu_text(made.cpu), memory_text(made.memory_mib), made.platform)))
    return [
        ("receipt", f"{receipt.outcome} {at}"),
        ("resolved", f"for {made.owner}, isolation {made.isolation}" + (f", image {image}" if image else "")),
        ("size", size),
        ("task role", made.task_role or ""),
    ]
