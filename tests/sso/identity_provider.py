"""A small OpenID Connect provider in its own process: `python -m tests.sso.identity_provider PORT`.

It signs everyone in immediately. A POST to `/control` sets what it changes in its answers: members of the ID token
(`claims`; null removes one) and of the user info (`userinfo`), the signing key (`signed_by`: own, other, none, secret),
the discovery document (`discovery`), statuses (`statuses`: path -> status), and paths whose answer never ends
(`drips`).
"""

import base64
import hashlib
import json
import secrets
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID, CLIENT_SECRET = "taskruns", "s3cret-of-the-client-0123456789-abcdef"
OWN, OTHER = (rsa.generate_private_key(public_exponent=65_537, key_size=2_048) for _ in range(2))
control: dict[str, Any] = {}
asked: list[dict[str, str]] = []
codes: dict[str, dict[str, str]] = {}
tokens: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: ThreadingHTTPServer

    def log_message(self, *_: Any) -> None:
        pass

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, body: Any, status: int = 200, **headers: str) -> None:
        raw = json.dumps(body).encode()
        self.send_response(control.get("statuses", {}).get(urlsplit(self.path).path, status))
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        while urlsplit(self.path).path in control.get("drips", ()):
            self.wfile.write(b" ")  # blanks before the JSON, which keep the reader waiting
            threading.Event().wait(0.05)
        self.wfile.write(raw)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        pages = {
            "/.well-known/openid-configuration": self.discovery,
            "/jwks": self.jwks,
            "/elsewhere": self.jwks,
            "/authorize": self.authorize,
            "/userinfo": self.userinfo,
            "/asked": lambda: self.answer(asked),
        }
        pages.get(path, lambda: self.answer({}, 404))()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.path == "/control":
            control.clear()
            control.update(json.loads(body))
            asked.clear()
            self.answer({})
        elif self.path == "/token":
            self.token({name: values[0] for name, values in parse_qs(body).items()})
        else:
            self.answer({}, 404)

    def discovery(self) -> None:
        document = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "jwks_uri": f"{self.issuer}/jwks",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        }
        self.answer(document | control.get("discovery", {}), Location=f"{self.issuer}/jwks")

    def jwks(self) -> None:
        key = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(OWN.public_key()))
        self.answer({"keys": [key | {"kid": "own", "use": "sig", "alg": "RS256"}]}, Location=f"{self.issuer}/elsewhere")

    def authorize(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        asked.append(query)
        code = secrets.token_urlsafe(12)
        codes[code] = query
        back = {"code": code, "state": query["state"]} | control.get("back", {})
        self.answer({}, 302, Location=f"{query['redirect_uri']}?{urlencode(back)}")

    def token(self, form: dict[str, str]) -> None:
        query = codes.pop(form.get("code", ""), None)
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).rstrip(b"=").decode()
        client = (form.get("client_id"), form.get("client_secret"))
        if query is None or query["code_challenge"] != challenge or client != (CLIENT_ID, CLIENT_SECRET):
            self.answer({"error": "invalid_grant"}, 400)
            return
        access = secrets.token_urlsafe(12)
        tokens.add(access)
        self.answer({"access_token": access, "token_type": "Bearer", "id_token": self.id_token(query)})

    def id_token(self, query: dict[str, str]) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "subject-1",
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": query.get("nonce", ""),
            "auth_time": now,
        }
        kept = {name: value for name, value in (claims | control.get("claims", {})).items() if value is not None}
        signed_by = control.get("signed_by", "own")
        if signed_by == "none":
            return jwt.encode(kept, None, algorithm="none")
        if signed_by == "secret":
            return jwt.encode(kept, CLIENT_SECRET, algorithm="HS256", headers={"kid": "own"})
        return jwt.encode(kept, OWN if signed_by == "own" else OTHER, algorithm="RS256", headers={"kid": "own"})

    def userinfo(self) -> None:
        if self.headers.get("Authorization", "").removeprefix("Bearer ") not in tokens:
            self.answer({}, 401)
            return
        person = {"sub": control.get("claims", {}).get("sub", "subject-1"), "email": "nina@example.com"}
        self.answer(person | {"email_verified": True, "name": "Nina"} | control.get("userinfo", {}))


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
