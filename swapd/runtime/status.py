"""What the daemon shows of itself: residents, devices, queue and counters as plain values.

A view over the engine's state for `gateway.py`; times of the engine's clock become wall time here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from swapd import __version__
from swapd.core import queueing
from swapd.core.model import Device, DeviceId, DeviceKind, Footprint, Placement
from swapd.core.resident import Phase, Resident
from swapd.runtime.engine import Engine, Record
from swapd.runtime.ports import Workers
from swapd.units import Bytes, Seconds, Tokens


@dataclass(frozen=True, slots=True)
class ResidentStatus:
    """One resident for people and programs. Sizes by device id; `expires_at` None: never, or not while it works."""

    name: str
    variant: str
    state: str
    pid: int | None
    gpu_layers: int
    layers: int
    placement: str
    context: Tokens
    slots: int
    slots_busy: int
    pinned: bool
    predicted: Mapping[str, Bytes]
    measured: Mapping[str, Bytes]
    vram: Bytes
    loaded_at: datetime | None
    last_used: datetime | None
    expires_at: datetime | None
    is_forever: bool
    load_s: Seconds
    tier: str
    """Where its weights are: "gpu", "split" or "host"."""
    loaded_from: str | None
    """Where they were before: "cold", "warm" or "host"; None: not known."""
    is_prefetched: bool
    """Loaded before anybody asked, and nobody has since."""
    progress: float
    requests: int
    tokens: Tokens
    restored: Tokens = 0
    """Of the prompts, what came from saved conversations."""

    @property
    def size(self) -> Bytes:
        return sum((self.measured or self.predicted).values())


class Show:
    def __init__(self, engine: Engine, workers: Workers) -> None:
        self._engine, self._workers = engine, workers
        self._began = engine.now()

    def resident(self, resident: Resident) -> ResidentStatus:
        state = self._engine.state
        record = self._engine.records.get(resident.id, Record())
        gpus = {device.id for device in state.devices if device.kind is DeviceKind.GPU}
        shown = resident.measured or resident.predicted
        busy = len(state.leases_of(resident.id))
        is_forever = state.is_pinned(resident) or math.isinf(resident.keep_alive)
        expires = None if is_forever or resident.phase is not Phase.READY else resident.used_at + resident.keep_alive
        if busy and expires is not None:
            expires = state.now + resident.keep_alive  # at the earliest
        return ResidentStatus(
            name=resident.variant.name,
            variant=resident.variant.id,
            state=_STATES.get(resident.phase, "busy" if busy else "ready"),
            pid=self._workers.pids().get(resident.id),
            gpu_layers=resident.placement.gpu_layers,
            layers=resident.placement.layers,
            placement=str(resident.placement),
            context=resident.variant.context,
            slots=resident.variant.slots,
            slots_busy=busy,
            pinned=state.is_pinned(resident),
            predicted=_by_device(resident.predicted),
            measured=_by_device(resident.measured or Footprint()),
            vram=sum(shown[device] for device in gpus),
            loaded_at=self._wall(resident.loaded_at),
            last_used=self._wall(resident.used_at if resident.loaded_at is not None else None),
            expires_at=self._wall(expires),
            is_forever=is_forever,
            load_s=record.load_s,
            tier=tier(resident.placement),
            loaded_from=None if resident.tier is None else str(resident.tier),
            is_prefetched=resident.is_foreseen,
            progress=resident.progress,
            requests=record.requests,
            tokens=record.tokens,
            restored=record.restored,
        )

    def document(self) -> dict[str, object]:
        """GET /swapd/status as contract.md gives it."""
        state = self._engine.state
        counters = self._engine.journal.counters
        return {
            "version": __version__,
            "uptime_s": round(self._engine.now() - self._began, 3),
            "devices": [self._device(device) for device in state.devices],
            "models": [resident_document(self.resident(r)) for r in state.residents.values()],
            "queue": self.queue(),
            "counters": {name: counters[name] for name in _COUNTERS},
        }

    def lent(self, device: DeviceId, size: Bytes, until: Seconds) -> dict[str, object]:
        """What POST /swapd/yield answers: whether what was yielded there, and nobody has taken yet, is seen free."""
        state = self._engine.state
        seen = next(each for each in state.devices if each.id == device)
        return {
            "device": str(device),
            "bytes": size,
            "until": rfc3339(self._wall(until)) if size else None,
            "freed": seen.free >= state.lent(seen),
            "free": seen.free,
        }

    def _device(self, device: Device) -> dict[str, object]:
        state = self._engine.state
        return {
            "id": device.id,
            "name": device.name,
            "kind": str(device.kind),
            "source": device.source,
            "total": device.total,
            "free": device.free,
            "reserve": state.reserve(device),
            "limit": state.limit(device),
            "ours": state.obtainable(device) - device.free,
            "foreign": state.foreign(device),
            "processes": [{"pid": p.pid, "name": p.name, "bytes": p.size} for p in device.others],
        }

    def queue(self) -> list[dict[str, object]]:
        """Who waits, in the order of turns."""
        state = self._engine.state
        rows: list[dict[str, object]] = []
        for variant in queueing.turns(state):
            for waiting in state.waiting[variant]:
                place = queueing.place(state, waiting.request)
                rows.append(
                    {
                        "request": waiting.request,
                        "model": waiting.variant.name,
                        "since": rfc3339(self._wall(waiting.since)),
                        "position": place.position if place else 0,
                        "reason": place.reason if place else "",
                        "waited_s": round(self._engine.now() - waiting.since, 3),
                        "overdue_at": rfc3339(self._wall(waiting.since + state.policy.max_wait)),
                    }
                )
        return rows

    def _wall(self, at: Seconds | None) -> datetime | None:
        if at is None or math.isinf(at):
            return None
        return datetime.now(UTC) + timedelta(seconds=at - self._engine.now())


_COUNTERS = (
    "loads",
    "evictions",
    "partial_offloads",
    "oom_retries",
    "crashes",
    "prefetches",
    "prefetch_hits",
    "prefetches_wasted",
)
_STATES = {
    Phase.RESERVED: "loading",
    Phase.LOADING: "loading",
    Phase.DRAINING: "draining",
    Phase.UNLOADING: "unloading",
}


def resident_document(status: ResidentStatus) -> dict[str, object]:
    """One element of `models` in the status document."""
    return {
        "name": status.name,
        "state": status.state,
        "pid": status.pid,
        "gpu_layers": status.gpu_layers,
        "layers": status.layers,
        "placement": status.placement,
        "context": status.context,
        "slots": status.slots,
        "slots_busy": status.slots_busy,
        "pinned": status.pinned,
        "predicted": dict(status.predicted),
        "measured": dict(status.measured),
        "loaded_at": rfc3339(status.loaded_at),
        "last_used": rfc3339(status.last_used),
        "expires_at": rfc3339(status.expires_at),
        "load_s": round(status.load_s, 3),
        "tier": status.tier,
        "loaded_from": status.loaded_from,
        "prefetched": status.is_prefetched,
        "progress": round(status.progress, 3),
        "requests": status.requests,
        "tokens": status.tokens,
        "restored": status.restored,
    }


def tier(place: Placement) -> str:
    """Where the weights of one so placed are."""
    return "host" if place.gpu_layers <= 0 else "gpu" if place.share >= 1 else "split"


def _by_device(footprint: Footprint) -> dict[str, Bytes]:
    return {str(device): size for device, size in footprint.parts}


def rfc3339(time: datetime | None) -> str | None:
    """As every document tells times; None stays None."""
    return None if time is None else time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
