"""No session is trained on that a test reaches, every session is tested equally often, and paths use each test once."""

from math import comb

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tradebot.config import UserError
from tradebot.splits import combinatorial, grouped, paths, walk_forward

gaps = st.integers(0, 5)
choices = st.integers(2, 8).flatmap(lambda groups: st.tuples(st.just(groups), st.integers(1, groups - 1)))


def assert_no_leak(split, *, purge: int, embargo: int) -> None:
    """The distance from every session of training to every one of the test is wide enough, on either side."""
    ahead = split.test[:, None] - split.train[None, :]
    assert not ((ahead >= -purge - embargo) & (ahead <= purge)).any()
    assert (np.diff(split.train) > 0).all()
    assert (np.diff(split.test) > 0).all()


# ------------------------------------------------------------------------------------------------- walk-forward


@given(st.integers(2, 300), st.integers(1, 60), st.integers(1, 60), gaps, st.booleans())
def test_walk_forward_tiles_the_sessions_after_the_first_training(sessions, train, test, purge, anchored):
    assume(purge < train and train + test <= sessions)
    splits = walk_forward(sessions, train=train, test=test, purge=purge, anchored=anchored)
    assert np.array_equal(np.concatenate([split.test for split in splits]), np.arange(train, sessions))
    assert all(len(split.test) == test for split in splits[:-1])
    for split in splits:
        assert_no_leak(split, purge=purge, embargo=0)
        start = split.test[0]
        expected = np.arange(0 if anchored else start - train, start - purge)
        assert np.array_equal(split.train, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sessions": 10, "train": 8, "test": 3}, "10 sessions are too few to train on 8 and test on 3"),
        ({"sessions": 10, "train": 0, "test": 3}, "train is 0; it has to be at least 1"),
        ({"sessions": 10, "train": 5, "test": 0}, "test is 0; it has to be at least 1"),
        ({"sessions": 10, "train": 5, "test": 2, "purge": 5}, "a purge of 5 leaves nothing of 5 sessions"),
        ({"sessions": 10, "train": 5, "test": 2, "purge": -1}, "purge is -1; it has to be at least 0"),
    ],
)
def test_walk_forward_says_what_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message):
        walk_forward(**arguments)


# ------------------------------------------------------------------------------------------------ combinatorial


@given(choices, st.integers(0, 12), gaps, gaps)
def test_combinatorial_splits_do_not_leak_and_test_every_session_equally_often(choice, extra, purge, embargo):
    groups, held_out = choice
    sessions = groups * (2 * purge + embargo + 1) + extra
    splits = combinatorial(sessions, groups=groups, held_out=held_out, purge=purge, embargo=embargo)
    assert len(splits) == comb(groups, held_out)
    tested = np.bincount(np.concatenate([split.test for split in splits]), minlength=sessions)
    assert (tested == comb(groups - 1, held_out - 1)).all()
    for split in splits:
        assert_no_leak(split, purge=purge, embargo=embargo)


@given(choices, st.integers(0, 30))
def test_without_gaps_everything_else_is_trained_on(choice, extra):
    groups, held_out = choice
    for split in combinatorial(groups + extra, groups=groups, held_out=held_out):
        assert np.array_equal(np.sort(np.concatenate(split)), np.arange(groups + extra))


def test_purge_and_embargo_take_no_more_than_they_have_to():
    split = combinatorial(30, groups=3, held_out=1, purge=2, embargo=3)[1]
    assert np.array_equal(split.test, np.arange(10, 20))
    assert np.array_equal(split.train, [*range(8), *range(25, 30)])


@given(st.integers(1, 50), st.integers(0, 200))
def test_groups_are_of_one_size_or_one_apart(groups, extra):
    members = grouped(groups + extra, groups)
    sizes = [len(group) for group in members]
    assert np.array_equal(np.concatenate(members), np.arange(groups + extra))
    assert len(sizes) == groups
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sessions": 5, "groups": 6, "held_out": 1}, "5 sessions don't make 6 groups"),
        ({"sessions": 5, "groups": 0, "held_out": 1}, "groups is 0; it has to be at least 1"),
        ({"sessions": 50, "groups": 5, "held_out": 5}, "5 of 5 groups held out leave none to train on"),
        ({"sessions": 50, "groups": 5, "held_out": 0}, "held_out is 0; it has to be at least 1"),
        ({"sessions": 50, "groups": 5, "held_out": 2, "embargo": -2}, "embargo is -2"),
        (
            {"sessions": 50, "groups": 5, "held_out": 2, "purge": 40},
            "nothing of 50 sessions is left to train on",
        ),
    ],
)
def test_combinatorial_says_what_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message):
        combinatorial(**arguments)


# -------------------------------------------------------------------------------------------------------- paths


@given(choices)
def test_paths_use_each_test_of_each_group_once(choice):
    groups, held_out = choice
    table = paths(groups, held_out)
    splits = combinatorial(groups, groups=groups, held_out=held_out)
    assert table.shape == (held_out * comb(groups, held_out) // groups, groups)
    used = {(split, group) for path in table for group, split in enumerate(path)}
    assert used == {(number, group) for number, split in enumerate(splits) for group in split.test}
    assert len(used) == table.size


def test_the_paths_of_the_book():
    """López de Prado (2018), section 12.4, which counts splits from 1."""
    assert (paths(6, 2) + 1)[:2].tolist() == [[1, 1, 2, 3, 4, 5], [2, 6, 6, 7, 8, 9]]


def test_paths_say_what_cannot_be():
    with pytest.raises(UserError, match="4 of 4 groups held out"):
        paths(4, 4)
