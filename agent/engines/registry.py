"""Every engine that the agent can read: one entry each, in the order in which a page is tried.

Wrappers come before what they wrap: a Dynamo worker's page carries its inner engine's families too. Triton
comes last, since its vLLM backend shows vLLM's own.
"""

from __future__ import annotations

from agent.engines.base import EngineDefinition
from agent.engines.dynamo import DYNAMO
from agent.engines.llamacpp import LLAMACPP
from agent.engines.lmdeploy import LMDEPLOY
from agent.engines.ray import RAY
from agent.engines.sglang import SGLANG
from agent.engines.tgi import TGI
from agent.engines.triton import TRITON
from agent.engines.trtllm import TRTLLM
from agent.engines.vllm import VLLM

ENGINES: tuple[EngineDefinition, ...] = (DYNAMO, RAY, VLLM, SGLANG, TRTLLM, LMDEPLOY, LLAMACPP, TGI, TRITON)
