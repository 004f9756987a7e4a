"""A loopback stand-in for the Hugging Face Hub, for tests that use the real clients.

The calls that ``huggingface_hub``, ``datasets.load_dataset`` and ``timm.create_model`` make are answered from memory,
so the clients run unchanged with ``HF_ENDPOINT`` pointing here. The answers follow the clients' code, not the live Hub.

Not imitated: Xet transfers (every download comes from here; large files are uploaded by the LFS protocol's basic
transfer), pages in ``/api/...`` answers, tags and pull requests, search, running Spaces, and the dataset viewer, which
is a second host. A call not served gets a 404 that says so. An unknown repository is a 404 to everyone, where the Hub
gives a caller without a token a 401.
"""

from tests.hub_standin.accounts import STRANGER_TOKEN, TOKEN, Account
from tests.hub_standin.faults import Fault, Request
from tests.hub_standin.server import HubStandIn

__all__ = ["STRANGER_TOKEN", "TOKEN", "Account", "Fault", "HubStandIn", "Request"]
