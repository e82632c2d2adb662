"""Masses, widths, branching fractions and cross-sections.

PDG: S. Navas et al. (Particle Data Group), "Review of particle physics", Phys. Rev. D 110, 030001 (2024).
Masses and widths in GeV, cross-sections for pp at 13 TeV in fb.
"""

TOP_MASS = 172.57  # PDG
BOTTOM_MASS = 4.78  # PDG, pole mass
CHARM_MASS = 1.67  # PDG, pole mass
W_MASS, W_WIDTH = 80.369, 2.085  # PDG
Z_MASS, Z_WIDTH = 91.188, 2.4955  # PDG
TAU_MASS = 1.77693  # PDG
MUON_MASS, ELECTRON_MASS = 0.1056584, 0.000511  # PDG

# W helicity in t -> bW: longitudinal, left, right. Czarnecki, Korner, Piclum, Phys. Rev. D 81, 111503 (2010).
W_HELICITY = (0.687, 0.311, 0.002)

W_TO_ELECTRON, W_TO_MUON, W_TO_TAU, W_TO_HADRONS = 0.1071, 0.1063, 0.1138, 0.6741  # PDG; their sum is 1.0013
TAU_TO_ELECTRON, TAU_TO_MUON = 0.1782, 0.1739  # PDG; the rest is hadrons
Z_TO_LEPTONS = 0.03366  # PDG, one flavour

BEAM_ENERGY_SUM = 13_000.0  # GeV
SIGMA_TT = 833.9e3  # NNLO+NNLL, Top++2.0, m_t = 172.5 GeV (LHC top working group)
SIGMA_TTZ = 839.3  # NLO QCD and electroweak, YR4, arXiv:1610.07922
SIGMA_TZQ = 94.2 / (3 * Z_TO_LEPTONS)  # 94.2 fb for Z to e, mu, tau at NLO, as in CMS, arXiv:1812.05900
SIGMA_WZ = 50.0e3  # NNLO, Grazzini et al., Phys. Lett. B 761, 179 (2016)
SIGMA_ZZ = 16.9e3  # NNLO, Cascioli et al., Phys. Lett. B 735, 311 (2014)
# Product B(t -> bH+) B(H+ -> WA) B(A -> mu mu): inside the range excluded below the Z, arXiv:1905.07453.
SIGNAL_BRANCHING = 5e-6
