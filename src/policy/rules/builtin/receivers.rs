//! Rules for the words of one receiver, known by its MX hosts. Sources stand with each.

use super::{Builtin, closed, minutes, slow};
use crate::policy::rules::{Action, Scope};

const GOOGLE: &[&str] = &["google.com", "googlemail.com", "smtp.goog"];
const YAHOO: &[&str] = &["yahoodns.net"];
const MICROSOFT: &[&str] = &["protection.outlook.com", "mx.microsoft"];
const UNITED_INTERNET: &[&str] = &["gmx.net", "web.de", "kundenserver.de"];
const ORANGE: &[&str] = &["orange.fr", "wanadoo.fr"];
const APPLE: &[&str] = &["mail.icloud.com"];
const COMCAST: &[&str] = &["comcast.net"];
const MIMECAST: &[&str] = &["mimecast.com"];
const TELEKOM: &[&str] = &["t-online.de"];
const TENCENT: &[&str] = &["qq.com"];
const NETEASE: &[&str] = &["netease.com"];

pub(super) const ALL: &[Builtin] = &[
    // Google rates four identities; three of them belong to the sender.
    // https://support.google.com/a/answer/3726730
    Builtin {
        name: "gmail-sender-rate",
        mx: GOOGLE,
        codes: &["421", "4.7.28"],
        text: "unusual rate of unsolicited mail.*(SPF domain|DKIM domain|URL domain)",
        action: slow(Scope::SenderDomain, minutes(60)),
        samples: &[
            (
                "gmail-smtp-in.l.google.com",
                "421-4.7.28 Gmail has detected an unusual rate of unsolicited mail originating\n\
                 421-4.7.28 from your DKIM domain [shop.example 36]. To protect our users from\n\
                 421-4.7.28 spam, mail sent from your domain has been temporarily rate limited.\n\
                 421 4.7.28 a640c23a62f3a-ab0e6 - gsmtp",
            ),
            (
                "aspmx.l.google.com",
                "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail originating \
                 from your SPF domain [shop.example 35]. - gsmtp",
            ),
            (
                "alt1.gmail-smtp-in.l.google.com",
                "421 4.7.28 Gmail has detected an unusual rate of unsolicited mail containing one \
                 of your URL domains. - gsmtp",
            ),
        ],
    },
    Builtin {
        name: "gmail-address-rate",
        mx: GOOGLE,
        codes: &["421", "4.7.0", "4.7.28"],
        text: "unusual rate of unsolicited mail",
        action: slow(Scope::Source, minutes(60)),
        samples: &[
            (
                "gmail-smtp-in.l.google.com",
                "421-4.7.28 [192.0.2.7 15] Our system has detected an unusual rate of unsolicited \
                 mail originating from your IP address. To protect our users from spam, mail sent \
                 from your IP address has been temporarily rate limited. - gsmtp",
            ),
            (
                "aspmx.l.google.com",
                "421-4.7.0 [192.0.2.7 15] Our system has detected an unusual rate of unsolicited \
                 mail originating from your IP address. - gsmtp",
            ),
        ],
    },
    Builtin {
        name: "gmail-unauthenticated",
        mx: GOOGLE,
        codes: &["421", "4.7.26", "4.7.27", "4.7.30", "4.7.32"],
        text: "rate limited because",
        action: slow(Scope::SenderDomain, minutes(60)),
        samples: &[(
            "gmail-smtp-in.l.google.com",
            "421-4.7.27 Your email has been rate limited because SPF authentication didn't pass \
             for this message. Gmail requires all bulk email senders to authenticate. - gsmtp",
        )],
    },
    Builtin {
        name: "gmail-sender-reputation",
        mx: GOOGLE,
        codes: &["421", "4.7.0"],
        text: "low reputation of the sending domain",
        action: slow(Scope::SenderDomain, minutes(60)),
        samples: &[(
            "gmail-smtp-in.l.google.com",
            "421-4.7.0 [192.0.2.7 19] Our system has detected that this message is suspicious due \
             to the very low reputation of the sending domain. - gsmtp",
        )],
    },
    Builtin {
        name: "gmail-later",
        mx: GOOGLE,
        codes: &["421", "4.7.0"],
        text: "try again later, closing connection|low reputation of the sending IP",
        action: slow(Scope::Site, minutes(15)),
        samples: &[
            (
                "gmail-smtp-in.l.google.com",
                "421 4.7.0 Try again later, closing connection. (EHLO) - gsmtp",
            ),
            (
                "aspmx.l.google.com",
                "421-4.7.0 [192.0.2.7 19] Our system has detected that this message is suspicious \
                 due to the very low reputation of the sending IP address. - gsmtp",
            ),
        ],
    },
    Builtin {
        name: "gmail-recipient-rate",
        mx: GOOGLE,
        codes: &["450", "452", "4.2.1"],
        text: "receiving mail (too quickly|at a rate that)",
        action: Action::RetryAfter(minutes(30)),
        samples: &[
            (
                "gmail-smtp-in.l.google.com",
                "450-4.2.1 The user you are trying to contact is receiving mail at a rate that \
                 prevents additional messages from being delivered. - gsmtp",
            ),
            (
                "gmail-smtp-in.l.google.com",
                "450 4.2.1 The user you are trying to contact is receiving mail too quickly. \
                 Please resend your message at a later time. - gsmtp",
            ),
        ],
    },
    // https://senders.yahooinc.com/smtp-error-codes
    Builtin {
        name: "yahoo-closed",
        mx: YAHOO,
        codes: &["421"],
        text: r"\[TSS?0[35]\]|\[IPTS\d+\]|permanently deferred",
        action: closed(minutes(240)),
        samples: &[
            (
                "mta5.am0.yahoodns.net",
                "421 4.7.1 [TS03] All messages from 192.0.2.7 will be permanently deferred; \
                 Retrying will NOT succeed. See https://postmaster.yahooinc.com/error-codes",
            ),
            (
                "mx-eu.mail.am0.yahoodns.net",
                "421 4.7.0 [TSS05] Messages from 192.0.2.7 temporarily deferred due to \
                 unexpected volume or user complaints - 4.16.55.1",
            ),
        ],
    },
    Builtin {
        name: "yahoo-deferred",
        mx: YAHOO,
        codes: &["421", "451"],
        text: r"\[TSS?\d+\]",
        action: slow(Scope::Source, minutes(60)),
        samples: &[
            (
                "mx-eu.mail.am0.yahoodns.net",
                "421 4.7.0 [TSS04] Messages from 192.0.2.7 temporarily deferred due to \
                 unexpected volume or user complaints - 4.16.55.1; see \
                 https://postmaster.yahooinc.com/error-codes",
            ),
            (
                "mta6.am0.yahoodns.net",
                "421 4.7.0 [TS01] Messages from 192.0.2.7 temporarily deferred due to user \
                 complaints - 4.16.55.1",
            ),
        ],
    },
    Builtin {
        name: "yahoo-listed",
        mx: YAHOO,
        codes: &["553", "5.7.1"],
        text: r"\[BL\d+\]",
        action: closed(minutes(240)),
        samples: &[(
            "mta7.am0.yahoodns.net",
            "553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.7, because the ip is \
             in Spamhaus's list; see https://postmaster.yahooinc.com/error-codes",
        )],
    },
    // https://sendersupport.olc.protection.outlook.com/pm/troubleshooting.aspx
    Builtin {
        name: "microsoft-rate",
        mx: MICROSOFT,
        codes: &["421", "45*"],
        text: r"temporarily rate limited|\bRP-00[123]\b",
        action: slow(Scope::Source, minutes(120)),
        samples: &[
            (
                "hotmail-com.olc.protection.outlook.com",
                "451 4.7.650 The mail server [192.0.2.7] has been temporarily rate limited due to \
                 IP reputation. For e-mail delivery information, see https://aka.ms/postmaster \
                 (S775) [AMS0EPF0000019C.eurprd05.prod.outlook.com]",
            ),
            (
                "outlook-com.olc.protection.outlook.com",
                "421 RP-001 (BAY004-MC1F15) Unfortunately, some messages from 192.0.2.7 weren't \
                 sent. Please try again. We have limits for how many messages can be sent per \
                 hour and per day.",
            ),
        ],
    },
    Builtin {
        name: "microsoft-connections",
        mx: MICROSOFT,
        codes: &["421", "45*"],
        text: "exceeded the maximum number of connections|concurrent (server )?connections",
        action: Action::FewerConnections(minutes(60)),
        samples: &[
            (
                "hotmail-com.olc.protection.outlook.com",
                "451 4.7.652 The mail server [192.0.2.7] has exceeded the maximum number of \
                 connections. (S3115) [BN1NAM02FT051.eop-nam02.prod.protection.outlook.com]",
            ),
            (
                "example-net.mail.protection.outlook.com",
                "421 4.3.2 The maximum number of concurrent server connections has exceeded a \
                 limit, closing transmission channel",
            ),
        ],
    },
    Builtin {
        name: "microsoft-busy",
        mx: MICROSOFT,
        codes: &["421", "451"],
        text: "^server busy|^access denied, please try again later",
        action: slow(Scope::Site, minutes(30)),
        samples: &[
            (
                "example-net.mail.protection.outlook.com",
                "451 4.7.500 Server busy. Please try again later from [192.0.2.7]. (S77719) \
                 [DB5EUR03FT013.eop-EUR03.prod.protection.outlook.com]",
            ),
            (
                "example-net.mail.protection.outlook.com",
                "451 4.7.500 Access denied, please try again later",
            ),
        ],
    },
    Builtin {
        name: "microsoft-listed",
        mx: MICROSOFT,
        codes: &["550", "5.7.*"],
        text: "on our block list|banned send(er|ing ip)|traffic not accepted from this ip",
        action: closed(minutes(120)),
        samples: &[
            (
                "eur.olc.protection.outlook.com",
                "550 5.7.1 Unfortunately, messages from [192.0.2.7] weren't sent. Please contact \
                 your Internet service provider since part of their network is on our block list \
                 (S3150). [DB3EUR04FT007.eop-eur04.prod.protection.outlook.com]",
            ),
            (
                "example-net.mail.protection.outlook.com",
                "550 5.7.511 Access denied, banned sender[192.0.2.7]. To request removal from \
                 this list please forward this message to delist@microsoft.com",
            ),
        ],
    },
    // https://postmaster.gmx.net/en/error-messages
    Builtin {
        name: "gmx-rate",
        mx: UNITED_INTERNET,
        codes: &["421", "450"],
        text: "too many messages have been received|rate limit reached",
        action: slow(Scope::Source, minutes(120)),
        samples: &[(
            "mx-ha03.web.de",
            "421-web.de (mxweb113) Nemesis ESMTP Service not available\n421-Service unavailable\n\
             421-Reject due to policy restrictions\n421-Please try again later. Too many messages \
             have been received in a short period of time.\n421 Please try again in a few hours \
             and reduce the sending rate.",
        )],
    },
    Builtin {
        name: "gmx-policy",
        mx: UNITED_INTERNET,
        codes: &["421", "450"],
        text: "reject due to policy (restrictions|violations)",
        action: slow(Scope::Source, minutes(60)),
        samples: &[(
            "mx00.emig.gmx.net",
            "421-gmx.net (mxgmx114) Nemesis ESMTP Service not available\n421-Service \
             unavailable\n421-Reject due to policy restrictions.\n421 For explanation visit \
             https://postmaster.gmx.net/en/case?c=r0103&i=ip&v=192.0.2.7",
        )],
    },
    Builtin {
        name: "gmx-closed",
        mx: UNITED_INTERNET,
        codes: &["554"],
        text: "no SMTP service",
        action: closed(minutes(120)),
        samples: &[(
            "mx00.emig.gmx.net",
            "554-gmx.net (mxgmx104) Nemesis ESMTP Service not available\n554-No SMTP \
             service\n554-IP address is block listed.\n554 For explanation visit \
             https://postmaster.gmx.net/en/case?c=r0201&i=ip&v=192.0.2.7",
        )],
    },
    // https://postmaster.orange.fr: two connections for each address.
    Builtin {
        name: "orange-connections",
        mx: ORANGE,
        codes: &["421", "45*"],
        text: r"trop de connexions|\bOFR\d*_104\b",
        action: Action::FewerConnections(minutes(60)),
        samples: &[(
            "smtp-in.orange.fr",
            "421 mwinf5c04 ME Trop de connexions, veuillez verifier votre configuration. Too many \
             connections, slow down. OFR004_104 [104]",
        )],
    },
    Builtin {
        name: "orange-refused",
        mx: ORANGE,
        codes: &["421", "45*"],
        text: r"service refus[eé]|\bOFR_999\b",
        action: slow(Scope::Source, minutes(60)),
        samples: &[(
            "smtp-in.orange.fr",
            "421 mwinf5c21 ME Service refuse. Veuillez essayer plus tard. service refused, please \
             try later. OFR_999 [999]",
        )],
    },
    // https://support.apple.com/102322
    Builtin {
        name: "icloud-recipient-rate",
        mx: APPLE,
        codes: &["421", "4.7.1"],
        text: "deferred due to excessive volume",
        action: Action::RetryAfter(minutes(30)),
        samples: &[(
            "mx01.mail.icloud.com",
            "421 4.7.1 Messages to ann@icloud.com deferred due to excessive volume. Try again \
             later - https://support.apple.com/en-us/HT204137",
        )],
    },
    Builtin {
        name: "icloud-unavailable",
        mx: APPLE,
        codes: &["45*"],
        text: "service unavailable - try again later",
        action: slow(Scope::Site, minutes(15)),
        samples: &[("mx02.mail.icloud.com", "451 4.7.1 Service unavailable - try again later")],
    },
    // https://postmaster.comcast.net/smtp-error-codes.php
    Builtin {
        name: "comcast-rate",
        mx: COMCAST,
        codes: &["421", "45*"],
        text: r"\bRL0000\d\d\b|throttled - try again later|too many sessions opened",
        action: slow(Scope::Source, minutes(60)),
        samples: &[
            (
                "mx1a1.comcast.net",
                "421 4.1.0 192.0.2.7 Throttled - try again later. Please see \
                 https://postmaster.comcast.net/smtp-error-codes.php#RL000003",
            ),
            ("mx2h1.comcast.net", "421 resimta-h1p-032598 192.0.2.7 Too many sessions opened"),
        ],
    },
    Builtin {
        name: "comcast-listed",
        mx: COMCAST,
        codes: &["5*"],
        text: r"\bBL000[01]\d\d\b",
        action: closed(minutes(240)),
        samples: &[(
            "mx1a1.comcast.net",
            "554 resimta-c1p-023412 192.0.2.7 found on one or more DNSBLs, see \
             https://postmaster.comcast.net/smtp-error-codes.php#BL000001",
        )],
    },
    // https://mimecastsupport.zendesk.com, "SMTP Error Codes": this is how it greylists.
    Builtin {
        name: "mimecast-greylisting",
        mx: MIMECAST,
        codes: &["451"],
        text: "internal resources? (is |are )?temporarily unavailable",
        action: Action::RetryAfter(minutes(3)),
        samples: &[(
            "eu-smtp-inbound-1.mimecast.com",
            "451 Internal resource temporarily unavailable - \
             https://community.mimecast.com/docs/DOC-1369#451 [Aj3QXapeMpqZYaeFwWhjzw.us32]",
        )],
    },
    Builtin {
        name: "mimecast-busy",
        mx: MIMECAST,
        codes: &["421"],
        text: "unable to process connection at this time",
        action: slow(Scope::Site, minutes(15)),
        samples: &[(
            "us-smtp-inbound-2.mimecast.com",
            "421 Unable to process connection at this time. [tPj4wS2iNvOZmRrkQyLk3A.us71]",
        )],
    },
    // https://postmaster.t-online.de: unknown addresses are let in by hand.
    Builtin {
        name: "t-online-closed",
        mx: TELEKOM,
        codes: &["554"],
        text: r"^IP=.*(reputation|problem occurred)",
        action: closed(minutes(240)),
        samples: &[
            (
                "mx03.t-online.de",
                "554 IP=192.0.2.7 - None/bad reputation. Ask your postmaster for help or to \
                 contact tobr@rx.t-online.de for reset. (NOWL)",
            ),
            (
                "mx02.t-online.de",
                "554 IP=192.0.2.7 - A problem occurred. (Ask your postmaster for help or to \
                 contact tosa@rx.t-online.de to clarify.) (BL)",
            ),
        ],
    },
    // https://service.mail.qq.com: rates, told as permanent errors.
    Builtin {
        name: "qq-sender-rate",
        mx: TENCENT,
        codes: &["450", "550"],
        text: "(domain|sender) frequency limited",
        action: slow(Scope::SenderDomain, minutes(60)),
        samples: &[
            ("mx1.qq.com", "550 Domain frequency limited http://service.mail.qq.com/"),
            ("mx3.qq.com", "550 Sender frequency limited http://service.mail.qq.com/"),
        ],
    },
    Builtin {
        name: "qq-address-rate",
        mx: TENCENT,
        codes: &["450", "550"],
        text: "(connection|ip) frequency limited",
        action: slow(Scope::Source, minutes(60)),
        samples: &[("mx2.qq.com", "550 Connection frequency limited")],
    },
    // https://help.mail.163.com, table of return codes.
    Builtin {
        name: "netease-address-rate",
        mx: NETEASE,
        codes: &["421", "45*"],
        text: r"\bHL:(ICC|IFC|ITC|REP|MEP)\b",
        action: slow(Scope::Source, minutes(60)),
        samples: &[(
            "163mx01.mxmail.netease.com",
            "421 HL:ITC 163 gzmx17, PsCowAD3_0OlB1Bhzp6BAQ--.12345S2 1632635813",
        )],
    },
    Builtin {
        name: "netease-sender-rate",
        mx: NETEASE,
        codes: &["45*"],
        text: r"\bMI:(SFQ|IMF)\b",
        action: slow(Scope::SenderDomain, minutes(20)),
        samples: &[(
            "126mx00.mxmail.netease.com",
            "451 MI:SFQ 126 mx32, R8mowADHpVwTzXpi_nRbDw--.27418S2 1652215059",
        )],
    },
    Builtin {
        name: "netease-connection-full",
        mx: NETEASE,
        codes: &["45*"],
        text: r"\b(MI:DMC|RP:DRC|RP:ORQ)\b",
        action: Action::RetryAfter(minutes(1)),
        samples: &[(
            "163mx02.mxmail.netease.com",
            "451 MI:DMC 163 mx27, OMCowAC3X5V7yHpiYfZ8Dw--.21507S2 1652213884",
        )],
    },
    Builtin {
        name: "netease-suspect",
        mx: NETEASE,
        codes: &["451"],
        text: r"\bDT:SPM\b",
        action: Action::RetryAfter(minutes(3)),
        samples: &[(
            "163mx01.mxmail.netease.com",
            "451 DT:SPM 163 mx26,please try again 12min later",
        )],
    },
];
