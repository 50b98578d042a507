//! stub
use super::reply::{EnhancedCode, Reply};
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage { Connect, Greeting, Ehlo, Tls, Mail, Rcpt, Data, Body, Dot }
impl Stage { pub fn as_str(self) -> &'static str { "x" } }
#[derive(Clone, Debug)]
pub enum Attempt { Reply { stage: Stage, reply: Reply }, Lost { stage: Stage, error: String, in_doubt: bool }, Unable { code: EnhancedCode, text: String }, NotStarted }
