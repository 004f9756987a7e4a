"""Who a token belongs to, and what it may do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

TOKEN: Final = "hf_standin_owner"  # may read and write everything
STRANGER_TOKEN: Final = "hf_standin_stranger"  # a real account that no gated or private repository lets in


@dataclass(frozen=True)
class Account:
    """One token of an account.

    Attributes:
        name: Of the user.
        orgs: Role in each organisation: ``admin``, ``write``, ``contributor`` or ``read``.
        access_token: What ``whoami`` says of the token, such as ``{"role": "read"}``; nothing, as for an OAuth token,
            when empty.
        all: May read and write everything, whatever else is said.
    """

    name: str
    orgs: Mapping[str, str] = field(default_factory=dict)
    access_token: Mapping[str, object] = field(default_factory=dict)
    all: bool = False

    def writes(self, namespace: str) -> bool:
        role = self.orgs.get(namespace, "admin" if namespace == self.name else "none")
        return self.all or (role in ("admin", "write", "contributor") and self.access_token.get("role") == "write")

    def whoami(self) -> dict[str, object]:
        orgs = [{"type": "org", "name": name, "roleInOrg": role} for name, role in self.orgs.items()]
        auth: dict[str, object] = {"type": "access_token"}
        if self.access_token:
            auth["accessToken"] = {"displayName": "test", **self.access_token}
        return {"type": "user", "name": self.name, "orgs": orgs, "auth": auth}


DEFAULT: Final = {TOKEN: Account("owner", all=True), STRANGER_TOKEN: Account("stranger")}
