"""How much a load would take, to the byte and without loading: llama.cpp makes model and context with empty buffers.

Used by `child`. The same parameters as for the real load (`parameters`), so that both come to the same figures; only
that weights for the CPU are mapped there, which is reckoned here from where they lie in the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from swapd.units import Bytes
from swapd.wire import Parts, Size, Sized
from swapd.worker import backends, breakdown, header
from swapd.worker.breakdown import HOST, Row
from swapd.worker.context import Context
from swapd.worker.llama import CannotLoad, Model
from swapd.worker.parameters import Order, draft_order, rows_of_logits

_LOGIT: Final[Bytes] = 4


def size(order: Size, log: backends.Log) -> Sized:
    """With the projector and the model that drafts, if there are any. Raises CannotLoad."""
    sized = _size(order, log)
    if order.projector:
        from swapd.worker.projector import memory  # late: its library is of use to few models

        sized = Sized(together(sized.parts, of_projector(order, memory(order.projector))))
    if not order.draft:
        return sized
    draft = draft_order(order)
    assert isinstance(draft, Size)
    return Sized(together(sized.parts, _size(draft, log).parts))


def of_projector(order: Order, size: Bytes) -> Parts:
    """Where the projector of this model is: on the first of its cards, or on the CPU beside it."""
    on_gpu = bool(order.devices) and order.gpu_layers > 0
    return ((order.devices[0] if on_gpu else HOST, "compute", size),) if size else ()


def together(one: Parts, other: Parts) -> Parts:
    sums: Counter[tuple[str, str]] = Counter()
    for device, kind, amount in (*one, *other):
        sums[device, kind] += amount
    return tuple((device, kind, amount) for (device, kind), amount in sorted(sums.items()))


def _size(order: Size, log: backends.Log) -> Sized:
    log.compute.clear()
    model = Model(order, lambda fraction: None, log)
    try:
        for device in model.devices:
            backends.touch(device)  # who asked then sees what a process takes there besides
        context = model.context(order, log)
        try:
            found = breakdown.rows(context.pointer)
            if found is not None:
                return Sized(_parts(found, order, model, _mapped(order, found, model)))
            return Sized(_logged(order, log, model))
        finally:
            context.close()
    finally:
        model.close()


def measure(order: Order, model: Model, context: Context) -> Parts:
    """Of what is really loaded; empty: this llama.cpp does not tell."""
    found = breakdown.rows(context.pointer)
    return () if found is None else _parts(found, order, model, None)


def _parts(found: Sequence[Row], order: Order, model: Model, mapped: Bytes | None) -> Parts:
    """By device and kind. `mapped`: the weights that stay in the file's order on the host take this much."""
    sums: Counter[tuple[str, str]] = Counter()
    for row in found:
        place = row.place(model.devices)
        device = HOST if place is None else order.devices[place]
        if mapped is None or not row.is_plain_host(model.devices):
            sums[device, "model"] += row.model
        sums[device, "context"] += row.context
        sums[device, "compute"] += row.compute
    sums[HOST, "model"] += mapped or 0
    sums[HOST, "compute"] += _rows_of_logits(order, model)
    return tuple((device, kind, amount) for (device, kind), amount in sorted(sums.items()) if amount)


def _mapped(order: Size, found: Sequence[Row], model: Model) -> Bytes | None:
    """None: reckoned as allocated, since the header does not tell where things lie."""
    if not any(row.model for row in found if row.is_plain_host(model.devices)):
        return None
    layers = model.gpu_layers
    kept = header.expert_layers(order.path, layers)[: order.expert_layers_on_cpu] if layers else ()
    return header.mapped(order.path, layers, kept) or None


def _logged(order: Size, log: backends.Log, model: Model) -> Parts:
    """What the log says of the compute buffers. Raises CannotLoad where it says nothing."""
    if not log.compute:
        raise CannotLoad("cannot size: this llama.cpp tells neither a breakdown nor its compute buffers")
    names = breakdown.type_names(model.devices)
    sums: Counter[str] = Counter({HOST: _rows_of_logits(order, model)})
    for buffer_type, amount in log.compute.items():
        sums[order.devices[names.index(buffer_type)] if buffer_type in names else HOST] += amount
    return tuple((device, "compute", amount) for device, amount in sorted(sums.items()))


def _rows_of_logits(order: Order, model: Model) -> Bytes:
    """Where llama.cpp puts the results: host memory that its books leave out."""
    if order.pooling:
        return order.context * (model.vocabulary.size + model.width) * _LOGIT
    return rows_of_logits(order) * model.vocabulary.size * _LOGIT
