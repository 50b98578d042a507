"""Sends messages with Python's smtplib: HOST PORT SENDER RECIPIENT FILE... on one connection.

FILE is sent as it is (its line ends are CRLF already). `--smtputf8` as first argument asks for SMTPUTF8.
"""
import smtplib
import sys

arguments = sys.argv[1:]
options = []
if arguments[0] == "--smtputf8":
    arguments.pop(0)
    options = ["SMTPUTF8"]
host, port, sender, recipient, *files = arguments
with smtplib.SMTP(host, int(port), timeout=60) as smtp:
    smtp.ehlo_or_helo_if_needed()
    for name in files:
        with open(name, "rb") as file:
            message = file.read()
        if smtp.has_extn("8bitmime") and "BODY=8BITMIME" not in options:
            options.append("BODY=8BITMIME")
        smtp.sendmail(sender, recipient.split(","), message, mail_options=options)
