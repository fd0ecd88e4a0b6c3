"""GET /metrics: everything that is counted, as Prometheus reads it; and the counting of requests.

A request counts when it names a model that is known: what callers make up is no label.
"""

from __future__ import annotations

import time
from collections import Counter as Sums
from typing import Any, Final

from aiohttp import hdrs, web

from swapd import metrics
from swapd.api.calls import GATEWAY, MODEL, OUTCOME
from swapd.api.failures import Dialect
from swapd.metrics import Counter, Gauge, Histogram, Metric
from swapd.runtime.gateway import Gateway

routes = web.RouteTableDef()


class Requests:
    """Counted by `app.py` when they are over."""

    def __init__(self) -> None:
        labels = ("model", "dialect", "outcome")
        self.total = Counter(
            "swapd_requests_total", "Requests to models, by how they ended: ok, cancelled, or an error's code.", labels
        )
        self.seconds = Histogram("swapd_request_seconds", "From a request to the end of its answer.")

    def ended(self, request: web.Request, outcome: str, began: float) -> None:
        if (asked := request.get(MODEL)) is None:
            return
        model = request.app[GATEWAY].canonical(asked) or ""
        self.total.add(model, Dialect.of(request).value, request.get(OUTCOME, outcome))
        self.seconds.observe(time.perf_counter() - began)


REQUESTS: Final = web.AppKey("requests", Requests)


@routes.get("/metrics")
async def page(request: web.Request) -> web.Response:
    gateway, requests = request.app[GATEWAY], request.app[REQUESTS]
    told: list[Metric] = [requests.total, requests.seconds, *gateway.measures.all, *_gauges(gateway)]
    return web.Response(body=metrics.render(told), headers={hdrs.CONTENT_TYPE: metrics.CONTENT_TYPE})


def _gauges(gateway: Gateway) -> list[Metric]:
    status: dict[str, Any] = gateway.status()
    loads = Counter("swapd_loads_total", "Loads that were begun.")
    loads.add(by=status.get("counters", {}).get("loads", 0))
    resident: Sums[tuple[str, ...]] = Sums()
    for one in gateway.residents():
        for device, size in (one.measured or one.predicted).items():
            resident[one.name, device] += size
    devices = status.get("devices", [])
    free: dict[tuple[str, ...], float] = {(device["id"],): device["free"] for device in devices}
    total: dict[tuple[str, ...], float] = {(device["id"],): device["total"] for device in devices}
    return [
        loads,
        Gauge("swapd_resident_bytes", "What loaded models hold, as measured.", ("model", "device"), resident),
        Gauge("swapd_device_free_bytes", "What a device has free, as measured.", ("device",), free),
        Gauge("swapd_device_total_bytes", "What a device has.", ("device",), total),
    ]
