//! Shapes of merged messages, and what is recognised of them.

use super::*;
use crate::base::random::{Rng, from_seed};
use crate::mail::header::header_len;
use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Body, Message, MultiPart, SinglePart};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_795_394_728_000);

/// Words as people use them: some often, most hardly ever.
const WORDS: &str = "the of and to in is you that it he was for on are as with his they at be this \
    have from or one had by words but not what all were we when your can said there use an each \
    which she do how their if will up other about out many then them these so some her would make \
    like him into time has look two more write go see number no way could people my than first \
    water been call who oil its now find long down day did get come made may part \
    Angebot Rabatt Sommer Schuhe Größe Käufer Bestellung Lieferung Straße Gewinn Neuheiten \
    Kollektion Vorteil Gutschein exklusiv jetzt sichern Winter Jacke Fahrrad Garten Möbel Küche \
    Reise Hotel Urlaub Strand Ticket Konzert Bühne Musik Verein Mitglied Satzung Beitrag Protokoll \
    Sitzung Vorstand Einladung Turnier Mannschaft Spieler Training Verletzung Ärztin Termin Praxis \
    Impfung Rechnung Mahnung Zahlung Konto Vertrag Kündigung Frist Anwalt Gericht Urteil";

fn text(rng: &mut Rng, words: usize) -> String {
    let all: Vec<&str> = WORDS.split_whitespace().collect();
    let word = || all[(rng.f64() * rng.f64() * all.len() as f64) as usize];
    std::iter::repeat_with(word).take(words).collect::<Vec<_>>().join(" ")
}

fn letters(rng: &mut Rng, count: usize) -> String {
    std::iter::repeat_with(|| rng.alphabetic()).take(count).collect()
}

/// What is the same in all messages of a mailing.
#[derive(Clone, Debug)]
struct Template {
    subject: String,
    paragraphs: Vec<String>,
    encoding: ContentTransferEncoding,
    html: bool,
}

impl Template {
    fn new(seed: u64, encoding: ContentTransferEncoding, html: bool) -> Self {
        let mut rng = from_seed(seed);
        let (subject, count) = (text(&mut rng, 5), rng.usize(3..9));
        let paragraphs = std::iter::repeat_with(|| {
            let words = rng.usize(10..60);
            text(&mut rng, words)
        });
        Self { subject, paragraphs: paragraphs.take(count).collect(), encoding, html }
    }

    /// A message of it for somebody: name, number, voucher and links are his own.
    fn message(&self, rng: &mut Rng) -> Vec<u8> {
        let name = format!("{} {}", letters(rng, 6), letters(rng, 9));
        let link = format!("https://news.example/c/{}?u={}", letters(rng, 30), rng.u32(..));
        let greeting = format!("Dear {name}, your number is {}.", rng.u32(..));
        let end = format!("Your code {}-{}. Leave: {link}", letters(rng, 3), rng.u32(1_000..));
        let mut lines = vec![greeting];
        lines.extend(self.paragraphs.clone());
        lines.push(end);
        let (encoding, plain) = (self.encoding, lines.join("\r\n\r\n"));
        let part = |text: String, media: ContentType| {
            let body = Body::new_with_encoding(text, encoding).unwrap();
            SinglePart::builder().header(media).body(body)
        };
        let builder = Message::builder()
            .from("Shop <news@shop.example>".parse().unwrap())
            .to(format!("{}@example.com", letters(rng, 8)).parse().unwrap())
            .subject(format!("{name}: {} №{}", self.subject, rng.u32(..)));
        let message = if self.html {
            let row = |line: &String| {
                format!("<tr><td style=\"{link}\"><a href='{link}'>{line}</a></td></tr>\r\n")
            };
            let rows: String = lines.iter().map(row).collect();
            let html = format!(
                "<html><head><STYLE>td {{ {} }}</STYLE></head><!-- {link} --><table>{rows}</table>",
                letters(rng, 500)
            );
            let alternative = MultiPart::alternative()
                .singlepart(part("Please look at the other part.".into(), ContentType::TEXT_PLAIN))
                .singlepart(part(html, ContentType::TEXT_HTML));
            builder.multipart(MultiPart::mixed().multipart(alternative))
        } else {
            builder.singlepart(part(plain, ContentType::TEXT_PLAIN))
        };
        message.unwrap().formatted()
    }

