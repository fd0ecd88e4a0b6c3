"""What Prometheus' own parser makes of our page."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from swapd import metrics
from swapd.metrics import Counter, Gauge, Histogram, Metric


def read(*told: Metric) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render(told).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_counter_without_labels_is_there_from_the_start() -> None:
    counter = Counter("a_total", "Text.")
    assert read(counter) == {("a_total", ()): 0}
    counter.add()
    counter.add(by=2.5)
    assert read(counter) == {("a_total", ()): 3.5}


def test_label_values_come_through_whatever_is_in_them() -> None:
    names = ('say "hi"', "back\\slash", "new\nline", "größe 7b", "{}=,")
    counter = Counter("a_total", 'Help with a \\ and a\nline and "quotes".', ("model",))
    for name in names:
        counter.add(name)
    assert {labels[0][1] for _, labels in read(counter)} == set(names)


def test_a_lone_surrogate_of_a_file_name_is_no_error() -> None:
    assert len(read(Gauge("a", "Text.", ("model",), {("x\udcff",): 1}))) == 1


def test_a_histogram_adds_up() -> None:
    histogram = Histogram("h_seconds", "Text.", ("model",), bounds=(0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value, "m")
    found = read(histogram)
    model = ("model", "m")
    assert [found["h_seconds_bucket", (("le", le), model)] for le in ("0.1", "1", "+Inf")] == [2, 3, 4]
    assert found["h_seconds_count", (model,)] == 4
    assert abs(found["h_seconds_sum", (model,)] - 7.65) < 1e-9


def test_series_of_one_name_are_bounded() -> None:
    counter = Counter("a_total", "Text.", ("model", "kind"))
    for number in range(metrics.MOST_SERIES + 50):
        counter.add(f"m{number}", "x")
    found = read(counter)
    assert len(found) == metrics.MOST_SERIES + 1
    assert found["a_total", (("kind", "other"), ("model", "other"))] == 50
    assert sum(found.values()) == metrics.MOST_SERIES + 50
