"""A mail server on loopback: as much of RFC 5321 as it takes to receive a mail, with AUTH PLAIN and STARTTLS."""

import base64
import ssl
import threading
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any


class _Session(StreamRequestHandler):
    def say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

    def setup(self) -> None:
        super().setup()
        self.secure = False

    def finish(self) -> None:
        super().finish()
        self.request.close()  # the server closes the plain socket only

    def handle(self) -> None:
        mail: MailServer = self.server.mail
        self.say(mail.greeting)
        while line := self.rfile.readline().decode().strip():
            verb = line.split()[0].upper()
            mail.verbs.append(verb)
            if verb == "EHLO":
                offers = ["250-AUTH PLAIN"] + (
                    ["250-STARTTLS"] if mail.certificate and not self.secure else []
                )
                self.say("250-stand-in", *offers, "250 SIZE")
            elif verb == "STARTTLS":
                self.say("220 go ahead")
                self.request = mail.certificate.wrap_socket(self.request, server_side=True)
                super().setup()
                self.secure = True
            elif verb == "AUTH":
                given = base64.b64decode(line.split()[2]).decode().split("\0")[1:]
                mail.logins.append((*given, self.secure))
                self.say("235 welcome" if tuple(given) == mail.account else f"535 not with {given[1]}")
            elif verb == "DATA":
                self.say("354 go on")
                lines = list(iter(lambda: self.rfile.readline().decode().rstrip("\r\n"), "."))
                mail.mails.append("\n".join(lines))
                self.say("250 taken")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say("250 fine")


class _Server(ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        "A client that hangs up in the middle is part of the plan."


class MailServer:
    """Takes mails until closed: `mails`, `logins` as (user, password, encrypted), `verbs`."""

    account = ("me", "p@ss:word")

    def __init__(self, certificate: ssl.SSLContext | None = None, greeting: str = "220 stand-in"):
        self.certificate, self.greeting = certificate, greeting
        self.mails: list[str] = []
        self.logins: list[tuple] = []
        self.verbs: list[str] = []
        self._server = _Server(("127.0.0.1", 0), _Session)
        self._server.mail = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "MailServer":
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
