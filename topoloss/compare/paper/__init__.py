"""The paper's experiment: its networks, weights and protocols, and defects of its authors' code.

Ballester, Casacuberta, Escalera, PMLR 228 (2024), section 5, and the code of its authors.
"""
