"""What a scheduler that swaps models must get right, a sentence each, and the tests that hold swapd to it.

Read by people, and by `test_scenarios_table.py`, which checks that the tests are there. B1 to B10 are bugs that
other schedulers had. Where several levels are named, the core comes first, the running daemon last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Scenario:
    """`tests` are node ids from the root of the repository, without parameters."""

    number: str
    sentence: str
    tests: tuple[str, ...]
    missing: str = ""
    """What swapd does not do of it, and why; tests are then those of the rest, or none."""


def _in(folder: str, *names: str) -> tuple[str, ...]:
    """`_in("core", "gate::who_waits")`: the node ids of these tests of the folder."""
    return tuple(f"tests/{folder}/test_{name.replace('::', '.py::test_')}" for name in names)


SCENARIOS: Final[tuple[Scenario, ...]] = (
    Scenario(
        "1",
        "Given nothing is loaded, when one is asked for, then it is loaded once and holds one lease.",
        _in(
            "core",
            "serving::the_first_request_measures_loads_and_is_granted",
            "scenarios::one_load_serves_all_who_come_while_it_is_prepared",
        ),
    ),
    Scenario(
        "2",
        "Given a resident with a free slot, when it is asked for again, then it answers without a load.",
        _in("core", "serving::a_request_for_a_resident_with_a_free_slot_is_granted_at_once"),
    ),
    Scenario(
        "3",
        "Given two that fit together, when the second is asked for, then both stay.",
        _in("core", "serving::two_models_that_fit_both_stay", "placing::two_that_fit_to_the_byte_stay_together")
        + _in("e2e", "swapping::models_that_fit_together_stay_together"),
    ),
    Scenario(
        "4",
        "Given an idle resident and a newcomer that does not fit beside it, then it is gone before the load begins.",
        _in(
            "core",
            "eviction::an_idle_resident_goes_before_the_newcomer_is_started",
            "placing::on_a_card_too_small_by_10_mib_the_idle_one_goes",
        )
        + _in("e2e", "swapping::a_newcomer_that_would_overflow_evicts_the_idle_one_and_says_why"),
    ),
    Scenario(
        "5",
        "Given a resident at work in the way, then its answers finish, it leaves, and the newcomer is loaded.",
        _in(
            "core",
            "swapping::running_requests_finish_before_their_model_leaves",
            "scenarios::overlapping_traffic_of_one_model_ends_for_another_after_max_wait",
        ),
    ),
    Scenario(
        "6",
        "Given a victim that drains, when it is asked for with whatever keep-alive, then that waits behind the swap.",
        _in(
            "core",
            "swapping::new_requests_do_not_bring_a_draining_model_back",
            "scenarios::a_victim_asked_for_again_at_any_moment_of_its_leaving_leaves_all_the_same",
        ),
    ),
    Scenario(
        "7",
        "Given a resident that is never without work, when another waits, then it is served within a stated bound.",
        _in(
            "core",
            "swapping::traffic_without_a_gap_keeps_nobody_out_longer_than_max_wait",
            "scenarios::overlapping_traffic_of_one_model_ends_for_another_after_max_wait",
        )
        + _in("sim", "waiting::nobody_waits_longer_than_stated", "waiting::without_a_limit_somebody_waits_longer"),
    ),
    Scenario(
        "8",
        "Given a swap under way, when a resident that is not part of it is asked for, then it answers at once.",
        _in(
            "core",
            "swapping::a_resident_that_is_not_concerned_answers_during_a_swap",
            "scenarios::bystanders_are_served_in_every_step_of_a_swap",
        )
        + _in("e2e", "scenarios::scenario_08_a_resident_that_is_not_concerned_answers_while_others_swap"),
    ),
    Scenario(
        "9",
        "Given two that leave at about the same time, then the end of one is not taken for that of the other.",
        _in("core", "swapping::the_end_of_one_model_is_not_taken_for_that_of_another")
        + _in("e2e", "scenarios::scenario_09_the_end_of_one_worker_does_not_count_as_that_of_another"),
    ),
    Scenario(
        "10",
        "Given idle residents of one keep-alive, when room is needed, then the least recently used leaves.",
        _in("core", "eviction::the_least_recently_used_goes")
        + _in("e2e", "swapping::the_least_recently_used_goes_first"),
    ),
    Scenario(
        "11",
        "Given a small and a large idle resident, when only the large one's room helps, then only that one leaves.",
        _in("core", "eviction::who_is_not_needed_stays")
        + _in("e2e", "scenarios::scenario_11_only_those_leave_whose_room_is_needed"),
    ),
    Scenario(
        "12",
        "Given a pinned resident, then it never leaves, and who cannot be served because of it is told its name.",
        _in(
            "core",
            "eviction::a_pinned_model_stays_and_is_named",
            "eviction::beside_a_pinned_model_a_newcomer_is_loaded_in_part",
            "eviction::the_pinned_stay_also_when_somebody_is_overdue",
            "pressure::a_pinned_model_never_gives_way",
        )
        + _in("e2e", "swapping::a_pinned_model_is_never_a_victim_and_the_refusal_names_it"),
    ),
    Scenario(
        "13",
        "Given a model that no eviction would make fit, then it is refused at once with sizes, and nobody leaves.",
        _in(
            "core",
            "eviction::a_victim_is_given_up_only_for_somebody_who_fits",
            "placing::what_would_not_fit_even_on_the_cpu_is_refused_and_nobody_goes",
            "scenarios::what_could_not_run_with_everybody_gone_is_refused_in_the_step_that_sees_it",
        )
        + _in("e2e", "swapping::a_model_larger_than_everything_is_refused_at_once_and_nobody_is_evicted"),
    ),
    Scenario(
        "14",
        "Given a keep-alive of nought, then it leaves when the last of its answers ends, and not before.",
        _in(
            "core",
            "keep_alive::nothing_keeps_it_after_a_request_that_says_zero",
            "scenarios::an_end_told_twice_ends_nobody_elses_answer",
        )
        + _in("e2e", "swapping::keep_alive_counts_from_the_end_of_the_last_answer"),
    ),
    Scenario(
        "15",
        "Given keep-alives for ever, longer and shorter, then for ever arms no timer and the last that says one wins.",
        _in(
            "core",
            "keep_alive::for_ever_needs_no_timer",
            "keep_alive::the_last_that_says_one_wins",
            "scenarios::a_later_keep_alive_holds_whether_it_is_longer_or_shorter",
        ),
    ),
    Scenario(
        "16",
        "Given timers and ends that come too early or twice, then nobody at work leaves and no count goes wrong.",
        _in(
            "core",
            "keep_alive::a_timer_that_fires_too_early_or_twice_ends_nobody",
            "scenarios::an_end_told_twice_ends_nobody_elses_answer",
            "scenarios::a_request_that_waits_for_a_slot_keeps_the_model_that_is_about_to_expire",
        ),
    ),
    Scenario(
        "17",
        "Given a request at the moment of expiry, then it has the live resident or a clean reload, never a dying one.",
        _in(
            "core",
            "keep_alive::a_request_at_the_last_moment_gets_the_live_resident",
            "keep_alive::a_request_just_after_it_gets_a_clean_reload",
            "scenarios::a_request_around_the_expiry_is_answered_once_by_a_resident_that_stays",
            "scenarios::a_request_that_waits_for_a_slot_keeps_the_model_that_is_about_to_expire",
        ),
    ),
    Scenario(
        "18",
        "Given an unload, then the model drains and is shown so until it is gone; by force its answers end.",
        _in(
            "core",
            "stop::an_unload_drains",
            "stop::by_force_it_ends_what_runs_and_what_waits",
            "scenarios::an_unload_during_the_end_by_keep_alive_or_eviction_holds_up_nobody",
            "scenarios::an_unload_of_a_victim_changes_nothing_about_the_swap",
        )
        + _in("api", "ollama::an_empty_prompt_loads_or_with_no_keep_alive_unloads")
        + _in("e2e", "scenarios::scenario_18_an_unload_drains_and_by_force_ends_the_answer"),
    ),
    Scenario(
        "19",
        "Given a request that waits, when its caller goes away, then its place is free and nothing is left of it.",
        _in(
            "core",
            "queue::a_request_cancelled_while_it_waits_is_gone_at_once",
            "scenarios::a_caller_that_leaves_before_anything_was_ordered_for_it_leaves_no_trace",
            "scenarios::a_load_that_is_under_way_when_the_last_caller_leaves_ends_up_idle_and_expires",
            "scenarios::a_place_in_a_full_queue_is_free_again_whichever_way_somebody_left_it",
        )
        + _in("api", "stream::a_caller_that_goes_away_while_it_waits_leaves_the_queue"),
    ),
    Scenario(
        "20",
        "Given three who wait for one load, when one goes away, then the load goes on and serves the others.",
        _in(
            "core",
            "queue::a_load_goes_on_for_those_who_still_wait",
            "scenarios::each_of_three_who_wait_for_a_load_may_leave_and_the_others_are_served",
            "scenarios::a_load_that_is_under_way_when_the_last_caller_leaves_ends_up_idle_and_expires",
        ),
    ),
    Scenario(
        "21",
        "Given an eviction for a single request, when its caller goes away meanwhile, then nothing is loaded for it.",
        _in(
            "core",
            "queue::nothing_is_loaded_for_somebody_who_went_away_during_the_eviction",
            "queue::nobody_is_evicted_for_somebody_who_went_away",
            "scenarios::a_caller_that_leaves_while_the_victim_drains_lets_the_victims_model_come_back",
            "scenarios::a_caller_that_leaves_before_anything_was_ordered_for_it_leaves_no_trace",
        ),
    ),
    Scenario(
        "22",
        "Given a full queue, then who would have to wait is refused at once and told when to come back.",
        _in(
            "core",
            "queue::a_full_queue_refuses_at_once",
            "queue::who_need_not_wait_is_not_counted",
            "scenarios::a_place_in_a_full_queue_is_free_again_whichever_way_somebody_left_it",
        )
        + _in("api", "failures::each_case_has_its_status_code_and_shape")
        + _in("e2e", "failures::a_full_queue_answers_503_with_retry_after"),
    ),
    Scenario(
        "23",
        "Given a load that dies for want of memory, then more room is made and it is tried once more, then told; "
        "any other failure evicts nobody.",
        _in(
            "core",
            "failures::out_of_memory_makes_more_room_and_tries_once_more",
            "failures::any_other_failure_evicts_nobody",
            "pressure::with_an_idle_neighbour_one_more_is_evicted_instead",
        )
        + _in("e2e", "softgpu::an_allocation_refused_at_load_is_not_the_clients_trouble"),
    ),
    Scenario(
        "24",
        "Given a load that dies for want of memory, then its context stays as configured and it is placed smaller.",
        _in("core", "pressure::a_load_out_of_memory_is_tried_smaller")
        + _in("e2e", "scenarios::scenario_24_an_explicit_context_is_never_changed_silently"),
        missing="no context is chosen automatically, so there is none to step down: a model has the one configured",
    ),
    Scenario(
        "25",
        "Given a resident that runs out of memory at work, then it leaves and comes back, and its neighbours stay.",
        _in(
            "core",
            "failures::a_crash_is_nothing_to_anybody_else",
            "pressure::out_of_memory_at_work_is_a_lesson_and_the_neighbours_stay",
            "scenarios::every_answer_of_a_dead_worker_is_told_and_the_next_request_gets_another",
        )
        + _in("e2e", "softgpu::a_card_full_in_the_middle_of_an_answer_not_yet_begun_is_survived"),
    ),
    Scenario(
        "26",
        "Given another program took memory after a load, then the next decision goes by what is measured free.",
        _in("core", "memory::what_others_took_is_not_given_away")
        + _in("e2e", "softgpu::foreign_memory_counts_at_the_next_load"),
    ),
    Scenario(
        "27",
        "Given memory that comes back late, then the newcomer starts when it is seen free; given it never does, "
        "then it makes do with less after a bounded wait.",
        _in(
            "core",
            "memory::a_late_release_delays_the_load_and_no_longer",
            "memory::memory_that_never_comes_back_makes_the_budget_smaller",
            "scenarios::late_memory_is_waited_for_by_whoever_needs_it_and_by_nobody_else",
        )
        + _in(
            "e2e",
            "softgpu::a_newcomer_waits_until_late_memory_is_seen_free",
            "scenarios::scenario_27_memory_that_does_not_come_back_is_waited_for_only_so_long",
        ),
    ),
    Scenario(
        "28",
        "Given a resident with a large context, when a request asks for a smaller one, then it is served as it is.",
        _in("e2e", "scenarios::scenario_28_a_smaller_context_is_served_without_a_reload"),
    ),
    Scenario(
        "29",
        "Given a newcomer of which most fits beside one at work, then it may be loaded in part, and says its layers.",
        _in(
            "core",
            "placing::beside_one_at_work_most_of_it_is_better_than_waiting",
            "placing::with_offload_the_newcomer_stands_beside_in_part_and_nobody_goes",
        )
        + _in("e2e", "scenarios::scenario_29_beside_a_busy_model_a_newcomer_is_loaded_in_part_and_says_so"),
    ),
    Scenario(
        "30",
        "Given requests for two models in turn and room for one, then there are two loads, in order within a model.",
        _in(
            "core",
            "swapping::a_mixed_queue_is_served_by_model",
            "scenarios::requests_for_two_models_in_turn_make_two_loads_and_keep_their_order",
            "gate::all_who_waited_at_the_switch_are_served_before_the_gate_opens_again",
        ),
    ),
    Scenario(
        "31",
        "Given a model that was evicted and is back, when the same long beginning comes, then it is not computed anew.",
        _in(
            "worker",
            "states::a_conversation_goes_on_in_another_process_as_if_it_had_never_left",
            "states::a_conversation_displaced_from_its_slot_comes_back_to_it",
        )
        + _in("e2e", "prompt_state::a_conversation_goes_on_after_an_eviction_and_after_a_restart"),
    ),
    Scenario(
        "32",
        "Given a worker that dies in the middle of answers, then each caller is told in its dialect, also in a "
        "stream, and the next request reloads.",
        _in(
            "core",
            "failures::a_crash_revokes_its_leases_and_the_next_request_reloads",
            "scenarios::every_answer_of_a_dead_worker_is_told_and_the_next_request_gets_another",
        )
        + _in("api", "stream::what_fails_later_is_an_error_event", "stream::what_fails_later_is_a_last_line_with_error")
        + _in("e2e", "failures::a_worker_that_dies_is_an_error_event_to_its_clients_and_nothing_to_others"),
    ),
    Scenario(
        "33",
        "Given a daemon that is killed, then no worker lives on and holds memory.",
        _in(
            "worker",
            "child::a_killed_daemon_leaves_no_worker",
            "child::a_killed_daemon_leaves_no_worker_that_hears_nothing",
            "child::a_daemon_that_is_gone_before_the_worker_starts_leaves_none",
        )
        + _in(
            "e2e",
            "failures::no_worker_outlives_a_killed_daemon",
            "service::the_manager_restarts_a_killed_daemon_and_no_worker_is_left",
        ),
    ),
    Scenario(
        "34",
        "Given a load that wants no layers on the card, then nobody leaves the card for it.",
        _in(
            "core",
            "eviction::a_load_on_the_cpu_evicts_nobody_from_the_card",
            "scenarios::a_wish_for_no_layers_on_the_card_ends_nobody_there",
        )
        + _in("e2e", "scenarios::scenario_34_a_load_for_the_cpu_evicts_nobody_from_the_card"),
    ),
    Scenario(
        "35",
        "Given a foreign Host or Origin, then every route refuses it, streams and what is watched included.",
        _in(
            "api",
            "guard::every_route_there_is_refuses_foreign_hosts_and_pages_and_asks_nobody",
            "guard::hosts_that_are_not",
            "guard::foreign_origins_are_refused_on_every_route",
        ),
    ),
    Scenario(
        "B1",
        "Given a victim, when it is wanted again on its way out, then it still leaves and the newcomer is loaded.",
        _in("core", "scenarios::a_victim_asked_for_again_at_any_moment_of_its_leaving_leaves_all_the_same"),
    ),
    Scenario(
        "B2",
        "Given first requests that come together, then there is one load.",
        _in(
            "core",
            "serving::two_first_requests_load_once",
            "scenarios::one_load_serves_all_who_come_while_it_is_prepared",
        )
        + _in("e2e", "scenarios::bug_02_first_requests_at_the_same_time_load_once"),
    ),
    Scenario(
        "B3",
        "Given a newcomer that was just loaded, then it serves before anybody may evict it.",
        _in(
            "core",
            "serving::a_newcomer_is_no_victim_before_its_first_request_had_it",
            "scenarios::where_everybody_is_overdue_at_once_each_newcomer_still_serves_before_it_leaves",
        ),
    ),
    Scenario(
        "B4",
        "Given a request just before an expiry, then it is answered once and nothing breaks.",
        _in("core", "scenarios::a_request_around_the_expiry_is_answered_once_by_a_resident_that_stays"),
    ),
    Scenario(
        "B5",
        "Given a caller in the queue, when it hangs up, then the queue forgets it.",
        _in(
            "core",
            "queue::a_cancel_takes_away_nobody_else",
            "scenarios::a_caller_that_leaves_before_anything_was_ordered_for_it_leaves_no_trace",
        )
        + _in(
            "api",
            "stream::a_caller_that_goes_away_while_it_waits_leaves_the_queue",
            "stream::a_load_that_nobody_waits_for_any_more_is_left",
        ),
    ),
    Scenario(
        "B6",
        "Given a resident that ends by its keep-alive, when it is unloaded meanwhile, then nothing is stuck.",
        _in(
            "core",
            "stop::an_unload_while_it_is_ending_wedges_nothing",
            "scenarios::an_unload_during_the_end_by_keep_alive_or_eviction_holds_up_nobody",
        )
        + _in(
            "e2e", "scenarios::bug_06_an_unload_while_the_keep_alive_ends_it_comes_back_and_the_next_request_is_served"
        ),
    ),
    Scenario(
        "B7",
        "Given memory that a process of ours gives back late, then nothing is loaded into it before it is seen free.",
        _in("core", "scenarios::late_memory_is_waited_for_by_whoever_needs_it_and_by_nobody_else")
        + _in(
            "e2e",
            "softgpu::a_newcomer_waits_until_late_memory_is_seen_free",
            "scenarios::bug_07_a_load_waits_also_for_what_the_sizing_process_gives_back_late",
        ),
    ),
    Scenario(
        "B8",
        "Given a name that no model has, then it is told so in the caller's dialect, and who is loaded stays.",
        _in("host", "catalog::other_names_are_not_found")
        + _in("api", "ollama::an_unknown_model_is_told_as_ollama_tells_it")
        + _in("e2e", "scenarios::bug_08_a_name_that_stands_for_nothing_disturbs_nobody"),
    ),
    Scenario(
        "B9",
        "Given models in steady use and one that is rarely wanted, then that one costs no chain of evictions.",
        _in(
            "core",
            "gate::a_rare_model_does_not_flush_one_that_is_often_wanted",
            "scenarios::a_rare_model_costs_its_own_load_and_one_more_and_sets_off_no_chain_of_evictions",
        ),
    ),
    Scenario(
        "B10",
        "Given a conversation brought back from before, then what was computed anew is counted, not what was promised.",
        _in(
            "worker",
            "states::a_damaged_file_is_removed_and_the_prompt_read_anew",
            "states::a_file_of_another_kind_of_cache_is_left_out",
        )
        + _in("e2e", "prompt_state::a_chat_goes_on_with_its_next_question_after_an_eviction"),
    ),
)
