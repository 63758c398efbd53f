import hashlib
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.arrhythmia.split import assert_disjoint, hash_fraction, hash_split, hold_out, k_folds

BOTH, VA, NON_VA = frozenset({True, False}), frozenset({True}), frozenset({False})
people = st.dictionaries(st.text("abcdef0123", min_size=1, max_size=4), st.sampled_from([BOTH, VA, NON_VA]), min_size=2)


def test_hash_fraction_is_the_documented_digest():
    digest = hashlib.sha1(b"cudb/cu01").hexdigest()
    assert hash_fraction("cudb", "cu01") == int(digest[:12], 16) / 16**12


@given(st.sets(st.text(max_size=5), max_size=60), st.sets(st.text(max_size=5), max_size=20))
def test_hash_split_moves_nobody_when_patients_join(old, new):
    before, after = hash_split(old, "set"), hash_split(old | new, "set")
    for part_before, part_after in zip(before, after, strict=True):
        assert set(part_before) <= set(part_after)
    assert sorted(chain(*after)) == sorted(old | new)


def test_hash_split_keeps_its_shares_on_average():
    parts = hash_split([f"p{i}" for i in range(4000)], "set", (0.5, 0.2, 0.3))
    assert [len(part) / 4000 for part in parts] == pytest.approx([0.5, 0.2, 0.3], abs=0.03)
    with pytest.raises(ValueError, match="sum to 1"):
        hash_split(["a"], "set", (0.5, 0.2, 0.2))


@given(people, st.integers(2, 8), st.text(max_size=3))
def test_folds_hold_everybody_once_and_share_each_kind(classes, folds, key):
    if folds > len(classes):
        with pytest.raises(ValueError, match="folds must be"):
            k_folds(classes, folds, key)
        return
    dealt = k_folds(classes, folds, key)
    assert sorted(chain(*dealt)) == sorted(classes)
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    for kind in (BOTH, VA, NON_VA):
        counts = [sum(classes[patient] == kind for patient in fold) for fold in dealt]
        assert max(counts) - min(counts) <= 1
    assert dealt == k_folds(dict(reversed(classes.items())), folds, key)


@given(people)
def test_validation_comes_out_of_the_training_patients(classes):
    train, val = hold_out(classes)
    assert sorted(train + val) == sorted(classes)
    assert train
    assert val


def test_ten_of_sixty_patients_validate():
    train, val = hold_out({f"S{i}": BOTH if i % 5 else NON_VA for i in range(60)})
    assert (len(train), len(val)) == (50, 10)
    assert sum(name in {f"S{i}" for i in range(0, 60, 5)} for name in val) == 2
    with pytest.raises(ValueError, match="1 training patient"):
        hold_out({"S1": BOTH})


def test_a_patient_in_two_splits_is_named():
    assert_disjoint(["a"], ["b"], ["c"])
    with pytest.raises(ValueError, match="train and test: a, d"):
        assert_disjoint(["a", "d"], ["b"], ["c", "d", "a", "a"])
    with pytest.raises(ValueError, match="val and test: b"):
        assert_disjoint(["a"], ["b"], ["b"])
