"""Cryptography at native speed."""

import json
from dataclasses import dataclass
from typing import Optional, Union

from wit_world.imports import crypto as host  # type: ignore

from ._arguments import check, parameters
from ._errors import checked, word

Data = Union[str, bytes]


def _of(name):
    return checked(f"crypto.{name.replace('_', '-')}", getattr(host, name))


_hash, _hmac, _equal, _key_set, _verify, _sign = map(_of, ["hash", "hmac", "equal", "key_set", "verify", "sign"])
_token_verifier, _verify_token, _verify_bearer = map(_of, ["token_verifier", "verify_token", "verify_bearer"])


def _data(data):
    return data.encode() if isinstance(data, str) else bytes(data)


def hash(algorithm: str, data: Data) -> bytes:
    """With sha-1, sha-256, sha-384 or sha-512."""
    return bytes(_hash(algorithm, _data(data)))


def hmac(algorithm: str, key: Data, data: Data) -> bytes:
    return bytes(_hmac(algorithm, _data(key), _data(data)))


def equal(a: Data, b: Data) -> bool:
    """Compares in constant time."""
    return _equal(_data(a), _data(b))


class KeySet:
    """Keys, declared while a filter is made: `{"jwks_url": …}`, `{"issuer": …}`, `{"jwks": …}`, `{"pem": …}` or `{"secret": …}`, as `key-set` in wit/."""

    def __init__(self, source: dict):
        self._id = _key_set(json.dumps(source))

    def verify(self, algorithm: str, message: Data, signature: bytes, key_id: Optional[str] = None) -> str:
        """Answers valid, invalid or unknown-key. Algorithms are those of RFC 7518 §3.1 and RFC 8037."""
        return word(_verify(self._id, algorithm, key_id, _data(message), signature).name)

    def sign(self, algorithm: str, message: Data, key_id: Optional[str] = None) -> bytes:
        return bytes(_sign(self._id, algorithm, key_id, _data(message)))


@dataclass
class Token:
    """The payload of a good token as text, or why it is not good: bad-signature, wrong-algorithm and so on; of a bearer also missing and repeated."""

    payload: Optional[str] = None
    refused: Optional[str] = None


class TokenVerifier:
    """Says which tokens are good, declared while a filter is made. Time, issuer and audience are yours to check."""

    def __init__(self, keys: KeySet, algorithms: list[str], typ: Optional[str] = None, remember: int = 0):
        rules = parameters(TokenVerifier.__init__, "crypto.token-verifier")
        check("crypto.token-verifier", rules, [keys, list(algorithms), typ, remember])
        self._id = _token_verifier(host.TokenRules(keys._id, list(algorithms), typ, remember))

    def verify(self, token: Data) -> Token:
        return _token(_verify_token(self._id, _data(token)))

    def verify_bearer(self) -> Token:
        """The token of the request's `authorization`."""
        return _token(_verify_bearer(self._id))


def _token(answer):
    case = type(answer).__name__.rpartition("_")[2].lower()
    if case == "payload":
        return Token(payload=answer.value)
    return Token(refused=word(answer.value.name) if case == "refused" else case)
