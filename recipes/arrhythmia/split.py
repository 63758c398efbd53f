"""Splits by patient: the windows of one patient resemble each other so much that no other split is fair."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from recipes.arrhythmia.records import Strip, is_va

VALIDATION_SHARE = 6
"""One training patient in this many is held out for validation: 10 of 60."""


def hash_fraction(dataset: str, patient: str) -> float:
    """Map a patient to a number in [0, 1) that never changes: not by run, machine or company of other patients.

    Args:
        dataset: Name of the data set, so that equal record names in two data sets are different patients.
        patient: Identity of the patient.

    Example:
        >>> hash_fraction("vfdb", "418") == hash_fraction("vfdb", "418") != hash_fraction("cudb", "418")
        True
    """
    digest = hashlib.sha1(f"{dataset}/{patient}".encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def hash_split(
    patients: Iterable[str], dataset: str, shares: tuple[float, float, float] = (0.65, 0.15, 0.2)
) -> tuple[list[str], list[str], list[str]]:
    """Split patients into train, validation and test by their hash alone, so that new records move no old one.

    Args:
        patients: Identities; repeats count once.
        dataset: Name of the data set, part of the hash.
        shares: Expected shares of train, validation and test; positive, sum 1.

    Returns:
        Sorted train, validation and test patients. Few patients may leave a part empty.

    Raises:
        ValueError: If the shares are not positive or do not sum to 1.
    """
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares must be positive and sum to 1, got {shares}")
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for patient in sorted(set(patients)):
        fraction = hash_fraction(dataset, patient)
        parts[0 if fraction < shares[0] else 1 if fraction < shares[0] + shares[1] else 2].append(patient)
    return parts


def classes_of(strips: Iterable[Strip]) -> dict[str, frozenset[bool]]:
    """Tell which classes each patient has: a set of True (VA) and False (non-VA)."""
    found: dict[str, set[bool]] = {}
    for strip in strips:
        found.setdefault(strip.patient, set()).add(is_va(strip.rhythm))
    return {patient: frozenset(classes) for patient, classes in found.items()}


def k_folds(classes: Mapping[str, frozenset[bool]], folds: int, key: str = "") -> list[list[str]]:
    """Deal patients to folds so that every fold gets its share of those with VA only, non-VA only and both.

    Args:
        classes: Classes of each patient, as `classes_of` gives them.
        folds: Number of folds, 2 to the number of patients.
        key: Any text; another text deals another way.

    Returns:
        `folds` sorted lists that hold each patient once; their lengths differ by at most one.

    Raises:
        ValueError: If there are fewer patients than folds, or fewer than two folds.

    Example:
        >>> folds = k_folds({name: frozenset({True, False}) for name in "abcde"}, folds=2)
        >>> sorted(folds[0] + folds[1]), [len(fold) for fold in folds]
        (['a', 'b', 'c', 'd', 'e'], [3, 2])
    """
    if not 2 <= folds <= len(classes):
        raise ValueError(f"folds must be between 2 and the {len(classes)} patients, not {folds}")
    order = sorted(classes, key=lambda patient: (sorted(classes[patient]), hash_fraction(key, patient)))
    return [sorted(order[fold::folds]) for fold in range(folds)]


def hold_out(classes: Mapping[str, frozenset[bool]], key: str = "") -> tuple[list[str], list[str]]:
    """Take one patient in `VALIDATION_SHARE` out of the training patients, balanced over classes.

    Args:
        classes: Classes of each training patient.
        key: Any text; another text holds out other patients.

    Returns:
        Sorted remaining training patients and validation patients.

    Raises:
        ValueError: If there are fewer than two patients.
    """
    if len(classes) < 2:
        raise ValueError(f"{len(classes)} training patient(s) cannot give a validation patient; add patients")
    validation = k_folds(classes, min(VALIDATION_SHARE, len(classes)), key)[0]
    return sorted(set(classes) - set(validation)), validation


def assert_disjoint(train: Sequence[str], val: Sequence[str], test: Sequence[str]) -> None:
    """Check that no patient is in two splits.

    Raises:
        ValueError: Naming the patients in two splits, and the splits.
    """
    parts = {"train": set(train), "val": set(val), "test": set(test)}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = sorted(parts[one] & parts[other])
        if shared:
            raise ValueError(f"patients in both {one} and {other}: {', '.join(shared)}; split by patient")
