"""The paper's experiment: its networks and weights, its protocols, its authors' defects.

Ballester, Casacuberta, Escalera, PMLR 228 (2024), section 5, and the code of its authors.
"""
