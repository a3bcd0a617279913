"""An OpenID provider of our own on a real socket, which can be told to lie."""

import base64
import hashlib
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey


class OpenIdProvider:
    """Signs in whoever asks as `claims`. `key` signs; `claims` set to None are left out."""

    def __init__(self) -> None:
        self.published = self.key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
        self.claims: dict[str, Any] = {}
        self._asked: dict[str, dict[str, str]] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.get(self)

            def do_POST(self) -> None:
                provider.token(self)

            def log_message(self, *words: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def get(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        if url.path == "/.well-known/openid-configuration":
            ends = {f"{name}_endpoint": f"{self.issuer}/{name}" for name in ("authorization", "token")}
            more = {
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}/jwks",
                "id_token_signing_alg_values_supported": ["RS256"],
            }
            return self._say(request, {**ends, **more})
        if url.path == "/jwks":
            return self._say(request, {"keys": [self.published.as_dict(private=False)]})
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        code = secrets.token_hex(8)
        self._asked[code] = asked
        request.send_response(303)
        request.send_header(
            "Location", f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"
        )
        request.end_headers()
        return None

    def token(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"])).decode()
        sent = {name: values[0] for name, values in parse_qs(body).items()}
        asked = self._asked.pop(sent.get("code", ""), None)
        digest = hashlib.sha256(sent.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            asked is None
            or asked["code_challenge"] != challenge
            or asked["redirect_uri"] != sent["redirect_uri"]
        ):
            return self._say(request, {"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {
            "iss": self.issuer, "sub": "1", "aud": asked["client_id"], "iat": now, "exp": now + 300, "nonce": asked["nonce"],
            "email": "ann@desk.example", "email_verified": True, **self.claims,
        }  # fmt: skip
        told = jwt.encode(
            {"alg": "RS256", "kid": "one"}, {k: v for k, v in claims.items() if v is not None}, self.key
        )
        return self._say(
            request, {"access_token": "x", "token_type": "Bearer", "expires_in": 300, "id_token": told}
        )

    @staticmethod
    def _say(request: BaseHTTPRequestHandler, what: dict, status: int = 200) -> None:
        text = json.dumps(what).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)
