"""What turns latents into pictures and back: a seam, the VAE of Wan 2.1, and one that only shows latents."""

from services.generator.adapters.wan.vae.loading import load, sizes
from services.generator.adapters.wan.vae.names import Sizes
from services.generator.adapters.wan.vae.seam import VAE, Features, LatentsOnly
from services.generator.adapters.wan.vae.streaming import WanVAE

__all__ = ["VAE", "Features", "LatentsOnly", "Sizes", "WanVAE", "load", "sizes"]
