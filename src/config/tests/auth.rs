//! Users who log in: defaults, values, and mistakes.

use super::*;
use crate::policy::guard::Terms;

#[test]
fn nobody_logs_in_without_tls_and_guesses_are_few() {
    let auth = read("").auth;
    let rate = |count, per| Some(Rate { count, per: secs(per) });
    let (failures, user_failures) = (rate(10, 600), rate(50, 3_600));
    assert_eq!(auth.guard, Terms { failures, user_failures, block: secs(900) });
    assert_eq!((auth.plain_text, auth.delay), (PlainText::Never, secs(1)));
    assert_eq!((auth.file.as_path(), auth.users.is_empty()), (Path::new("/etc/b/users"), true));
}

#[test]
fn all_of_it_is_read_and_follows_while_the_node_runs() {
    let text = "[auth]\nusers = \"/srv/people\"\nplain_text = \"relay\"\nfailures = \"3/h\"\n\
                user_failures = \"none\"\nblock = \"1m\"\ndelay = \"0s\"";
    let config = read(text);
    let auth = &config.auth;
    assert_eq!(
        (auth.file.as_path(), auth.plain_text),
        (Path::new("/srv/people"), PlainText::Relay)
    );
    assert_eq!(auth.guard.failures, Some(Rate { count: 3, per: secs(3_600) }));
    assert_eq!((auth.guard.user_failures, auth.guard.block), (None, secs(60)));
    assert_eq!(auth.delay, Duration::ZERO);
    assert_eq!(read("").fixed_differences(&config), Vec::<&str>::new());
}

#[test]
fn mistakes_are_named() {
    check(
        "[auth]\nplain_text = \"always\"\nfailures = \"10\"\nblock = \"2d\"\nusers = \"\"",
        &[
            "2:14: [auth] plain_text = \"always\": must be \"never\" or \"relay\"",
            "3:12: [auth] failures: \"10\" is not a number of failures within a time; write 1 to \
             10000 within \"1s\" to \"1d\" as \"10/10m\" or \"50/1h\", or \"none\"",
            "4:9: [auth] block = \"2d\": must be \"1s\" to \"1d\"",
            "5:9: [auth] users: \"\" is not a path",
        ],
    );
}
