"""Parameters of the photon simulation, with units in their names.

Values marked "design" are from the MEG II design report, arXiv:1801.04688; "estimate" marks numbers that were
chosen so that light yield, pulse heights and timing come out like the detector's.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from hep_shared.config import StrictModel


class SimulationConfig(StrictModel):
    """What the simulated detector and its photons are like."""

    # Photon source
    energy_spectrum: Literal["signal", "flat"] = Field(
        "flat", description="`signal`: the line of mu -> e gamma; `flat`: uniform between the two limits."
    )
    signal_energy_mev: float = Field(
        52.83, gt=0, description="Photon energy of mu -> e gamma: half the muon mass."
    )
    min_energy_mev: float = Field(15.0, gt=0, description="Lower end of the flat spectrum.")
    max_energy_mev: float = Field(60.0, gt=0, description="Upper end of the flat spectrum.")
    target_slant_deg: float = Field(15.0, gt=0, lt=90, description="Target plane to beam axis (design).")
    vertex_sigma_z_cm: float = Field(
        3.0, ge=0, description="Spread of the muon stops along the beam (estimate)."
    )
    vertex_sigma_y_cm: float = Field(1.0, ge=0, description="Vertical beam spot (design).")
    acceptance_u_cm: float = Field(
        23.9, gt=0, le=33, description="Photons aim at |u| below this on the inner face."
    )
    acceptance_v_cm: float = Field(
        67.9, gt=0, le=70, description="Photons aim at |v| below this on the inner face."
    )

    # Shower
    conversion_depth_cm: float = Field(
        5.2, gt=0, description="Mean path to the first interaction: 1 / (0.065 cm2/g x 2.95 g/cm3)."
    )
    min_clumps: int = Field(6, ge=1, description="Fewest energy deposits of a shower.")
    max_clumps: int = Field(8, ge=1, description="Most energy deposits of a shower.")
    shower_length_cm: float = Field(2.5, gt=0, description="Scale of the gamma(2) profile along the photon.")
    shower_width_cm: float = Field(
        1.6, ge=0, description="Transverse spread at the mean depth of the shower."
    )

    # Light
    photons_per_mev: float = Field(46_300.0, gt=0, description="Scintillation light: 1 MeV over W = 21.6 eV.")
    absorption_length_cm: float = Field(200.0, gt=0, description="Attenuation of light in the xenon.")
    diffuse_fraction: float = Field(
        0.10, ge=0, lt=1, description="Share of the light that arrives scattered, spread by sensor area."
    )
    refractive_index: float = Field(
        1.69, ge=1, description="Index at 175 nm that sets the speed of light pulses."
    )

    # Sensors
    mppc_pde: float = Field(0.12, gt=0, le=1, description="Photon detection efficiency of an MPPC.")
    pmt_qe: float = Field(0.16, gt=0, le=1, description="Quantum efficiency of a photomultiplier.")
    pde_scale: float = Field(1.0, gt=0, le=2, description="Factor on the MPPC efficiency: radiation damage.")
    pde_spread: float = Field(0.10, ge=0, lt=0.3, description="Sensor-to-sensor spread of the efficiency.")
    calibration_spread: float = Field(0.04, ge=0, lt=0.3, description="Error of each sensor's calibration.")
    noise_npe: float = Field(1.5, ge=0, description="Electronic noise of a charge measurement.")

    # Time
    first_photon_ns: float = Field(
        45.0, ge=0, description="Decay time of xenon light; the pulse starts after it/Npe."
    )
    sensor_time_ns: float = Field(0.2, ge=0, description="Constant term of a sensor's time resolution.")
    sensor_time_stochastic_ns: float = Field(10.0, ge=0, description="Divided by sqrt(Npe): stochastic term.")
    event_time_ns: float = Field(0.045, ge=0, description="Time jitter that all sensors of an event share.")
    pulse_threshold_npe: float = Field(3.0, gt=0, description="Smaller pulses have no time.")
    trigger_offset_ns: float = Field(-60.0, description="Photon time in the readout window.")
    sampling_phase_ns: float = Field(12.5, ge=0, description="Period of the 80 MHz trigger clock (design).")

    # Faults
    detector_seed: int = Field(1, ge=0, description="Fixes efficiencies, calibration and dead channels.")
    dead_fraction: float = Field(0.01, ge=0, lt=0.5, description="Share of sensors that are dead at random.")
    num_dead_clusters: int = Field(
        2, ge=0, le=40, description="Square groups of dead MPPCs on the inner face."
    )
    dead_cluster_size: int = Field(3, ge=1, le=20, description="Side of such a group, in sensors.")
    pileup_probability: float = Field(0.0, ge=0, le=1, description="Events with a second photon.")
    pileup_delay_ns: float = Field(100.0, gt=0, description="Mean delay of the second photon.")

    # Output
    real_data_layout: bool = Field(False, description="Leave out truth, as in files of recorded data.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_energy_mev >= self.max_energy_mev:
            raise ValueError(
                f"min_energy_mev ({self.min_energy_mev}) must be below max_energy_mev ({self.max_energy_mev})"
            )
        if self.min_clumps > self.max_clumps:
            raise ValueError(f"min_clumps ({self.min_clumps}) must not exceed max_clumps ({self.max_clumps})")
        return self
