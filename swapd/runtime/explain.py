"""The documents of decisions, queue and happenings: plain values for `/swapd/decisions`, `/queue` and `/events`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from swapd.core.decision import Candidate, Choice
from swapd.runtime.happenings import Happening
from swapd.runtime.journal import Decided
from swapd.runtime.status import rfc3339

_CHOSEN: Final = re.compile(r"-[0-9a-f]{8}$")


def decisions(
    decided: Iterable[Decided], variant: str | None, request: str | None, limit: int
) -> list[dict[str, object]]:
    """The last ones, newest last, of one model and for one request if these are told.

    `request` is what X-Request-Id says; each of its leases is that and a number.
    """
    found = [
        each
        for each in decided
        if (variant is None or each.decision.variant == variant)
        and (request is None or any(_is_of(lease, request) for lease in each.decision.requests))
    ]
    return [_document(each) for each in found[-limit:]]


def happening(each: Happening) -> dict[str, object]:
    return {"id": each.id, "at": rfc3339(each.at), "event": each.kind, **each.facts}


def _is_of(lease: str, request: str) -> bool:
    """The API puts something of its own behind an id that the caller chose, and a number behind all."""
    label = lease.rpartition("/")[0] or lease
    return request in (lease, label, _CHOSEN.sub("", label))


def _document(decided: Decided) -> dict[str, object]:
    decision = decided.decision
    return {
        "id": decided.id,
        "at": rfc3339(decided.at),
        "choice": str(decision.choice),
        "model": decision.model,
        "reason": decision.reason,
        "requests": list(decision.requests),
        "waiting": decision.waiting,
        "candidates": [_candidate(each) for each in decision.candidates],
        "avoid": list(decision.avoid),
        "moved": decision.choice not in (Choice.WAIT, Choice.REFUSE),
    }


def _candidate(candidate: Candidate) -> dict[str, object]:
    place = candidate.placement
    return {
        "plan": str(candidate.choice),
        "placement": str(place) if place is not None else None,
        "gpu_layers": place.gpu_layers if place is not None else None,
        "layers": place.layers if place is not None else None,
        "need": {str(device): size for device, size in candidate.need.parts},
        "leaving": list(candidate.leaving),
        "price_s": None if candidate.price is None else round(candidate.price, 3),
        "costs": {cost.what: round(cost.seconds, 3) for cost in candidate.costs},
        "chosen": candidate.is_chosen,
        "note": candidate.note,
    }
