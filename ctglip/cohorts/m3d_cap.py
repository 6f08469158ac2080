"""M3D-Cap: refused. Its slices are pictures of 8 bits: neither HU nor spacing can be had back."""

from __future__ import annotations

from ctglip.cohorts.base import CohortReader, CohortSettings, CohortTables
from ctglip.cohorts.disk import Disk
from ctglip.errors import CohortError


class M3dCap(CohortReader):
    """Says why M3D-Cap is not read."""

    name = "m3d_cap"

    def read(self, disk: Disk, settings: CohortSettings) -> CohortTables:
        """Never anything.

        Raises:
            CohortError: ``no_hounsfield``, always.
        """
        del settings
        raise CohortError(
            f"{disk.root}: M3D-Cap holds pictures of 8 bits without HU or spacing, in mixed planes, and its quiz "
            "repeats training cases in other splits; it cannot become CT studies.",
            code="no_hounsfield",
            fix="Take a data set that has HU; ctglip cohort --list shows them.",
        )
