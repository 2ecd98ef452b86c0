"""Models through the root: policy, then budget, then a provider of the deployment, then the record, then the answer.

Any OpenAI client is a client; a mission's gateway token is its API key. Providers are a file (docs/models.md), read at the
start. `Gateway.ask` is all that leaves the process for a call.
"""

from app.model_gateway.api import WAY, router
from app.model_gateway.gateway import Gateway
from app.model_gateway.playing import play, then
from app.model_gateway.providers_api import router as providers

__all__ = ["WAY", "Gateway", "play", "providers", "router", "then"]