    fn shape(&self, rng: &mut Rng) -> Shape {
        let message = self.message(rng);
        let (header, body) = message.split_at(header_len(&message));
        shape::of(header, body, "news@shop.example")
    }
}

fn encodings() -> impl Strategy<Value = ContentTransferEncoding> {
    prop_oneof![
        Just(ContentTransferEncoding::Binary),
        Just(ContentTransferEncoding::QuotedPrintable),
        Just(ContentTransferEncoding::Base64),
    ]
}

proptest! {
    #[test]
    fn prop_merged_messages_are_alike_and_other_texts_are_not(
        seed: u64, encoding in encodings(), html: bool,
    ) {
        let mut rng = from_seed(seed);
        let template = Template::new(seed, encoding, html);
        let other = Template::new(!seed, encoding, html);
        let first = template.shape(&mut rng);
        for _ in 0..10 {
            prop_assert!(first.is_like(&template.shape(&mut rng)), "{template:?}");
            prop_assert!(!first.is_like(&other.shape(&mut rng)), "{template:?} {other:?}");
        }
    }

    #[test]
    fn prop_any_bytes_have_a_shape(header: Vec<u8>, body: Vec<u8>, sender: String) {
        let shape = shape::of(&header, &body, &sender);
        prop_assert!(shape.is_like(&shape));
    }
}

fn plain(subject: &str, body: &str) -> Shape {
    shape::of(format!("Subject: {subject}\r\n\r\n").as_bytes(), body.as_bytes(), "a@shop.example")
}

#[test]
fn what_is_alike() {
    let voucher = |name: &str, code: &str| {
        let body = format!(
            "Dear {name},\r\n\r\nyour voucher {code} worth 10 EUR waits for you at\r\n\
             https://shop.example/{code} until Sunday.\r\n\r\nYour shop team\r\n"
        );
        plain(&format!("{name}, your voucher"), &body)
    };
    let ann = voucher("Ann Miller", "ZX-19-abc");
    assert!(ann.is_like(&voucher("Bob van den Berg", "7781")));
    assert_eq!(ann.subject, "Ann Miller, your voucher");
    let reset = "Dear Ann Miller,\r\n\r\nsomebody, hopefully you, asked for a new password. Set \
                 it here:\r\nhttps://shop.example/r?t=1\r\n\r\nYour shop team\r\n";
    assert!(!ann.is_like(&plain("Your password", reset)), "what opens and ends it is the same");

    let chinese = |name: &str, n: u32| {
        plain(
            &format!("{name},您的优惠"),
            &format!("尊敬的{name},您的订单{n}已经发货,请注意查收。"),
        )
    };
    assert!(chinese("王伟", 1).is_like(&chinese("李娜", 23)));
    let other = plain("会议通知", "各位同事,明天上午九点在会议室召开项目例会,请准时参加。");
    assert!(!chinese("王伟", 1).is_like(&other));
}

#[test]
fn another_sender_or_media_type_is_another_shape() {
    let of = |header: &str, sender: &str| {
        shape::of(format!("Subject: Hello there\r\n{header}\r\n").as_bytes(), b"Hello\r\n", sender)
    };
    let one = of("", "a@one.example");
    assert!(one.is_like(&of("Content-Type: TEXT/plain; charset=utf-8\r\n", "b@ONE.example")));
    assert!(!one.is_like(&of("", "a@two.example")));
    assert!(!one.is_like(&of("", "")));
    assert!(!one.is_like(&of("Content-Type: text/html\r\n", "a@one.example")));
}

#[test]
fn a_subject_is_decoded_and_safe_to_print() {
    let shape = plain("=?utf-8?q?Gr=C3=B6=C3=9Fe_=1B[2J?=", "");
    assert_eq!(shape.subject, "Größe \\x1b[2J");
    assert!(plain(&"x".repeat(500), "").subject.chars().count() <= 61);
}

