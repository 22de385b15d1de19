"""Captions by a model that an OpenAI-compatible server runs: vLLM and the like, or a provider.

Belongs here: what is sent and what an answer says (`protocol`), when something is asked again, and when the endpoint is given up
(`client`), and the captioner that these make up (`captioner`). One HTTP exchange is in `sd_assets.services`.
"""

from sd_assets.models.endpoint.captioner import EndpointCaptioner

__all__ = ["EndpointCaptioner"]
