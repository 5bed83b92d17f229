"""What can be chosen by name: devices, number formats, the bundled checkpoint.

Imports nothing that takes time, so that a command's help has it at once.
"""

from pathlib import Path
from typing import Literal, get_args

DEVICE_NAME = r"auto|cpu|cuda(:\d{1,3})?"  # as a regular expression
Precision = Literal["float32", "bfloat16", "int8"]  # `model.precision` says what they are
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
BUNDLED = Path(__file__).parent / "pretrained" / "tiny"
