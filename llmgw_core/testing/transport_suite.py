"""The conformance suite of the transport port, over real sockets.

An implementation's tests subclass `TransportSuite`, name the subclass `Test...`, say how the
transport is made, and provide a fixture `tls` with certificates. Where an implementation cannot
do what others do, it says so in the attributes of `TransportCases`, and the suite expects the
difference:

- `caps_whole_head`: aiohttp caps each line of a head, not their sum;
- `knows_partial_heads`: aiohttp does not say that a connection died within a head;
- `notices_broken_chunks`: aiohttp's reader waits on, until the idle timeout;
- `notices_surplus`: aiohttp takes what arrives on a resting connection for the next reply;
  it is safe with `keepalive=0`, its default.
"""

from __future__ import annotations

from llmgw_core.testing.transport_cases.base import Setup, TlsFiles
from llmgw_core.testing.transport_cases.cancelling import CancellingCases
from llmgw_core.testing.transport_cases.encrypted import EncryptedCases
from llmgw_core.testing.transport_cases.flow import FlowCases
from llmgw_core.testing.transport_cases.framing import FramingCases
from llmgw_core.testing.transport_cases.pooling import PoolingCases

__all__ = ["Setup", "TlsFiles", "TransportSuite"]


class TransportSuite(FramingCases, PoolingCases, FlowCases, EncryptedCases, CancellingCases):
    """All cases."""
