"""Which events are used: cuts on the photon energy and on the fiducial volume.

Dimensions: B events, K components of a branch.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from hep_shared.config import StrictModel
from megii_xec.data.schema import ENERGY_RECO, ENERGY_TRUTH, INVALID_ABOVE, UVW_RECO_FI, UVW_TRUTH, Branch


class Selection(StrictModel):
    """Which events are used; an event fails where the quantity is missing."""

    source: Literal["truth", "reco"] = Field(
        "truth", description="simulated or conventionally reconstructed values"
    )
    energy_min_gev: float | None = Field(0.0145, description="smallest photon energy")
    u_max_cm: float | None = Field(None, gt=0, description="largest |u|; 23.9 is the fiducial volume")
    v_max_cm: float | None = Field(None, gt=0, description="largest |v|; 67.9 is the fiducial volume")

    def branches(self) -> tuple[Branch, ...]:
        """Branches that the selection reads."""
        energy, uvw = (ENERGY_TRUTH, UVW_TRUTH) if self.source == "truth" else (ENERGY_RECO, UVW_RECO_FI)
        wanted: tuple[Branch, ...] = (energy,) if self.energy_min_gev is not None else ()
        return wanted if self.u_max_cm is None and self.v_max_cm is None else (*wanted, uvw)

    def mask(self, columns: Mapping[str, np.ndarray], num_events: int) -> np.ndarray:
        """Evaluate the selection.

        Args:
            columns: Values of `branches()` by name, (B,) or (B, K).
            num_events: B.

        Returns:
            True where the event is used, (B,) bool.
        """
        passed = np.ones(num_events, np.bool_)
        for branch in self.branches():
            values = columns[branch.name]
            if branch.shape == ():
                passed &= (values >= self.energy_min_gev) & (values <= INVALID_ABOVE)
            else:
                passed &= np.abs(values[:, 0]) < (INVALID_ABOVE if self.u_max_cm is None else self.u_max_cm)
                passed &= np.abs(values[:, 1]) < (INVALID_ABOVE if self.v_max_cm is None else self.v_max_cm)
        return passed
