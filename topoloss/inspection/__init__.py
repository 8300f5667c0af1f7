"""Record what training does to the neurons, and show it on one page: ``topoloss inspect``.

A run is recorded in a file, epoch by epoch (`recording`), as snapshots of neurons (`snapshots`).
The file is read back whole or not at all (`reading`), and turned into a page (`pages`).
"""

from topoloss.inspection.recording import Recorder

__all__ = ["Recorder"]
