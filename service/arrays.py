"""Names of the types of pictures and maps."""

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
UInt16 = NDArray[np.uint16]
Size = tuple[int, int]
"""(height, width) in pixels."""
