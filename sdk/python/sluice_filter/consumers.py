"""The callers that the operator knows."""

from dataclasses import dataclass
from typing import Optional, Union

from wit_world.imports import consumers as host  # type: ignore

from ._arguments import check, parameters
from ._errors import checked, word


def _of(name):
    return checked(f"consumers.{name.replace('_', '-')}", getattr(host, name))


_authenticate, _recall_password, _vouch, _known = map(_of, ["authenticate", "recall_password", "vouch", "known"])
_token_verifier, _verify_token = map(_of, ["token_verifier", "verify_token"])
_plan, _label, _labels, _method = map(_of, ["plan", "label", "labels", "method"])


def authenticate(kind: str, credential: str) -> Optional[str]:
    """Makes the consumer with this credential the caller, and answers its name. Kinds: key, and of a client certificate sha256, subject, dns and more."""
    return _authenticate(kind, credential)


def recall_password(username: str, password: Union[str, bytes]) -> Optional[str]:
    """As `passwords.authenticate`, without a wait: only what was verified before is known."""
    return _recall_password(username, password.encode() if isinstance(password, str) else password)


def vouch(name: str, method: str) -> bool:
    """Makes the consumer of this name the caller, because the filter has found out that it is, by this method."""
    return _vouch(name, method)


@dataclass
class ConsumerToken:
    """The consumer, which `vouch` can make the caller, and the payload; or why not: unknown-issuer, wrong-audience, bad-signature and so on."""

    consumer: Optional[str] = None
    payload: Optional[str] = None
    refused: Optional[str] = None


class TokenVerifier:
    """What tokens have to be that consumers sign with keys of their own, declared while a filter is made."""

    def __init__(self, algorithms: list[str], typ: Optional[str] = None):
        rules = parameters(TokenVerifier.__init__, "consumers.token-verifier")
        check("consumers.token-verifier", rules, [list(algorithms), typ])
        self._id = _token_verifier(host.ConsumerTokenRules(list(algorithms), typ))

    def verify(self, token: Union[str, bytes]) -> ConsumerToken:
        answer = _verify_token(self._id, token.encode() if isinstance(token, str) else token)
        case = type(answer).__name__.rpartition("_")[2]
        if case == "Good":
            return ConsumerToken(answer.value.consumer, answer.value.payload)
        return ConsumerToken(refused=word(answer.value.name if case == "Refused" else case))


def known() -> bool:
    """Whether the caller is one of the operator's consumers."""
    return _known()


def plan() -> Optional[str]:
    """The plan of the caller."""
    return _plan()


def label(name: str) -> Optional[str]:
    """A label of the caller."""
    return _label(name)


def labels() -> dict[str, str]:
    return {each.name: each.value for each in _labels()}


def method() -> Optional[str]:
    """How the caller was found: the kind of its credential, password, or the method of `vouch`."""
    return _method()
