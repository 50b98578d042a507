"""Logs in by SCRAM-SHA-256 (RFC 5802, RFC 7677) and sends one message: HOST PORT CA USER PASSWORD SENDER RECIPIENT FILE.

An implementation of its own, by hashlib alone; the server's signature is checked, too.
"""
import base64
import hashlib
import hmac
import os
import smtplib
import ssl
import sys

host, port, ca, user, password, sender, recipient, name = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.check_hostname = False


def sign(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def say(smtp, text):
    return smtp.docmd(base64.b64encode(text.encode()).decode())


with smtplib.SMTP(host, int(port), timeout=60) as smtp:
    smtp.starttls(context=context)
    smtp.ehlo()
    nonce = base64.b64encode(os.urandom(18)).decode()
    first = f"n={user},r={nonce}"
    code, answer = smtp.docmd("AUTH SCRAM-SHA-256 " + base64.b64encode(("n,," + first).encode()).decode())
    assert code == 334, (code, answer)
    server_first = base64.b64decode(answer).decode()
    fields = dict(part.split("=", 1) for part in server_first.split(","))
    assert fields["r"].startswith(nonce) and len(fields["r"]) > len(nonce) + 16
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
    client_key = sign(salted, "Client Key")
    without_proof = f"c=biws,r={fields['r']}"
    signed = ",".join([first, server_first, without_proof])
    signature = sign(hashlib.sha256(client_key).digest(), signed)
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature))).decode()
    code, answer = say(smtp, f"{without_proof},p={proof}")
    if code != 334:
        sys.exit(f"{code} {answer.decode()}")
    assert base64.b64decode(answer).decode() == "v=" + base64.b64encode(sign(sign(salted, "Server Key"), signed)).decode()
    code, answer = say(smtp, "")
    assert code == 235, (code, answer)
    with open(name, "rb") as file:
        smtp.sendmail(sender, recipient, file.read())
