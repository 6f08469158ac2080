"""Whether numbers are HU is told by where air, lung, fat and soft tissue lie: no scan is refused, all else is."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from ctglip.ct.intensity import to_hu
from ctglip.ct.quality import check_scan, refuse_errors
from ctglip.errors import ScanError
from ctglip.types import QualityCheck, Scan
from tests.ct.bodies import (
    BODIES,
    CHEST,
    CIRCLE,
    CORRUPTIONS,
    NATIVE,
    filled,
    others,
    scanned,
    stored,
    trunk,
    turned_over,
)

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


def tight_crop(organs: tuple[int, int], noise: float) -> np.ndarray:
    """Fat around two organs, no air: int16 HU."""
    hu = np.full((20, 20, 20), -90.0)
    hu[2:9, 4:12, 6:14], hu[11:18, 6:15, 8:16] = organs
    return np.rint(hu + np.random.default_rng(0).normal(0, noise, hu.shape)).astype(np.int16)


@pytest.mark.parametrize("noise", [3, 5, 20])
@pytest.mark.parametrize("organs", [(60, 36), (50, 20), (45, 65), (60, 110)])
def test_a_tight_crop_of_fat_and_two_organs_is_no_flattened_scan(organs: tuple[int, int], noise: float) -> None:
    """Fat and soft tissue lie where they belong; that three modes could also be a body squeezed to a seventh is no
    reason to refuse it."""
    checks = check_scan(Scan(tight_crop(organs, noise), np.diag([6.0, 6.0, 6.0, 1.0])))
    assert [check.code for check in checks if check.severity == "error"] == []
    assert "no_air" in [check.code for check in checks]


@pytest.mark.parametrize(
    ("shift", "code"),
    [(1024, "intercept_missing"), (8192, "intercept_8192"), (-8192, "intercept_8192"), (-1024, "rescale_twice")],
)
@pytest.mark.parametrize("organs", [(60, 36), (50, 20), (60, 110), (58, 58)])
def test_a_known_shift_names_a_tight_crop_before_a_scale_does(organs: tuple[int, int], shift: int, code: str) -> None:
    """Fat and organs alone could be air, fat and organs squeezed: a shift that is known explains them more simply."""
    (found,) = wrong(stored(tight_crop(organs, 5).astype(np.int32) + shift))
    assert (found.code, found.value) == (code, shift)
    assert "air" not in found.message


@pytest.mark.parametrize("window", [(-160, 240), (-200, 300)])
@pytest.mark.parametrize("name", ["native abdomen", "chest", "portal venous phase", "ascites", "padding -2000"])
def test_a_window_stretched_to_what_a_chest_is_cut_to_is_refused(name: str, window: tuple[int, int]) -> None:
    (found,) = wrong(stored(turned_over(body(name), *window, 2000) - 1000))
    assert found.code == "hu_scaled"
    assert found.value == pytest.approx(2000 / (window[1] - window[0]))


@pytest.mark.parametrize("name", ["chest", "native abdomen", "lean", "portal venous phase", "padding -1024"])
@pytest.mark.parametrize("step", [4, 5])
def test_hu_in_steps_that_are_cut_at_both_ends_are_no_stretched_window(name: str, step: int) -> None:
    """-1000, -995, ... 1000: the numbers that a window of 400 HU stretched over 2000 has, but fat at -100."""
    assert wrong(np.clip(np.rint(body(name) / step) * step, -1000, 1000).astype(np.int16)) == []


@pytest.mark.parametrize("name", ["no noise", "padding -2000", "padding -1024", "rotated, filled with 0", "head"])
def test_a_tenth_of_hu_is_refused(name: str) -> None:
    (found,) = wrong(stored(body(name) / 10))
    assert found.code in ("hu_scaled", "not_hu")


@pytest.mark.parametrize("noise", [25, 40])
@pytest.mark.parametrize("lungs", [True, False])
def test_half_of_hu_with_padding_where_air_belongs_is_refused(noise: float, lungs: bool) -> None:
    """Half of -2048 looks like air; that air itself is at -500 and fat at -50 tells."""
    (found,) = wrong(stored(filled(scanned(trunk(lungs=lungs), noise), CIRCLE, -2048) / 2))
    assert (found.code, found.value) == ("hu_scaled", 0.5)
