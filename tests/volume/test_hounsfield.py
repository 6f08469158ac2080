"""Whether numbers are HU is told by where air, lung, fat and soft tissue lie: no scan is refused, all else is."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from ctglip.errors import ScanError
from ctglip.types import QualityCheck, Scan
from ctglip.volume.intensity import to_hu
from ctglip.volume.quality import check_scan, refuse_errors
from tests.volume.bodies import BODIES, CHEST, CORRUPTIONS, NATIVE, others, stored

AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
WHOLE = ("native abdomen", "chest", "obese", "portal venous phase", "legs", "padding -2000", "cut to -1000..1000")
"""All modes are there, so that the map has to be named."""
NOT_THERE = {
    ("cut to -160..240", "absolute values"), ("a crop without air", "absolute values"),
    ("a crop of the liver", "cut at 0"), ("a crop of the liver", "absolute values"),
    ("a crop of the liver", "wrapped into 12 bits"),
}  # fmt: skip
"""A crop of soft tissue has next to nothing below 0: these leave it as it is."""


@functools.cache
def body(name: str) -> np.ndarray:
    return BODIES[name]()


def wrong(hu: np.ndarray) -> list[QualityCheck]:
    return [check for check in check_scan(Scan(hu, AFFINE)) if check.severity == "error"]


@pytest.mark.parametrize("name", BODIES)
def test_no_scan_is_refused(name: str) -> None:
    assert wrong(body(name)) == []


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_whatever_befalls_hu_is_refused(name: str) -> None:
    change, codes = CORRUPTIONS[name]
    passed, misnamed = [], {}
    for known in BODIES:
        found = wrong(stored(change(body(known).astype(np.int32))))
        if not found and (known, name) not in NOT_THERE:
            passed.append(known)
        if known in WHOLE and codes and found and found[0].code not in codes:
            misnamed[known] = found[0].code
    assert passed == []
    assert misnamed == {}


@pytest.mark.parametrize("name", others())
def test_what_is_no_ct_is_refused(name: str) -> None:
    found = wrong(stored(others()[name]))
    assert len(found) == 1
    assert "HU" in found[0].message or "Hounsfield" in found[0].message


def test_the_message_says_where_the_modes_lie_and_what_explains_them() -> None:
    message = wrong(stored(NATIVE.astype(int) + 1024))[0].message
    assert message.startswith("The numbers have air at 2")  # -1000 + 1024
    assert "intercept of -1024 is missing" in message
    for part in ("fat at 9", "soft tissue at 10", "-1000, -100, 45"):
        assert part in message
    with pytest.raises(ScanError, match=r"intercept of -1024 is missing\. Look"):
        refuse_errors(check_scan(Scan(stored(NATIVE.astype(int) + 1024), AFFINE)), "Look.")


@pytest.mark.parametrize(
    ("hu", "codes"),
    [
        (BODIES["a crop without air"](), {"no_air"}),
        (BODIES["a crop of the liver"](), {"no_air", "no_bone"}),
        (np.clip(NATIVE, -160, 240), {"hu_clipped"}),
        (np.clip(CHEST, -1000, 1000), set()),
        (BODIES["padding -3024"](), {"padding"}),
        (NATIVE, set()),
    ],
)
def test_what_is_unusual_is_a_warning(hu: np.ndarray, codes: set[str]) -> None:
    found = {check.code for check in check_scan(Scan(hu, AFFINE)) if check.severity != "error"}
    assert codes <= found
    assert found <= codes | {"no_bone", "thin_slab"}


@pytest.mark.parametrize("kind", ["uint16", "int32", "float32"])
@pytest.mark.parametrize("sound", [NATIVE, CHEST, np.clip(CHEST, -1000, 1000)], ids=["native", "chest", "cut"])
def test_signed_numbers_saved_without_a_sign_are_read_as_signed(kind: str, sound: np.ndarray) -> None:
    saved = sound.astype(np.uint16).astype(kind)
    assert saved.max() > 64000
    hu, checks = to_hu(saved)
    assert np.array_equal(hu, sound)
    assert [(check.code, check.severity) for check in checks] == [("hu_wrapped", "warning")]


@pytest.mark.parametrize(
    "change",
    [
        lambda hu: (hu.astype(np.int64) + 1024) * 16,
        lambda hu: np.linspace(0, 65535, hu.size).reshape(hu.shape),
        lambda hu: np.where(hu < 0, hu + 65536.0, hu) + 1.0 * (np.indices(hu.shape)[0] % 9 == 0) * 30000,
    ],
)
def test_other_numbers_beyond_16_bits_are_refused(change: Callable[[np.ndarray], np.ndarray]) -> None:
    hu, checks = to_hu(change(NATIVE.astype(np.int32)))
    assert [check for check in (*checks, *check_scan(Scan(hu, AFFINE))) if check.severity == "error"]
    assert "hu_wrapped" not in {check.code for check in checks}


def test_a_little_metal_beyond_16_bits_is_clipped() -> None:
    values = NATIVE.astype(np.int32)
    values[40, 32, :] = 40000
    hu, checks = to_hu(values)
    assert hu.max() == 32767
    assert [(check.code, check.severity, check.value) for check in checks] == [("beyond_int16", "warning", 48)]


@pytest.mark.parametrize("organs", [(60, 36), (50, 20), (45, 65)])
def test_a_tight_crop_of_fat_and_two_organs_is_no_flattened_scan(organs: tuple[int, int]) -> None:
    """Fat and soft tissue lie where they belong; that three modes could also be a body squeezed to a seventh is no
    reason to refuse it."""
    hu = np.full((20, 20, 20), -90.0)
    hu[2:9, 4:12, 6:14], hu[11:18, 6:15, 8:16] = organs
    noisy = np.rint(hu + np.random.default_rng(0).normal(0, 5, hu.shape)).astype(np.int16)
    checks = check_scan(Scan(noisy, np.diag([6.0, 6.0, 6.0, 1.0])))
    assert [check.code for check in checks if check.severity == "error"] == []
    assert "no_air" in [check.code for check in checks]
