"""What is wrong with a VAE, a picture or a device: what, where, how sure that is, and what to do."""

from vaekit.doctor.examine import Examination, examine, examine_devices, examine_picture, examine_vae, sources
from vaekit.doctor.findings import Fault, Finding, Sure

__all__ = [
    "Examination",
    "Fault",
    "Finding",
    "Sure",
    "examine",
    "examine_devices",
    "examine_picture",
    "examine_vae",
    "sources",
]
