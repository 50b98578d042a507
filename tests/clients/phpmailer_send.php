<?php
// Sends messages with PHPMailer: HOST PORT SENDER RECIPIENT ID COUNT, on one kept connection.
// What it sends over the wire is written to standard output, base64, one message a line.
require 'libphp-phpmailer/autoload.php';

[, $host, $port, $sender, $recipient, $id, $count] = $argv;
$mail = new PHPMailer\PHPMailer\PHPMailer(true);
$mail->isSMTP();
$mail->Host = $host;
$mail->Port = (int) $port;
$mail->SMTPAutoTLS = false;
$mail->SMTPKeepAlive = true;
$mail->CharSet = 'utf-8';
$mail->setFrom($sender, 'Jörg vom Laden');
for ($n = 1; $n <= (int) $count; $n++) {
    $mail->clearAllRecipients();
    $mail->clearCustomHeaders();
    $mail->addAddress($recipient, 'Änne');
    $mail->addCustomHeader('X-Test-Id', "$id-$n");
    $mail->addCustomHeader('X-Newsletter', 'yes');
    $mail->Subject = "Grüße Nr. $n";
    $mail->isHTML(true);
    $mail->Body = "<p>Schöne Grüße</p>\n.\n.. zwei Punkte\n" . str_repeat('ü', 900);
    $mail->AltBody = "Schöne Grüße\n.\n.. zwei Punkte";
    $mail->send();
    echo base64_encode($mail->getSentMIMEMessage()), "\n";
}
$mail->smtpClose();