/// Some shape for each number, none like another.
fn numbered(n: u64) -> Shape {
    let mut rng = from_seed(n);
    plain("News", &text(&mut rng, 200))
}

/// So many recipients that nobody else has.
fn people(count: u32, start: u32) -> Vec<String> {
    (start..start + count).map(|n| format!("{n}@example.com")).collect()
}

fn look(sense: &mut Sense, shape: &Shape, to: &[String], now: Timestamp) -> Option<Sensed> {
    sense.look("c1", shape.clone(), to.iter().map(String::as_str), now)
}

fn seconds(n: u64) -> Timestamp {
    NOW.after(Duration::from_secs(n))
}

#[test]
fn a_burst_is_a_newsletter_until_it_is_quiet() {
    let mut sense = Sense::new(SenseRules::default());
    let (news, other) = (numbered(1), numbered(2));
    for n in 0..49 {
        assert_eq!(look(&mut sense, &news, &people(1, n), seconds(u64::from(n))), None);
    }
    let sensed = look(&mut sense, &news, &people(14, 100), seconds(60)).unwrap();
    assert_eq!(
        sensed.to_string(),
        "looks like a newsletter: 63 recipients of alike messages in 5m"
    );
    assert_eq!(look(&mut sense, &other, &people(1, 0), seconds(61)), None, "another text");
    let [_, status] = sense.explain("c1", seconds(61)).try_into().unwrap();
    assert_eq!((status.recipients, status.threshold, status.daily), (63, 50, None));
    assert_eq!((status.subject.as_str(), status.sensed), ("News", Some(sensed.clone())));
    // What trickles in later is one of it, until the quiet time is over.
    let late = look(&mut sense, &news, &people(1, 200), seconds(600)).unwrap();
    assert_eq!(late, sensed);
    assert_eq!(sense.explain("c1", seconds(959))[0].sensed, Some(sensed));
    assert_eq!(sense.explain("c1", seconds(960))[0].sensed, None);
    assert_eq!(look(&mut sense, &news, &people(1, 201), seconds(960)), None);
    assert!(sense.explain("c2", seconds(960)).is_empty());
}

#[test]
fn a_slow_mailing_stays_one_at_half_the_rate() {
    let mut sense = Sense::new(SenseRules::default());
    assert!(look(&mut sense, &numbered(1), &people(50, 0), NOW).is_some());
    for n in 1..1_000 {
        let to = people(30, n * 100);
        assert!(
            look(&mut sense, &numbered(1), &to, seconds(u64::from(n) * 300)).is_some() == (n < 290)
        );
    }
}

#[test]
fn alarms_for_a_few_are_none() {
    let mut sense = Sense::new(SenseRules::default());
    for n in 0..5_000 {
        let to = people(1, n % 8);
        assert_eq!(look(&mut sense, &numbered(1), &to, seconds(u64::from(n) / 10)), None);
    }
}

/// Order confirmations of a day, so many a minute in the evening, hardly any at night; how many of
/// them were taken for a newsletter's.
fn day_of_orders(sense: &mut Sense, day: u64, evening: f64, rng: &mut Rng) -> usize {
    let confirmation = numbered(1);
    let minutes = (0..1_440u64).map(|minute| {
        let wave = (f64::from(minute as u32) / 1_440.0 * std::f64::consts::TAU).cos();
        let mean = evening * (1.0 - wave) / 2.0;
        let orders = (mean * 2.0 * rng.f64()).round() as u32;
        let now = seconds((day * 1_440 + minute) * 60);
        let mut look =
            |_| look(sense, &confirmation, &people(1, rng.u32(..1 << 31)), now).is_some();
        (0..orders).filter(|n| look(*n)).count()
    });
    minutes.sum()
}

