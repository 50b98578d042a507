"""Sends one message over TLS with Python's smtplib, and prints the SHA-256 of the server's certificate.

WAY HOST PORT CA SENDER RECIPIENT FILE [OPTION=VALUE...]; WAY is `starttls` or `tls`; CA is the PEM
file that the server's certificate must lead to. Options: cert= and key= (our own certificate), user=
and password= (AUTH by the mechanism in mechanism=, else smtplib's own choice).
"""
import hashlib
import smtplib
import ssl
import sys

way, host, port, ca, sender, recipient, name, *options = sys.argv[1:]
options = dict(option.split("=", 1) for option in options)
context = ssl.create_default_context(cafile=ca)
context.check_hostname = False
if "cert" in options:
    context.load_cert_chain(options["cert"], options["key"])
if way == "tls":
    smtp = smtplib.SMTP_SSL(host, int(port), timeout=60, context=context)
else:
    smtp = smtplib.SMTP(host, int(port), timeout=60)
    smtp.starttls(context=context)
with smtp, open(name, "rb") as file:
    print(hashlib.sha256(smtp.sock.getpeercert(binary_form=True)).hexdigest())
    smtp.ehlo()
    if "user" in options:
        if "mechanism" in options:
            smtp.user, smtp.password = options["user"], options["password"]
            method = getattr(smtp, "auth_" + options["mechanism"].lower().replace("-", "_"))
            smtp.auth(options["mechanism"], method)
        else:
            smtp.login(options["user"], options["password"])
    smtp.sendmail(sender, recipient, file.read())
