"""How much of the latent space is needed: what pictures lose when their latents do."""

from vaekit.study.experiments import Study, study
from vaekit.study.result import Finding

__all__ = ["Finding", "Study", "study"]
