"""What Ollama's clients are told about models: tags, ps, show.

Used by `ollama.py`; reads values, asks nobody.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from swapd.runtime.status import ResidentStatus
from swapd.served import Model

_NEVER: Final = datetime(2318, 1, 1, tzinfo=UTC)
"""Far enough for Ollama's clients to say "Forever"."""

_LEAVING: Final = frozenset({"draining", "unloading"})


def tag_document(model: Model) -> dict[str, object]:
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": _modified(model),
        "size": model.size,
        "digest": model.digest,
        "details": _details(model),
    }


def running_document(resident: ResidentStatus, model: Model | None, now: datetime) -> dict[str, object]:
    """`model` None: its file has left the catalog since it was loaded."""
    # Clients show a moment that has passed as "Stopping...".
    expires_at = now if resident.state in _LEAVING else resident.expires_at or _NEVER
    return {
        "name": resident.name,
        "model": resident.name,
        "size": resident.size,
        "digest": model.digest if model is not None else "",
        "details": _details(model) if model is not None else {},
        "expires_at": expires_at,
        "size_vram": resident.vram,
        "context_length": resident.context,
    }


def show_document(model: Model) -> dict[str, object]:
    """For a model that can be used."""
    return {
        "details": _details(model),
        "model_info": _information(model),
        "parameters": "\n".join(f"{name} {value}" for name, value in _parameters(model)),
        "template": "the file's own" if model.template else "ChatML (the file has none)",
        "capabilities": ["completion"],
        "modified_at": _modified(model),
    }


def _details(model: Model) -> dict[str, object]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family] if model.family else [],
        "parameter_size": parameter_size(model.parameters),
        "quantization_level": model.quantization,
    }


def parameter_size(parameters: int) -> str:
    """`"134.5M"`, `"8.0B"`: as Ollama writes them."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.1f}{letter}"
    return str(parameters)


def _information(model: Model) -> dict[str, object]:
    information: dict[str, object] = {
        "general.architecture": model.family,
        "general.parameter_count": model.parameters,
    }
    if model.variant is not None:
        shape = model.variant.shape
        information["general.architecture"] = shape.architecture
        information[f"{shape.architecture}.context_length"] = shape.trained_context
        information[f"{shape.architecture}.embedding_length"] = shape.embedding
        information[f"{shape.architecture}.block_count"] = shape.layers
    return information


def _parameters(model: Model) -> list[tuple[str, object]]:
    sampling = model.entry.sampling
    said: list[tuple[str, object]] = [
        ("num_ctx", model.variant.context if model.variant is not None else None),
        ("num_predict", model.entry.max_tokens),
        ("temperature", sampling.temperature),
        ("top_k", sampling.top_k),
        ("top_p", sampling.top_p),
        ("min_p", sampling.min_p),
        ("repeat_penalty", sampling.repeat_penalty),
        ("repeat_last_n", sampling.repeat_last_n),
        ("presence_penalty", sampling.presence_penalty),
        ("frequency_penalty", sampling.frequency_penalty),
        ("seed", sampling.seed),
    ]
    stops: list[tuple[str, object]] = [("stop", f'"{stop}"') for stop in model.entry.stop]
    return [(name, value) for name, value in said if value is not None] + stops


def _modified(model: Model) -> datetime:
    return datetime.fromtimestamp(model.modified, UTC)
