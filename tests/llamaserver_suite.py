"""Which of llama.cpp's own server tests are asked of swapd: `python -m tests.llamaserver_suite > docs/llama-server.md`.

By file and name, as of the release that `pyproject.toml` pins. What stands for one of them is a test of ours, checked
to exist by `tests/test_llamaserver_suite.py`; what is left out says why.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Why(Enum):
    WEIGHTS = "their weights"
    OUTSIDE = "not in swapd's contract"
    OTHERWISE = "swapd does otherwise on purpose"
    MEDIA = "not for pictures yet"


@dataclass(frozen=True, slots=True)
class Left:
    why: Why
    words: str


def weights(words: str = "expects what a model of its choice writes") -> Left:
    return Left(Why.WEIGHTS, words)


def outside(words: str) -> Left:
    return Left(Why.OUTSIDE, words)


def otherwise(words: str) -> Left:
    return Left(Why.OTHERWISE, words)


def media(words: str) -> Left:
    return Left(Why.MEDIA, words)


_S: Final = "tests/e2e/test_llamaserver_suite.py::"
_IMAGES: Final = "tests/e2e/test_images.py::"
_API: Final = "tests/api/test_"
_CLIENTS: Final = "tests/e2e/test_clients.py::"
_OPENAI: Final = f"{_CLIENTS}TestOpenAI::"
_DRAFTS: Final = "tests/worker/test_drafting.py::"
_VECTORS: Final = "tests/e2e/test_vectors.py::"
_METRICS: Final = f"{_API}metrics.py::"
_KEYS: Final = f"{_API}guard.py::"
_A: Final = f"{_API}anthropic.py::"
_CALLS: Final = f"{_API}tools.py::"
_SAVED: Final = "tests/worker/test_images.py::test_a_conversation_with_pictures_is_saved_and_goes_on_in_another_process"
_OF_VECTORS: Final = "tests/worker/test_vectors.py::"
_MESSAGES: Final = f"{_S}TestMessages::test_anthropics_messages_are_answered_with_what_they_bring"
_PAGES: Final = "its own page's: swapd has another"
_MCP: Final = outside("MCP servers run by the server")
_TOOLS: Final = outside("tools run by the server")
_RELOADS: Final = outside("streams that go on after their client has left")
_SYNTH: Final = outside("made-up acceptance rates for measuring drafts")

SUITE: Final[Mapping[str, Mapping[str, str | Left]]] = {
    "test_basic.py": {
        "test_server_start_simple": f"{_S}TestBasics::test_the_server_tells_of_itself",
        "test_server_multiple_addresses": "tests/host/test_listen.py::test_ipv6_works_where_the_machine_has_it",
        "test_server_props": f"{_S}TestBasics::test_the_server_tells_of_itself",
        "test_server_models": f"{_S}TestBasics::test_models_are_listed_with_their_aliases",
        "test_server_slots": f"{_S}TestBasics::test_slots_are_listed_and_idle_after_an_answer",
        "test_load_split_model": "tests/host/test_catalog.py::test_split_files_are_one_model",
        "test_no_ui": outside("its page can be switched off"),
        "test_server_model_aliases_and_tags": f"{_S}TestBasics::test_models_are_listed_with_their_aliases",
    },
    "test_chat_completion.py": {
        "test_chat_completion": f"{_S}TestChat::test_roles_come_first_and_the_same_id_stays",
        "test_chat_completion_cached_tokens": f"{_S}TestChat::test_what_is_read_again_is_only_what_changed",
        "test_chat_completion_stream": f"{_S}TestChat::test_roles_come_first_and_the_same_id_stays",
        "test_chat_completion_with_openai_library": f"{_OPENAI}test_a_stream_says_what_a_whole_answer_does",
        "test_chat_template": f"{_S}TestTemplates::test_a_conversation_is_written_as_the_template_has_it",
        "test_chat_template_assistant_prefill": (
            f"{_S}TestTemplates::test_an_answer_goes_on_from_the_assistants_words"
        ),
        "test_chat_template_continue_final_message_vllm_compat": (
            f"{_S}TestTemplates::test_an_answer_goes_on_from_the_assistants_words"
        ),
        "test_chat_template_continue_final_message_mutual_exclusion": (
            f"{_S}TestTemplates::test_going_on_and_beginning_anew_exclude_each_other"
        ),
        "test_apply_chat_template": f"{_S}TestTemplates::test_a_conversation_is_written_as_the_template_has_it",
        "test_completion_with_response_format": f"{_S}TestChat::test_an_answer_follows_its_schema_or_grammar",
        "test_completion_with_json_schema": f"{_S}TestChat::test_an_answer_follows_its_schema_or_grammar",
        "test_completion_with_grammar": f"{_S}TestChat::test_an_answer_follows_its_schema_or_grammar",
        "test_completion_with_invalid_grammar": f"{_S}TestChat::test_what_makes_no_sense_is_refused",
        "test_invalid_chat_completion_req": f"{_S}TestChat::test_what_makes_no_sense_is_refused",
        "test_chat_completion_with_timings_per_token": (
            f"{_S}TestChat::test_timings_come_with_each_piece_where_wanted"
        ),
        "test_logprobs": f"{_S}TestChat::test_the_likelihoods_of_all_tokens_spell_the_text",
        "test_logprobs_stream": f"{_S}TestChat::test_the_likelihoods_of_all_tokens_spell_the_text",
        "test_logit_bias": f"{_S}TestCompletion::test_biases_are_pairs_or_an_object_of_tokens_or_texts",
        "test_context_size_exceeded": (
            f"{_S}TestCompletion::test_a_prompt_over_the_context_is_refused_with_its_size_also_for_a_stream"
        ),
        "test_context_size_exceeded_stream": (
            f"{_S}TestCompletion::test_a_prompt_over_the_context_is_refused_with_its_size_also_for_a_stream"
        ),
        "test_return_progress": f"{_S}TestChat::test_how_far_the_prompt_is_read_is_told_where_wanted",
        "test_chat_completions_multiple_choices": f"{_S}TestChat::test_several_choices_of_one_slot",
        "test_chat_completions_token_count": f"{_S}TestChat::test_prompts_are_counted_before_they_are_sent",
        "test_verbose_debug": outside("`verbose`: `/apply-template` tells the prompt"),
    },
    "test_compat_anthropic.py": {
        "test_anthropic_messages_basic": _MESSAGES,
        "test_anthropic_messages_with_system": _MESSAGES,
        "test_anthropic_messages_multipart_content": _MESSAGES,
        "test_anthropic_messages_conversation": _MESSAGES,
        "test_anthropic_messages_streaming": f"{_A}test_the_events_of_a_stream_come_in_anthropics_order",
        "test_anthropic_count_tokens": f"{_CLIENTS}TestAnthropic::test_tokens_are_counted_as_they_are_read",
        "test_anthropic_count_tokens_with_system": (
            f"{_A}test_tokens_are_counted_of_the_prompt_that_the_messages_would_make"
        ),
        "test_anthropic_count_tokens_no_max_tokens": (
            f"{_CLIENTS}TestAnthropic::test_tokens_are_counted_as_they_are_read"
        ),
        "test_anthropic_tool_use_basic": f"{_CLIENTS}TestAnthropic::test_a_tool_is_called_and_its_result_read",
        "test_anthropic_tool_result": f"{_S}TestMessages::test_results_of_tools_are_read",
        "test_anthropic_tool_result_with_text": f"{_S}TestMessages::test_results_of_tools_are_read",
        "test_anthropic_tool_result_with_image": (f"{_A}test_what_cannot_be_served_is_refused_in_anthropics_words"),
        "test_anthropic_tool_result_error": f"{_S}TestMessages::test_results_of_tools_are_read",
        "test_anthropic_tool_streaming": f"{_A}test_a_stream_gives_what_a_whole_answer_does",
        "test_anthropic_vision_format_accepted": f"{_A}test_what_cannot_be_served_is_refused_in_anthropics_words",
        "test_anthropic_vision_base64_with_multimodal_model": (
            f"{_IMAGES}test_anthropics_client_counts_what_it_is_then_charged"
        ),
        "test_anthropic_stop_sequences": f"{_CLIENTS}TestAnthropic::test_a_stop_sequence_ends_it",
        "test_anthropic_temperature": _MESSAGES,
        "test_anthropic_top_p": _MESSAGES,
        "test_anthropic_top_k": _MESSAGES,
        "test_anthropic_missing_messages": f"{_S}TestMessages::test_without_messages_there_is_no_answer",
        "test_anthropic_empty_messages": otherwise("no messages are a 400, as Anthropic has it; llama-server answers"),
        "test_anthropic_streaming_content_block_indices": f"{_A}test_thoughts_text_and_calls_are_blocks",
        "test_anthropic_thinking": _MESSAGES,
        "test_anthropic_metadata": _MESSAGES,
        "test_anthropic_vs_openai_different_response_format": _MESSAGES,
        "test_anthropic_thinking_history_in_count_tokens": (
            f"{_A}test_tokens_are_counted_of_the_prompt_that_the_messages_would_make"
        ),
        "test_anthropic_thinking_history_in_template": f"{_CALLS}test_a_conversation_with_calls_reaches_the_gateway",
        "test_anthropic_thinking_with_reasoning_model": f"{_A}test_thoughts_text_and_calls_are_blocks",
    },
    "test_compat_gcp.py": dict.fromkeys(
        ("test_gcp_predict_camel_case", "test_gcp_predict_multiple_instances"), outside("Vertex AI's `/predict`")
    ),
    "test_compat_oai_responses.py": {
        "test_responses_with_openai_library": (f"{_CLIENTS}TestOpenAI::test_responses_are_created_and_streamed"),
        "test_responses_stream_with_openai_library": f"{_API}responses.py::test_the_events_of_an_item_come_in_order",
        "test_responses_stream_with_llama_telemetry": (
            f"{_S}TestChat::test_how_far_the_prompt_is_read_is_told_where_wanted"
        ),
    },
    "test_completion.py": {
        "test_completion": f"{_S}TestCompletion::test_an_answer_tells_its_costs_and_its_tokens_where_asked",
        "test_completion_stream": f"{_S}TestCompletion::test_a_stream_says_what_the_whole_answer_does",
        "test_completion_stream_vs_non_stream": f"{_S}TestCompletion::test_a_stream_says_what_the_whole_answer_does",
        "test_completion_with_openai_library": f"{_CLIENTS}TestOpenAI::test_plain_completions",
        "test_completion_stream_with_openai_library": f"{_API}openai.py::test_a_streamed_completion",
        "test_completion_stream_with_openai_library_stops": (
            "tests/worker/test_generate.py::test_the_first_stop_string_ends_the_answer"
        ),
        "test_consistent_result_same_seed": f"{_S}TestCompletion::test_a_seed_repeats_itself_and_another_does_not",
        "test_different_result_different_seed": (
            f"{_S}TestCompletion::test_a_seed_repeats_itself_and_another_does_not"
        ),
        "test_consistent_result_different_batch_size": (
            "tests/worker/test_generate.py::test_greedy_text_is_the_same_alone_and_beside_others"
        ),
        "test_cache_vs_nocache_prompt": ("tests/worker/test_generate.py::test_the_same_prompt_again_is_mostly_cached"),
        "test_nocache_long_input_prompt": (
            f"{_S}TestCompletion::test_a_prompt_over_the_context_is_refused_with_its_size_also_for_a_stream"
        ),
        "test_json_prompt_no_mtmd": f"{_S}TestCompletion::test_prompts_are_texts_tokens_objects_and_mixtures",
        "test_json_prompt_mtm_error_when_not_supported": (
            f"{_S}TestCompletion::test_media_for_a_model_that_reads_none_are_refused"
        ),
        "test_completion_with_tokens_input": f"{_S}TestCompletion::test_prompts_are_texts_tokens_objects_and_mixtures",
        "test_completion_parallel_slots": f"{_S}TestCompletion::test_all_are_answered_by_two_slots",
        "test_completion_unified": otherwise("each slot has its whole context: nobody's answer is cut for another's"),
        "test_completion_response_fields": f"{_S}TestCompletion::test_only_the_fields_that_were_asked_for",
        "test_n_probs": f"{_S}TestCompletion::test_likelihoods_are_told_of_each_token",
        "test_n_probs_stream": f"{_S}TestCompletion::test_likelihoods_are_told_of_each_token",
        "test_n_probs_post_sampling": (
            f"{_S}TestCompletion::test_probabilities_after_the_filters_are_of_what_could_be_drawn"
        ),
        "test_n_probs_post_backend_sampling": outside("drawing on the card; `backend_sampling` changes nothing"),
        "test_logit_bias": f"{_S}TestCompletion::test_biases_are_pairs_or_an_object_of_tokens_or_texts",
        "test_cancel_request": f"{_S}TestCompletion::test_a_caller_that_leaves_frees_its_slot",
        "test_completion_prompt_cache": f"{_S}TestCompletion::test_of_alternating_prompts_all_tokens_are_accounted_for",
    },
    "test_ctx_shift.py": {
        "test_ctx_shift_enabled": outside("contexts that forget their beginning"),
        "test_ctx_shift_disabled_short_prompt": (
            f"{_S}TestCompletion::test_without_the_end_it_goes_on_to_the_end_of_the_context"
        ),
        "test_ctx_shift_disabled_long_prompt": (
            f"{_S}TestCompletion::test_a_prompt_over_the_context_is_refused_with_its_size_also_for_a_stream"
        ),
        "test_ctx_shift_disabled_stream": f"{_API}openai.py::test_running_into_the_limit_is_told",
    },
    "test_embedding.py": {
        "test_embedding_single": f"{_VECTORS}test_the_official_client_gets_vectors_of_a_model_made_for_them",
        "test_embedding_multiple": f"{_VECTORS}test_a_list_has_the_vectors_that_its_texts_have_alone",
        "test_embedding_multiple_with_fa": f"{_VECTORS}test_a_list_has_the_vectors_that_its_texts_have_alone",
        "test_embedding_mixed_input": f"{_S}TestVectors::test_inputs_are_texts_tokens_and_objects",
        "test_embedding_content_text_same_as_string": f"{_S}TestVectors::test_the_parts_of_an_input_are_one_text",
        "test_embedding_invalid_input": f"{_S}TestVectors::test_other_inputs_are_refused",
        "test_embedding_pooling_mean": f"{_OF_VECTORS}test_vectors_have_length_one_and_tell_texts_apart",
        "test_embedding_pooling_mean_multiple": (
            f"{_OF_VECTORS}test_a_text_beside_others_has_the_vector_that_it_has_alone"
        ),
        "test_embedding_pooling_none": outside("a vector for each token"),
        "test_embedding_pooling_none_oai": outside("a vector for each token"),
        "test_embedding_openai_library_single": (
            f"{_VECTORS}test_the_official_client_gets_vectors_of_a_model_made_for_them"
        ),
        "test_embedding_openai_library_multiple": (
            f"{_VECTORS}test_the_official_client_gets_vectors_of_a_model_made_for_them"
        ),
        "test_embedding_error_prompt_too_long": (
            f"{_VECTORS}test_too_long_is_a_400_with_both_numbers_unless_ollama_s_client_lets_it_be_cut"
        ),
        "test_same_prompt_give_same_result": f"{_VECTORS}test_a_list_has_the_vectors_that_its_texts_have_alone",
        "test_embedding_usage_single": f"{_S}TestVectors::test_inputs_are_texts_tokens_and_objects",
        "test_embedding_usage_multiple": f"{_S}TestVectors::test_inputs_are_texts_tokens_and_objects",
        "test_embedding_openai_library_base64": f"{_API}embeddings.py::test_openai_s_base64_is_of_32_bit_floats",
    },
    "test_ignore_eos.py": {
        "test_ignore_eos_populates_logit_bias": f"{_S}TestCompletion::test_the_bans_of_ignoring_the_end_are_told",
        "test_ignore_eos_false_no_logit_bias": f"{_S}TestCompletion::test_the_bans_of_ignoring_the_end_are_told",
    },
    "test_infill.py": {
        "test_infill_without_input_extra": f"{_S}TestInfill::test_it_fills_in_with_other_files_or_without",
        "test_infill_with_input_extra": f"{_S}TestInfill::test_it_fills_in_with_other_files_or_without",
        "test_invalid_input_extra_req": f"{_S}TestInfill::test_other_files_need_a_text",
        "test_with_qwen_model": weights(),
    },
    "test_kv_keep_only_active.py": {
        "test_clear_and_restore": (
            "tests/e2e/test_prompt_state.py::test_a_chat_goes_on_with_its_next_question_after_an_eviction"
        ),
        "test_disabled_with_flag": "tests/e2e/test_prompt_state.py::test_without_a_prompt_cache_nothing_is_saved",
    },
    "test_lora.py": {
        "test_lora": otherwise("adapters are not set for everybody: a request names its own; 501 says so"),
        "test_lora_per_request": f"{_S}TestCompletion::test_adapters_are_listed_and_a_request_may_name_one",
        "test_with_big_model": weights(),
    },
    "test_mcp_servers.py": dict.fromkeys(
        (
            "test_mcp_tools_listed_in_tools_endpoint",
            "test_mcp_tool_invocation",
            "test_mcp_bad_command_does_not_crash",
            "test_mcp_multiple_servers",
            "test_mcp_tools_not_listed_when_not_configured",
            "test_mcp_fail_once_tool_eventual_success",
            "test_mcp_tools_via_json_config_file",
            "test_mcp_tools_slot_independent",
            "test_mcp_concurrent_tool_calls",
            "test_mcp_tool_timeout",
            "test_mcp_warmup_partial_failure",
            "test_mcp_notification_during_request",
            "test_mcp_instance_respawn_after_crash",
            "test_mcp_fail_once_eventual_success_verified",
            "test_mcp_config_file_errors",
            "test_mcp_empty_tool_list",
            "test_mcp_rapid_succession_calls",
            "test_mcp_notification_burst",
            "test_mcp_tool_definition_shape_via_chat_completions",
            "test_mcp_slow_tool_call_slot_release",
            "test_mcp_grandchild_holding_pipes_does_not_deadlock",
        ),
        _MCP,
    ),
    "test_metrics.py": {
        "test_metrics_disabled": otherwise("metrics are always told"),
        "test_metrics_prometheus_format": f"{_METRICS}test_every_promised_name_is_there_and_parses",
        "test_metrics_prompt_processed_and_cached": f"{_S}TestCompletion::test_sums_are_those_of_the_answers",
        "test_metrics_predicted_total_matches_requests": f"{_S}TestCompletion::test_sums_are_those_of_the_answers",
        "test_metrics_generation_rate_excludes_first_token": otherwise(
            "a rate is of all tokens over the time from the first on, and never of none"
        ),
        "test_metrics_timings_are_finite": f"{_S}TestCompletion::test_timings_are_numbers_and_none_is_negative",
        "test_metrics_timings_on_prompt_progress": (
            f"{_S}TestChat::test_how_far_the_prompt_is_read_is_told_where_wanted"
        ),
        "test_metrics_slots_idle_after_completion": f"{_S}TestBasics::test_slots_are_listed_and_idle_after_an_answer",
        "test_metrics_embedding_prompt_is_counted": f"{_S}TestVectors::test_what_is_embedded_is_counted_as_read",
    },
    "test_proxy.py": dict.fromkeys(
        ("test_mcp_no_proxy", "test_mcp_proxy", "test_mcp_proxy_custom_port", "test_mcp_proxy_no_content"),
        outside("a proxy for the page's MCP clients"),
    ),
    "test_rerank.py": {
        "test_rerank": f"{_VECTORS}test_documents_are_ranked_by_the_model_of_the_route",
        "test_rerank_tei_format": f"{_API}embeddings.py::test_documents_come_back_best_first",
        "test_invalid_rerank_req": f"{_S}TestVectors::test_only_texts_are_ranked",
        "test_rerank_usage": f"{_S}TestVectors::test_as_many_are_ranked_as_there_are_and_are_wanted",
        "test_rerank_top_n": f"{_S}TestVectors::test_as_many_are_ranked_as_there_are_and_are_wanted",
        "test_rerank_tei_top_n": f"{_S}TestVectors::test_as_many_are_ranked_as_there_are_and_are_wanted",
    },
    "test_router.py": {
        "test_router_props": f"{_S}TestRouter::test_a_server_of_several_models_says_that_it_is_one",
        "test_router_chat_completion_stream": (
            f"{_S}TestRouter::test_a_stream_loads_its_model_and_an_unknown_one_is_refused_before_it_begins"
        ),
        "test_router_unload_model": f"{_S}TestRouter::test_models_are_loaded_and_unloaded_by_name",
        "test_router_models_max_evicts_lru": (f"{_S}TestRouter::test_beyond_the_limit_the_one_used_longest_ago_leaves"),
        "test_router_queue_does_not_evict_busy_model": (f"{_S}TestRouter::test_who_waits_does_not_evict_a_busy_model"),
        "test_router_queue_coalesces_requests_for_same_model": (
            f"{_S}TestRouter::test_who_wait_for_one_model_cost_one_eviction"
        ),
        "test_router_queue_client_disconnect_keeps_model": (
            f"{_S}TestRouter::test_who_leaves_the_queue_costs_nobody_their_place"
        ),
        "test_router_queue_is_fifo": f"{_S}TestRouter::test_models_come_in_the_order_of_their_requests",
        "test_router_queue_two_waiters_share_one_eviction": (
            f"{_S}TestRouter::test_two_who_want_one_place_are_both_served"
        ),
        "test_router_no_models_autoload": otherwise("a model that is asked for is loaded"),
        "test_router_api_key_required": f"{_KEYS}test_every_route_but_health_needs_the_key",
        "test_router_reload_models": f"{_S}TestRouter::test_the_configuration_read_again_brings_and_takes_models",
        "test_router_dedup_cache_models": (
            "tests/host/test_catalog.py::test_a_file_that_an_entry_names_is_listed_by_that_name_only"
        ),
        "test_router_remote_preset": outside("presets fetched from a repository"),
        "test_router_download_model": otherwise("`/api/pull` and `swapctl pull` are swapd's way"),
        "test_router_delete_model": otherwise("models are files, which swapd only reads"),
    },
    "test_security.py": {
        "test_access_public_endpoint": f"{_KEYS}test_every_route_but_health_needs_the_key",
        "test_access_static_assets_without_api_key": outside(_PAGES),
        "test_incorrect_api_key": f"{_KEYS}test_keys",
        "test_correct_api_key": f"{_KEYS}test_keys",
        "test_correct_api_key_anthropic_header": f"{_KEYS}test_keys",
        "test_openai_library_correct_api_key": f"{_KEYS}test_keys",
        "test_cors_options": f"{_KEYS}test_preflights_of_allowed_origins_are_answered_without_a_key",
        "test_cors_origins_localhost_reflects": f"{_KEYS}test_allowed_origins_may_read_answers",
        "test_cors_origins_localhost_rejects": f"{_KEYS}test_foreign_origins_are_refused_on_every_route",
        "test_cors_origins_defaults_to_localhost_with_tools_enabled": (
            f"{_KEYS}test_every_route_there_is_refuses_foreign_hosts_and_pages_and_asks_nobody"
        ),
        "test_cors_proxy_only_forwards_explicit_proxy_headers": outside("a proxy for the page's MCP clients"),
        "test_local_media_file": otherwise("files of the server's are never read for a request"),
    },
    "test_sleep.py": {
        "test_server_sleep": f"{_S}TestSleep::test_a_model_that_sleeps_is_told_of_and_wakes_when_asked",
        "test_server_sleep_read_only_endpoints": (
            f"{_S}TestSleep::test_a_model_that_sleeps_is_told_of_and_wakes_when_asked"
        ),
        "test_server_sleep_metrics_buckets": outside("rates between two readings; Prometheus makes them of the sums"),
        "test_server_sleep_token_counting_wake": (
            f"{_S}TestSleep::test_a_model_that_sleeps_is_told_of_and_wakes_when_asked"
        ),
    },
    "test_slot_save.py": {
        "test_slot_save_restore": (
            "tests/e2e/test_prompt_state.py::test_a_conversation_goes_on_after_an_eviction_and_after_a_restart"
        ),
        "test_slot_restore_legacy_token_list": outside("files that an older llama-server saved"),
        "test_slot_erase": otherwise("501 says so; `cache_prompt` false reads a prompt anew"),
        "test_slot_save_restore_text_only_on_multimodal": _SAVED,
        "test_slot_save_restore_with_image": _SAVED,
        "test_slot_save_restore_with_two_images": _SAVED,
        "test_slot_save_restore_with_image_across_restart": _SAVED,
        "test_slot_save_restore_image_payload_larger_than_context": _SAVED,
        "test_slot_restore_media_file_without_mmproj": (
            "tests/worker/test_images.py::test_what_was_saved_with_pictures_is_no_trouble_to_a_model_that_takes_none"
        ),
    },
    "test_speculative.py": {
        "test_with_and_without_draft": f"{_DRAFTS}test_a_draft_model_proposes_and_the_answer_stays",
        "test_different_draft_min_draft_max": f"{_DRAFTS}test_proposals_are_as_long_as_they_pay",
        "test_synth_is_deterministic": _SYNTH,
        "test_synth_ignores_target_tokens": _SYNTH,
        "test_slot_ctx_not_exceeded": f"{_DRAFTS}test_limits_stops_and_reuse_hold_amid_proposals",
        "test_with_ctx_shift": outside("contexts that forget their beginning"),
        "test_multi_requests_parallel": f"{_DRAFTS}test_a_draft_model_proposes_and_the_answer_stays",
    },
    "test_stream.py": {
        "test_stream_resume_and_stop_with_slashed_model_name": _RELOADS,
        "test_stream_stop_during_model_load": (
            "tests/core/test_queue.py::test_a_request_cancelled_while_it_waits_is_gone_at_once"
        ),
        "test_stream_resumes_after_reload_during_model_load": _RELOADS,
    },
    "test_template.py": {
        "test_reasoning": "tests/worker/test_chat.py::test_whether_to_think_is_told",
        "test_date_inside_prompt": "tests/worker/test_chat.py::test_todays_date_is_there",
        "test_add_generation_prompt": f"{_S}TestTemplates::test_the_assistants_turn_is_begun_unless_told_otherwise",
    },
    "test_tokenize.py": {
        "test_tokenize_detokenize": f"{_S}TestTokens::test_a_text_comes_back_from_its_tokens",
        "test_tokenize_with_bos": f"{_S}TestTokens::test_the_beginning_of_a_text_is_marked_where_that_is_asked_for",
        "test_tokenize_with_pieces": f"{_S}TestTokens::test_every_token_has_its_piece",
    },
    "test_tool_call.py": {
        "test_completion_with_required_tool_real_model": (
            "tests/e2e/test_tools.py::test_forced_calls_are_valid_on_every_model"
        ),
        "test_completion_without_tool_call_fast": f"{_S}TestChat::test_nothing_is_called_without_tools",
        "test_completion_without_tool_call_slow": f"{_S}TestChat::test_nothing_is_called_without_tools",
        "test_weather": weights("expects that a model chooses a tool by itself"),
        "test_calc_result": weights("expects that a model reads a result rightly"),
        "test_thoughts": weights("expects what a model thinks"),
        "test_hello_world": weights("expects what a model programs"),
    },
    "test_tools_builtin.py": dict.fromkeys(
        (
            "test_tools_builtin_grep_search",
            "test_tools_builtin_read_file",
            "test_tools_builtin_write_then_edit_file",
            "test_tools_builtin_edit_file_rejects_non_unique_old_text",
            "test_tools_builtin_exec_shell_command_stream",
            "test_tools_builtin_cwd_header",
            "test_tools_builtin_runtime_header",
            "test_tools_builtin_runtime_header_unknown_scheme",
            "test_tools_builtin_runtime_header_rejects_ssh_option_injection",
            "test_tools_builtin_runtime_header_rejects_container_option_injection",
            "test_tools_builtin_docker_runtime_cleans_up_spawned_container",
            "test_tools_builtin_edit_file_rejects_overlapping_edits",
            "test_tools_builtin_file_glob_search_type_dir",
            "test_tools_builtin_file_glob_search_max_depth_and_limit",
            "test_tools_builtin_file_glob_search_junk_dirs",
            "test_tools_builtin_file_glob_search_rejects_invalid_type",
            "test_tools_builtin_cwd_header_overrides_model_param",
            "test_tools_builtin_cwd_relative_paths",
        ),
        _TOOLS,
    ),
    "test_vision_api.py": {
        "test_models_supports_multimodal_capability": f"{_IMAGES}test_llama_servers_routes",
        "test_v1_models_supports_multimodal_capability": f"{_IMAGES}test_llama_servers_routes",
        "test_vision_chat_completion": f"{_IMAGES}test_openais_client",
        "test_vision_chat_completion_token_count": f"{_IMAGES}test_openais_client",
        "test_vision_completion": f"{_IMAGES}test_llama_servers_routes",
        "test_vision_embeddings": media("makes vectors of pictures"),
        "test_vision_embeddings_oai_content": media("makes vectors of pictures"),
    },
}
_HEAD: Final = """# llama.cpp's own server tests, asked of swapd

Made by `python -m tests.llamaserver_suite`. Their tests are at `tools/server/tests/unit` of the llama.cpp that swapd
runs. What is re-created is the behaviour, with other models and other words: where theirs expects a certain text, ours
expects what it stands for (as many tokens, the same again, the schema followed). Where ours are narrower: texts of
several models in one of theirs are one model's in ours, and clients' own checks stand for the official libraries'.
"""


def text() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_lines()])


def _lines() -> Iterator[str]:
    cases = [case for tests in SUITE.values() for case in tests.values()]
    left = Counter(case.why for case in cases if isinstance(case, Left))
    yield "| | |\n|---|---|"
    yield f"| tests | {len(cases)} |"
    yield f"| re-created | {sum(isinstance(case, str) for case in cases)} |"
    for why in Why:
        yield f"| left out: {why.value} | {left[why]} |"
    for file, tests in SUITE.items():
        yield f"\n## {file}\n\n| theirs | ours, or why not |\n|---|---|"
        for name, case in tests.items():
            ours = f"`{case}`" if isinstance(case, str) else f"{case.why.value}: {case.words}"
            yield f"| `{name}` | {ours} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(text())
