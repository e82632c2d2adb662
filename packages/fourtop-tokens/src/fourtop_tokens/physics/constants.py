"""Masses, widths and branching fractions.

PDG: S. Navas et al. (Particle Data Group), "Review of particle physics", Phys. Rev. D 110, 030001 (2024).
YR4: LHC Higgs cross section working group, arXiv:1610.07922, Higgs boson of 125.09 GeV.
Masses and widths in GeV.
"""

TOP_MASS = 172.57  # PDG
W_MASS = 80.369  # PDG
W_WIDTH = 2.085  # PDG
Z_MASS = 91.188  # PDG
Z_WIDTH = 2.4955  # PDG
HIGGS_MASS = 125.09  # YR4, the mass its branching fractions are given for
BOTTOM_MASS = 4.78  # PDG, pole mass
TAU_MASS = 1.77693  # PDG

# W helicity in t -> bW: longitudinal, left, right. A. Czarnecki et al., Phys. Rev. D 81, 111503 (2010), NNLO.
W_HELICITY = (0.687, 0.311, 0.0017)

W_TO_ELECTRON, W_TO_MUON, W_TO_TAU, W_TO_HADRONS = 0.1071, 0.1063, 0.1138, 0.6741  # PDG
TAU_TO_ELECTRON, TAU_TO_MUON = 0.1782, 0.1739  # PDG; the rest is hadrons
Z_TO_ELECTRONS, Z_TO_MUONS, Z_TO_TAUS, Z_INVISIBLE = 0.033632, 0.033662, 0.033696, 0.2000  # PDG
Z_TO_HADRONS, Z_TO_CHARM, Z_TO_BOTTOM = 0.69911, 0.1203, 0.1512  # PDG
H_TO_BOTTOM, H_TO_WW, H_TO_GLUONS, H_TO_TAUS = 0.5809, 0.2152, 0.0818, 0.06256  # YR4
H_TO_CHARM, H_TO_ZZ, H_TO_PHOTONS = 0.02884, 0.02641, 0.00227  # YR4

# What hadronic tau decays look like: a pion or kaon, a rho, an a1; masses in GeV, shares after PDG.
TAU_HADRON_MASSES = (0.140, 0.775, 1.230)
TAU_HADRON_SHARES = (0.18, 0.40, 0.42)
