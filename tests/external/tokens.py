"""Tokens and keys made by PyJWT, as JSON: for each algorithm the key as the gateway gets it, good tokens and bad ones."""
import json
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

now = int(time.time())
claims = {"iss": "tests", "aud": "orders", "sub": "ann", "iat": now, "exp": now + 3600, "roles": ["reader"]}
secret = "a secret of more than thirty-two bytes, made up"
keys = {
    "HS256": secret,
    "HS512": secret + secret,
    "RS256": rsa.generate_private_key(65537, 2048),
    "PS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def public(key):
    if isinstance(key, str):
        return {"secret": key}
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {"pem": pem.decode()}


def other(algorithm, key):
    if isinstance(key, str):
        return "another " + key
    if isinstance(key, rsa.RSAPrivateKey):
        return rsa.generate_private_key(65537, 2048)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(key.curve)


out = {}
for algorithm, key in keys.items():
    sign = lambda changes={}, key=key, **more: jwt.encode({**claims, **changes}, key, algorithm=algorithm, **more)
    good = sign()
    head, body, signature = good.split(".")
    bad = {
        "expired": sign({"exp": now - 3600}),
        "not yet valid": sign({"nbf": now + 3600}),
        "wrong issuer": sign({"iss": "others"}),
        "wrong audience": sign({"aud": "others"}),
        "another key": sign(key=other(algorithm, key)),
        "none": jwt.encode(claims, None, algorithm="none"),
        "no signature": f"{head}.{body}.",
        "cut": good[:-4],
        "a changed claim": f"{head}.{jwt.utils.base64url_encode(json.dumps({**claims, 'sub': 'eve'}).encode()).decode()}.{signature}",
        "crit": sign(headers={"crit": ["x-new"], "x-new": 1}),
        "padding": f"{head}=.{body}.{signature}",
        "two tokens": f"{good}, {good}",
    }
    if not isinstance(key, str):
        # RFC 8725 §2.1: the public key as the secret of an HMAC.
        pem = public(key)["pem"].encode()
        bad["key confusion"] = jwt.api_jws.PyJWS().encode(
            json.dumps(claims).encode(), "placeholder-of-thirty-two-bytes-or-more", algorithm="HS256"
        ).rsplit(".", 1)[0]
        import hashlib
        import hmac

        text = bad["key confusion"]
        mac = hmac.new(pem, text.encode(), hashlib.sha256).digest()
        bad["key confusion"] = f"{text}.{jwt.utils.base64url_encode(mac).decode()}"
    out[algorithm] = {"key": public(key), "good": [good, sign({"aud": ["x", "orders"]}), sign({"nbf": now - 5})], "bad": bad}
print(json.dumps(out))
