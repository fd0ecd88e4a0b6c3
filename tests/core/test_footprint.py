"""What the header alone tells of a placement, beside what llama.cpp 0c1e57098 took for the two demo models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from swapd.core.arithmetic import PROCESS, PROPOSALS, Arithmetic, arithmetic, cells, process_bytes
from swapd.core.model import HOST, Adapter, DeviceId, Footprint, Placement, Projector, Shape, Variant, VariantId
from swapd.core.placement import MICRO_BATCH, micro_batches
from swapd.units import GiB, MiB
from tests.core.builders import CARD, OTHER_CARD, variant

SMOLLM = Shape(
    "llama",
    30,
    576,
    9,
    (3,) * 30,
    64,
    64,
    49_152,
    8192,
    96_576_768,
    feed_forward=1536,
    layer_weights=(2_216_448,) * 30,
    expert_weights=(0,) * 30,
    host_weights=(30_081_024, *(96_574_464,) * 30, 96_576_768),
    full_cache=(384,) * 30,
    window_cache=(0,) * 30,
    states=(0,) * 30,
    output_weights=30_083_328,
)
GEMMA = Shape(
    "gemma3",
    18,
    640,
    4,
    (1,) * 18,
    256,
    256,
    262_144,
    32_768,
    246_587_904,
    window=512,
    feed_forward=2048,
    layer_weights=tuple(3_995_648 if layer in (0, 1, 4, 7, 10, 13, 15, 16, 17) else 3_596_288 for layer in range(18)),
    expert_weights=(0,) * 18,
    host_weights=(178_257_920, *(182_622_208,) * 17, 259_856_384, 259_858_944),
    full_cache=tuple(512 if layer % 6 == 5 else 0 for layer in range(18)),
    window_cache=tuple(0 if layer % 6 == 5 else 512 for layer in range(18)),
    states=(0,) * 18,
    output_weights=178_260_480,
)


def a_variant(
    shape: Shape, context: int = 2048, slots: int = 1, kv_type: str = "f16", flash: bool | None = None
) -> Variant:
    return Variant(VariantId("v"), "v", "/v.gguf", shape, context, slots, kv_type, flash)


def on(card: DeviceId | None, layers: int, shape: Shape, micro_batch: int = 512) -> Placement:
    return Placement((card,) if card else (), layers, shape.offloadable, micro_batch)


def cache_bytes(variant: Variant, micro_batch: int, start: int, end: int) -> int:
    return Arithmetic(variant, micro_batch).cache(start, end)


def weights_and_cache(variant: Variant, placement: Placement) -> Footprint:
    return Arithmetic(variant, placement.micro_batch).weights_and_cache(placement)


def compute(variant: Variant, placement: Placement) -> Footprint:
    return Arithmetic(variant, placement.micro_batch).compute(placement)


MEASURED = [
    (SMOLLM, 2048, "f16", 512, 0, 0, 160_224_544),
    (SMOLLM, 2048, "q8_0", 512, 0, 0, 136_959_264),
    (SMOLLM, 8192, "f16", 512, 15, 169_389_440, 219_991_072),
    (SMOLLM, 2048, "q4_0", 128, 15, 70_815_616, 107_653_152),
    (SMOLLM, 8192, "f16", 128, 31, 290_664_320, 32_967_712),
    (SMOLLM, 2048, "f16", 512, 1, 30_282_240, 160_222_240),
    (GEMMA, 2048, "f16", 512, 0, 0, 304_706_080),
    (GEMMA, 8192, "f16", 512, 18, 307_098_240, 212_789_280),
    (GEMMA, 2048, "f16", 512, 19, 289_073_792, 185_094_176),
]
"""Context, KV type, micro-batch, layers on the card; what the card and the host then held by llama.cpp's books."""


@pytest.mark.parametrize(("shape", "context", "kv_type", "micro_batch", "layers", "card", "host"), MEASURED)
def test_the_arithmetic_is_within_two_mebibytes_of_what_llama_cpp_takes(
    shape: Shape, context: int, kv_type: str, micro_batch: int, layers: int, card: int, host: int
) -> None:
    variant = a_variant(shape, context, 1, kv_type)
    told = arithmetic(variant, on(CARD if layers else None, layers, shape, micro_batch))
    assert abs(told[CARD] - card) < 2 * MiB
    assert abs(told[HOST] - process_bytes(variant) - host) < 2 * MiB


