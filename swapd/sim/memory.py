"""The books' page on memory: what may be held, who is short of it, and what could be placed in it.

Kept by `books` from what was told to the core; computed with what models really take, never with the core's numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from swapd.core.arithmetic import arithmetic
from swapd.core.messages import Policy
from swapd.core.model import HOST, DeviceId, DeviceKind, Placement, VariantId
from swapd.sim.records import Hardware, Model, Process
from swapd.units import Bytes, Seconds, parse_share

BATCHES = (512, 128)
DOUBT = 1.25
"""So much more than it takes may be believed of a process that was never measured."""


class Memory:
    def __init__(
        self, hardware: tuple[Hardware, ...], models: Iterable[Model], policy: Policy, *, names_processes: bool
    ) -> None:
        self.hardware = {h.id: h for h in hardware}
        self.models: Mapping[VariantId, Model] = {m.variant.id: m for m in models}
        self.policy, self.names_processes = policy, names_processes
        self.cards = tuple(h.id for h in hardware if h.kind is DeviceKind.GPU)
        self.now: Seconds = 0.0
        self.taken: dict[DeviceId, Bytes] = {}
        """Of each device, what was not ours at the last measurement that was delivered."""
        self.stale: frozenset[DeviceId] = frozenset()
        self.loan: tuple[Bytes, Seconds] = (0, 0.0)
        """Yielded: so much, until then."""
        self.before: list[dict[DeviceId, Bytes]] = []
        """What others had by the measurements about the time of the yield: by which it counts is not known here."""
        self.is_lending = False
        """By none of them surely."""
        self.is_exact = names_processes and all(m.spare >= 0 for m in self.models.values())
        """The core can know all to the byte: no driver silent, nothing underrated, no load out of memory."""

    def measured(
        self, taken: dict[DeviceId, Bytes], stale: frozenset[DeviceId], *, is_outdated: bool, is_ending: bool
    ) -> None:
        """`is_ending`: some worker is, and what it holds may count as anybody's."""
        self.taken = {d: self.taken.get(d, size) if d in stale else size for d, size in taken.items()}
        self.stale = stale
        self.is_exact &= not stale
        if not is_outdated and self.is_lending:
            self.before.append(self.taken)
            self.is_lending = is_ending

    def lends(self, size: Bytes, until: Seconds) -> None:
        """Before anything was measured there is nothing to lend."""
        self.loan, self.before = (size if self.taken else 0, until), [dict(self.taken)]
        self.is_lending = True

    def reserve(self, device: DeviceId) -> Bytes:
        return self.policy.host_reserve if device == HOST else self.policy.vram_reserve

    def limit(self, device: DeviceId) -> Bytes:
        share = "100%" if device == HOST and self.cards else self.policy.vram_limit
        return parse_share(share, self.hardware[device].total)

    def lent(self, device: DeviceId, *, surely: bool) -> Bytes:
        """Yielded there and not taken yet. Of several cards it is one, and these books do not know which."""
        size, until = self.loan
        candidates = self.cards or (HOST,)
        if until <= self.now or device not in candidates or (surely and len(candidates) > 1):
            return 0
        before = [taken.get(device, 0) for taken in self.before]
        return max(0, size - max(0, self.taken.get(device, 0) - (min(before) if surely else max(before))))

    def most(self, device: DeviceId, *, surely: bool = False) -> Bytes:
        """What ours may hold. `surely`: where in doubt, more."""
        seen = self.hardware[device].total - self.taken.get(device, 0) - self.lent(device, surely=surely)
        return min(self.limit(device), seen) - self.reserve(device)

    def most_of(self, variant: VariantId, device: DeviceId, *, surely: bool = True) -> Bytes:
        """What it may hold there at most, whoever else is there."""
        cap, most = self.models[variant].variant.max_vram, self.most(device, surely=surely)
        return min(most, parse_share(cap, self.hardware[device].total)) if cap and device != HOST else most

    # --- who is short

    def is_short(self, device: DeviceId, staying: Iterable[Process], *, surely: bool) -> bool:
        """Whether others have what these need, beyond what is tolerated. `surely`: where in doubt, no."""
        if device in self.stale or (device == HOST and not self.lent(HOST, surely=surely)):
            return False
        need = sum(self._believed(p, device, surely=surely) for p in staying)
        return need - self.most(device, surely=surely) > self.reserve(device) / 2

    def _believed(self, p: Process, device: DeviceId, *, surely: bool) -> Bytes:
        need = p.need.get(device, 0)
        if surely or (p.is_ready and self.names_processes and device != HOST):
            return need
        guessed = arithmetic(self.models[p.variant].variant, p.placement)[device]
        return int(max(need, guessed + self.hardware[device].overhead) * DOUBT)

    # --- what could be placed

    def could_run(self, variant: VariantId, layers: int | None, beside: Iterable[Process], *, surely: bool) -> bool:
        """Whether any placement fits beside these. `surely`: also by the guess of one who never asked llama.cpp."""
        used = tuple(beside)
        room = {d: self.most(d, surely=not surely) - sum(p.need.get(d, 0) for p in used) for d in self.hardware}
        return any(self._fits(variant, place, room, surely=surely) for place in self._places(variant, layers))

    def could_be_whole(self, p: Process, beside: Iterable[Process]) -> bool:
        """Whether all of it would fit on one card beside these."""
        used = tuple(beside)
        room = {d: self.most(d) - sum(o.need.get(d, 0) for o in used) for d in self.hardware}
        layers = p.placement.layers
        places = [Placement((card,), layers, layers, 512) for card in self.cards]
        return any(self._fits(p.variant, place, room, surely=True) for place in places)

    def could_be_beside(self, variant: VariantId, layers: int | None, beside: Iterable[Process]) -> bool:
        """Whether all of it, or so many layers, might fit on one card (or on the host) beside these."""
        used = tuple(beside)
        room = {d: self.most(d, surely=True) - sum(p.need.get(d, 0) for p in used) for d in self.hardware}
        shape, owner = self.models[variant].variant.shape, self.models[variant].variant.gpu_layers
        fixed = layers if layers is not None else owner
        count = min(shape.offloadable if fixed is None else fixed, shape.offloadable)
        places = [Placement((card,), count, shape.offloadable, 512) for card in self.cards]
        places = places if places and count else [Placement((), 0, shape.offloadable, 512)]
        return any(self._fits(variant, place, room, surely=False) for place in places)

    def has_no_card(self, variant: VariantId) -> bool:
        """Its owner wants none of it on a card, where there is one."""
        return bool(self.cards) and self.models[variant].variant.gpu_layers == 0

    def _fits(self, variant: VariantId, place: Placement, room: Mapping[DeviceId, Bytes], *, surely: bool) -> bool:
        model = self.models[variant]
        guess = arithmetic(model.variant, place)
        for device, size in model.need(place, self.hardware).items():
            need = max(size, guess[device] + self.hardware[device].overhead) if surely else size
            if device in self.stale or need > min(room[device], self.most_of(variant, device)):
                return False
        return True

    def _places(self, variant: VariantId, layers: int | None) -> Iterator[Placement]:
        shape = self.models[variant].variant.shape
        owner = self.models[variant].variant.gpu_layers
        fixed, most = layers if layers is not None else owner, shape.offloadable
        if not fixed or not self.cards:
            for batch in BATCHES:
                yield Placement((), 0, most, batch)
        if fixed == 0:
            return
        sets: list[tuple[tuple[DeviceId, ...], tuple[float, ...]]] = [((card,), ()) for card in self.cards]
        if len(self.cards) > 1:
            sizes = [max(0, self.limit(card) - self.reserve(card)) for card in self.cards]
            sets.append((self.cards, tuple(round(size / max(1, sum(sizes)), 2) for size in sizes)))
        for cards, split in sets:
            whole = Placement(cards, min(fixed or most, most), most, 512, 0, split)
            yield whole
            if fixed is not None:
                continue
            small = replace(whole, micro_batch=128)
            yield from (replace(small, experts_on_cpu=n) for n in range(shape.expert_layers + 1))
            for count in range(1, most):
                yield replace(small, gpu_layers=count, experts_on_cpu=min(count, shape.expert_layers))
