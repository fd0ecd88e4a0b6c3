"""Hypothesis profiles: the same examples every time, or with HYPOTHESIS_PROFILE=long new ones, and many."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)
settings.register_profile("short", max_examples=2500, deadline=None, derandomize=True, suppress_health_check=_QUIET)
settings.register_profile("long", max_examples=100_000, deadline=None, suppress_health_check=_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))
