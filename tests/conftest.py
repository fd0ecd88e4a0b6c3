"""Fixtures that tests of every layer may use."""

from tests.softgpu.fixtures import soft_gpu, soft_gpu_libraries

__all__ = ["soft_gpu", "soft_gpu_libraries"]