def test_the_cache_takes_what_its_types_say() -> None:
    """2,000 tokens of SmolLM2 were 46 MB when saved; llama.cpp rounds a context up to 256 tokens."""
    assert cache_bytes(a_variant(SMOLLM, 2000), 512, 0, 30) == 30 * 384 * 2048 * 2
    assert cache_bytes(a_variant(SMOLLM, 2048, kv_type="q8_0"), 512, 0, 30) == 30 * 384 * 2048 * 34 // 32
    assert cache_bytes(a_variant(SMOLLM, 2048, 3, "q4_0"), 512, 10, 20) == 3 * 10 * 384 * 2048 * 18 // 32
    assert cells(a_variant(SMOLLM, 100, slots=3)) == 256


def test_each_slot_may_copy_what_cannot_be_cut_back() -> None:
    """Of Gemma the windows of 15 layers, 8 MB; of SmolLM2 nothing."""
    four, one = a_variant(GEMMA, 8192, 4), a_variant(GEMMA, 8192)
    assert process_bytes(four) - process_bytes(one) == 3 * 15 * 512 * 512 * 2
    assert process_bytes(a_variant(SMOLLM, 8192, 4)) == process_bytes(a_variant(SMOLLM, 8192))


def test_adapters_lie_beside_the_layers_that_they_change() -> None:
    """Ten of SmolLM2's 30 layers and the output on the card: a third of the adapters; each place computes with them."""
    plain = a_variant(SMOLLM, 2048)
    adapters = (Adapter("a", "/a", "1", 20 * MiB), Adapter("b", "/b", "2", 40 * MiB))
    place = on(CARD, 11, SMOLLM)
    more = arithmetic(replace(plain, adapters=adapters), place)
    less = arithmetic(plain, place)
    compute = 512 * SMOLLM.feed_forward * 4
    assert more[CARD] - less[CARD] == 22 * MiB + compute, "the output counts as a layer: the larger guess"
    assert more[HOST] - less[HOST] == 40 * MiB + compute
    alone = on(None, 0, SMOLLM)
    added = arithmetic(replace(plain, adapters=adapters), alone)[HOST] - arithmetic(plain, alone)[HOST]
    assert added == 60 * MiB + compute


def test_a_window_keeps_itself_and_a_micro_batch() -> None:
    """Three layers of 18 keep the whole context."""
    assert cache_bytes(a_variant(GEMMA, 8192), 512, 0, 18) == (3 * 8192 + 15 * 1024) * 512 * 2
    assert cache_bytes(a_variant(GEMMA, 8192), 128, 0, 18) == (3 * 8192 + 15 * 768) * 512 * 2
    assert cache_bytes(a_variant(GEMMA, 512), 512, 0, 18) == 18 * 512 * 512 * 2


def test_a_recurrent_layer_keeps_its_state_for_each_slot_whatever_the_context() -> None:
    mixed = replace(SMOLLM, full_cache=(384, 0) * 15, states=(0, 1000) * 15)
    grown = [cache_bytes(a_variant(mixed, context, 4), 512, 0, 30) for context in (1024, 2048)]
    assert grown[1] - grown[0] == 4 * 15 * 384 * 1024 * 2
    assert grown[0] == 4 * 15 * (384 * 1024 * 2 + 1000)


def test_latent_attention_keeps_what_the_shape_says() -> None:
    latent = replace(SMOLLM, full_cache=(576,) * 30)
    assert cache_bytes(a_variant(latent), 512, 0, 30) == 30 * 576 * 2048 * 2


def test_shared_embeddings_are_on_both_sides_when_the_output_is_on_the_card() -> None:
    split = weights_and_cache(a_variant(SMOLLM, 256), on(CARD, 1, SMOLLM))
    assert split[CARD] == SMOLLM.output_weights
    assert split[HOST] > SMOLLM.host_weights[30]


def test_experts_of_the_first_layers_on_the_card_are_taken_from_it() -> None:
    mixture = replace(SMOLLM, expert_weights=(0, 0, *(MiB,) * 28), expert_layers=28)
    full = on(CARD, 31, mixture)
    plain = weights_and_cache(a_variant(mixture), full)
    kept = weights_and_cache(a_variant(mixture), replace(full, experts_on_cpu=5))
    assert (plain[CARD] - kept[CARD], kept[HOST] - plain[HOST]) == (5 * MiB, 5 * MiB)
    few = weights_and_cache(a_variant(mixture), replace(on(CARD, 4, mixture), experts_on_cpu=99))
    assert weights_and_cache(a_variant(mixture), on(CARD, 4, mixture))[CARD] - few[CARD] == 3 * MiB