#[test]
fn what_a_shop_sends_every_day_is_usual() {
    let mut rng = from_seed(4);
    let mut small = Sense::new(SenseRules::default());
    assert_eq!((0..3).map(|day| day_of_orders(&mut small, day, 4.0, &mut rng)).sum::<usize>(), 0);
    let mut busy = Sense::new(SenseRules::default());
    assert!(day_of_orders(&mut busy, 0, 30.0, &mut rng) > 0, "nothing is known of it yet");
    for day in 1..5 {
        assert_eq!(day_of_orders(&mut busy, day, 30.0, &mut rng), 0, "day {day}");
        // It is kept over a restart.
        let text = serde_json::to_string(&busy.lasting()).unwrap();
        busy = serde_json::from_str(&text).unwrap();
        assert_eq!(busy.explain("c1", seconds(day * 86_400)).len(), 1);
    }
    let burst = people(2_000, 0);
    assert!(look(&mut busy, &numbered(1), &burst, seconds(5 * 86_400)).is_some());
    assert!(small.lasting().explain("c1", seconds(3 * 86_400)).is_empty(), "nothing to keep");
}

#[test]
fn new_rules_hold_at_once() {
    let mut sense = Sense::new(SenseRules::default());
    assert_eq!(look(&mut sense, &numbered(1), &people(40, 0), NOW), None);
    sense.retune(SenseRules { recipients: 41, ..SenseRules::default() });
    assert!(look(&mut sense, &numbered(1), &people(1, 90), NOW).is_some());
    let within = Duration::from_secs(60);
    sense.retune(SenseRules { recipients: 41, within, ..SenseRules::default() });
    assert_eq!(sense.explain("c1", NOW)[0].recipients, 0, "counted for another window");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn prop_below_the_threshold_nothing(
        messages in proptest::collection::vec((0u64..30, 0u64..3, 0u32..20), 1..150),
    ) {
        let rules = SenseRules { recipients: 40, ..SenseRules::default() };
        let mut sense = Sense::new(rules);
        let shapes: Vec<Shape> = (0..3).map(numbered).collect();
        let mut sent: Vec<(Timestamp, u64, u32)> = Vec::new();
        let (mut at, mut start, mut fullest) = (0, 0, [0; 3]);
        for (pause, kind, count) in messages {
            (at, start) = (at + pause, start + 100);
            let now = seconds(at);
            sent.push((now, kind, count));
            let lately = |within: Duration| -> u32 {
                let inside = sent.iter().filter(|m| m.1 == kind && now.since(m.0) < within);
                inside.map(|m| m.2).sum()
            };
            let most = &mut fullest[kind as usize];
            *most = lately(rules.within).max(*most);
            let sensed = look(&mut sense, &shapes[kind as usize], &people(count, start), now);
            prop_assert!(sensed.is_none() || *most >= 40);
            prop_assert!(sensed.is_some() || lately(rules.within * 9 / 10) < 40);
        }
    }

    #[test]
    fn prop_a_burst_always(seed: u64, threshold in 2u32..500, apart in 0u64..500, each in 1u32..5) {
        let rules = SenseRules { recipients: threshold, ..SenseRules::default() };
        let mut sense = Sense::new(rules);
        let mut rng = from_seed(seed);
        let template = Template::new(seed, ContentTransferEncoding::QuotedPrintable, true);
        let count = threshold.div_ceil(each);
        let mut now = NOW;
        let looks = (0..count).map(|n| {
            now = now.after(Duration::from_millis(apart));
            look(&mut sense, &template.shape(&mut rng), &people(each, n * each), now).is_some()
        });
        prop_assert_eq!(looks.filter(|sensed| *sensed).count(), 1, "the last");
    }

    #[test]
    fn prop_memory_is_bounded(seed: u64) {
        let (mut sense, mut rng) = (Sense::default(), from_seed(seed));
        let mut now = NOW;
        for n in 0..4_000u32 {
            now = Timestamp(now.0 + rng.i64(-1_000..100_000));
            let tenant = format!("{}", rng.u32(..4) * n);
            let subject = letters(&mut rng, 20);
            let shape = plain(&subject, &subject);
            sense.look(&tenant, shape, ["a@example.com"], now);
        }
        prop_assert!(sense.tenants.len() <= TENANTS);
        prop_assert!(sense.tenants.values_mut().all(|templates| templates.len() <= TEMPLATES));
        prop_assert_eq!(sense.explain("0", now).len(), TEMPLATES);
    }
}
