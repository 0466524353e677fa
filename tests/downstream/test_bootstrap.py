# SPDX-License-Identifier: Apache-2.0
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_downstream import bootstrap


def counts_of(pairs):
    return numpy.array(pairs, dtype=float)


def test_two_speakers_of_whom_one_is_always_wrong_reach_from_0_to_100():
    # four equally likely draws: both right 1/4, one of each 1/2, both wrong 1/4; each tail holds more than 2.5 %
    found = bootstrap.interval(counts_of([[0, 10], [10, 10]]), ["a", "b"], bootstrap.error_rate)
    assert (found.low, found.high) == (0.0, 100.0)


def test_one_speaker_says_nothing_of_others():
    found = bootstrap.interval(counts_of([[0, 10], [10, 10]]), ["a", "a"], bootstrap.error_rate)
    assert (found.low, found.high) == (50.0, 50.0)


def test_interval_by_utterance_is_the_binomial_one_where_utterances_are_independent():
    right = numpy.arange(400) < 280  # 70 %
    rows = counts_of([[hit, 1] for hit in right])
    found = bootstrap.interval(rows, [f"u{i:03d}" for i in range(400)], bootstrap.accuracy)
    half = 100 * 1.96 * (0.7 * 0.3 / 400) ** 0.5
    assert found.low == pytest.approx(70 - half, abs=0.35)
    assert found.high == pytest.approx(70 + half, abs=0.35)


def test_speakers_that_differ_widen_the_interval():
    rows = counts_of([[1, 1]] * 50 + [[0, 1]] * 50)  # two speakers' worth of unequal luck
    by_speaker = bootstrap.interval(rows, [f"s{i // 10}" for i in range(100)], bootstrap.error_rate)
    by_utterance = bootstrap.interval(rows, [f"u{i}" for i in range(100)], bootstrap.error_rate)
    assert by_speaker.high - by_speaker.low > 2 * (by_utterance.high - by_utterance.low)


def test_unweighted_accuracy_counts_classes_alike():
    # class 0: 1 of 1 right, class 1: 3 of 9
    rows = counts_of([[1, 0, 1, 0]] + [[0, 1, 0, 1]] * 3 + [[0, 0, 0, 1]] * 6)
    assert bootstrap.score(rows, bootstrap.accuracy) == pytest.approx(40.0)
    assert bootstrap.score(rows, bootstrap.unweighted_accuracy) == pytest.approx(100 * (1 + 1 / 3) / 2)


def test_a_class_that_a_draw_does_not_hold_is_left_out_of_its_mean():
    assert bootstrap.unweighted_accuracy(counts_of([[2, 0, 4, 0]]))[0] == pytest.approx(50.0)


def test_a_constant_difference_has_a_narrow_paired_interval_however_wide_the_two_are():
    errors = numpy.random.default_rng(0).integers(1, 9, size=30)
    both = counts_of([[e + 1, 10, e, 10] for e in errors])
    paired = bootstrap.interval(both, [f"s{i}" for i in range(30)], bootstrap.difference(bootstrap.error_rate))
    alone = bootstrap.interval(both[:, :2], [f"s{i}" for i in range(30)], bootstrap.error_rate)
    assert (paired.low, paired.high) == (pytest.approx(10.0), pytest.approx(10.0))
    assert alone.high - alone.low > 10


@settings(max_examples=15)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9), st.sampled_from("abcde")), min_size=1, max_size=12),
    st.randoms(),
)
def test_the_order_of_utterances_does_not_matter_and_the_ends_are_in_order(items, random):
    shuffled = random.sample(items, len(items))
    found = [
        bootstrap.interval(counts_of([item[:2] for item in some]), [item[2] for item in some], bootstrap.error_rate)
        for some in (items, shuffled)
    ]
    assert found[0] == found[1]
    assert found[0].low <= found[0].high


def test_another_seed_gives_other_draws():
    rows = numpy.random.default_rng(5).uniform(0, 1, size=(20, 2)) + [0, 7]
    names = [str(i) for i in range(20)]
    found = [bootstrap.interval(rows, names, bootstrap.error_rate, seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("groups", [[], ["a"]], ids=["none", "too-few"])
def test_one_group_per_utterance_is_asked_for(groups):
    with pytest.raises(ValueError, match="groups: expected one per utterance"):
        bootstrap.interval(counts_of([[0, 1], [1, 1]]), groups, bootstrap.error_rate)
