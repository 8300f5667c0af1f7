"""The table of all models: for each its inputs, and its layers as its source has them.

A layer's name and shape are written down from the source of the model, by the definition that
`topoloss.observe` gives of a layer; nothing here asks the library.
"""

from zoo.attentive import ATTENTIVE, SWIN_BLOCKS
from zoo.convolutional import CONVOLUTIONAL, LARGE
from zoo.language import LANGUAGE
from zoo.recurrent import RECURRENT

__all__ = ["LARGE", "SWIN_BLOCKS", "ZOO"]

ZOO = [*CONVOLUTIONAL, *ATTENTIVE, *LANGUAGE, *RECURRENT]
