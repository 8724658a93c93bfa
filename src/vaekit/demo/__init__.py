"""The tour of the bundled VAEs that `vaekit demo` writes."""

from vaekit.demo.shrinkage import Shrinkage
from vaekit.demo.tour import DemoResult, Journey, Reconstruction, run

__all__ = ["DemoResult", "Journey", "Reconstruction", "Shrinkage", "run"]
