"""Receives mail with aiosmtpd: HOST PORT FOLDER. Each message becomes FOLDER/NUMBER.json.

Recipients whose local part begins with "reject" get 550, "later" 451. With more arguments,
starttls|tls CERTIFICATE KEY USER PASSWORD, it wants TLS and this user.
"""
import asyncio
import base64
import itertools
import json
import os
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

host, port, folder, *more = sys.argv[1:]
numbers = itertools.count(1)


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("reject"):
            return "550 5.1.1 No such user here"
        if address.startswith("later"):
            return "451 4.2.1 Mailbox busy"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server, session, envelope):
        path = os.path.join(folder, f"{next(numbers)}.json")
        with open(path + ".part", "w") as file:
            json.dump({
                "sender": envelope.mail_from,
                "recipients": envelope.rcpt_tos,
                "peer": session.peer[1],
                "body": base64.b64encode(envelope.original_content).decode(),
            }, file)
        os.rename(path + ".part", path)
        return "250 2.0.0 Taken"


def guarded(tls, certificate, key, user, password):
    """What SMTP and create_server are told beyond the usual."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    def check(server, session, envelope, mechanism, data):
        known = (data.login, data.password) == (user.encode(), password.encode())
        return AuthResult(success=known, handled=False)

    options = {"authenticator": check, "auth_required": True}
    if tls == "starttls":
        return {**options, "tls_context": context, "require_starttls": True}, {}
    return {**options, "auth_require_tls": False}, {"ssl": context}


async def main():
    loop = asyncio.get_running_loop()
    options, listening = guarded(*more) if more else ({}, {})
    factory = lambda: SMTP(
        Handler(), enable_SMTPUTF8=True, decode_data=False, hostname="aio.test", **options)
    server = await loop.create_server(factory, host, int(port), **listening)
    await server.serve_forever()

asyncio.run(main())