@pytest.mark.parametrize(("split", "first"), [((0.5, 0.5), 16), ((0.8, 0.2), 25), ((), 16), ((0.0, 1.0), 0)])
def test_several_cards_get_their_shares_in_order_and_the_last_one_the_output(
    split: tuple[float, ...], first: int
) -> None:
    """Shares count layers, the output too: 31 of them."""
    both = Placement((CARD, OTHER_CARD), 31, 31, 512, 0, split)
    told = weights_and_cache(a_variant(SMOLLM), both)
    layer = 2_216_448 + 384 * 2048 * 2
    assert told[CARD] == first * layer
    assert told[OTHER_CARD] == (30 - first) * layer + SMOLLM.output_weights


def test_without_flash_attention_the_scores_of_every_head_count() -> None:
    plain = compute(a_variant(SMOLLM), on(CARD, 31, SMOLLM))
    scored = compute(a_variant(SMOLLM, flash=False), on(CARD, 31, SMOLLM))
    assert 0 < 9 * 512 * 2048 * 4 - (scored[CARD] - plain[CARD]) < 8 * MiB, "in place of the feed-forward's"


def test_a_smaller_micro_batch_takes_less() -> None:
    large, small = (compute(a_variant(GEMMA), on(CARD, 19, GEMMA, batch))[CARD] for batch in (512, 128))
    assert 3.5 * small < large < 4.5 * small


def test_rows_of_logits_are_one_a_slot() -> None:
    one, four = (compute(a_variant(GEMMA, slots=slots), on(CARD, 1, GEMMA))[CARD] for slots in (1, 4))
    assert four == 4 * one == 4 * (262_144 + 640) * 4


def test_a_shape_that_knows_no_layers_is_spread_evenly() -> None:
    model = variant("a", 4 * GiB)
    assert arithmetic(model, Placement((CARD,), 4, 4, 512)) == Footprint.of({CARD: 4 * GiB, HOST: PROCESS})
    assert arithmetic(model, Placement((CARD,), 1, 4, 512)) == Footprint.of({CARD: GiB, HOST: PROCESS + 3 * GiB})
    assert arithmetic(model, Placement((), 0, 4, 512)) == Footprint.of({HOST: PROCESS + 4 * GiB})


def test_a_draft_is_counted_beside_its_model_and_proposals_take_rows() -> None:
    model = a_variant(GEMMA, 2048, 2)
    draft = a_variant(SMOLLM, 2048, 2)
    place = on(CARD, GEMMA.offloadable, GEMMA)
    alone, beside = arithmetic(model, place), arithmetic(draft, on(CARD, SMOLLM.offloadable, SMOLLM))
    both = arithmetic(replace(model, speculates=True, draft=draft), place)
    rows = PROPOSALS * GEMMA.vocabulary * 4
    assert both[CARD] >= alone[CARD] + beside[CARD]
    assert alone[HOST] + rows < both[HOST] < alone[HOST] + beside[HOST] + rows
    split = arithmetic(replace(model, speculates=True, draft=draft), on(None, 0, GEMMA))
    assert split[CARD] == 0


def test_a_projector_is_counted_on_its_models_first_card_or_on_the_host() -> None:
    plain = a_variant(SMOLLM, 2048, 2)
    seeing = replace(plain, projector=Projector("mmproj.gguf", "c", 100 * MiB, 20 * MiB))
    for place, device in ((on(CARD, SMOLLM.offloadable, SMOLLM), CARD), (on(None, 0, SMOLLM), HOST)):
        before, after = arithmetic(plain, place), arithmetic(seeing, place)
        assert after[device] == before[device] + 120 * MiB
        other = HOST if device is CARD else CARD
        assert after[other] == before[other]


def test_a_model_that_sees_pictures_whole_keeps_its_micro_batch() -> None:
    seeing = replace(a_variant(SMOLLM, 2048, 2), projector=Projector("mmproj.gguf", "c", MiB, MiB, sees_whole=True))
    assert micro_batches(seeing) == (MICRO_BATCH,)
