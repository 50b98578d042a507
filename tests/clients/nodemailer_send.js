// Sends messages with nodemailer over its connection pool: HOST PORT SENDER RECIPIENT ID COUNT.
// What it sends is written to standard output, base64, one message a line.
'use strict';
const nodemailer = require('nodemailer');
const MailComposer = require('nodemailer/lib/mail-composer');

const [host, port, sender, recipient, id, count] = process.argv.slice(2);
const transport = nodemailer.createTransport({
  host, port: Number(port), pool: true, maxConnections: 3, ignoreTLS: true,
});

async function send(n) {
  const raw = await new MailComposer({
    from: `"Jörg, vom Laden" <${sender}>`,
    to: recipient,
    subject: `Grüße Nr. ${n}`,
    headers: { 'X-Test-Id': `${id}-${n}`, 'X-Newsletter': 'yes' },
    text: 'Schöne Grüße\n.\n.. zwei Punkte\n' + 'ü'.repeat(900),
    html: '<p>Schöne Grüße</p>',
    attachments: [{ filename: 'näme.bin', content: Buffer.alloc(5000, n) }],
  }).compile().build();
  console.log(raw.toString('base64'));
  await transport.sendMail({ envelope: { from: sender, to: [recipient] }, raw });
}

async function main() {
  await Promise.all(Array.from({ length: Number(count) }, (_, n) => send(n + 1)));
  transport.close();
}

main().catch((error) => { console.error(error); process.exit(1); });
