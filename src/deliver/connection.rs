//! stub
use crate::mail::message::MessageHead; use crate::store::Delivery; use bytes::Bytes; use std::sync::Arc;
#[derive(Debug)]
pub struct Transaction { pub head: Arc<MessageHead>, pub body: Bytes, pub deliveries: Vec<Delivery> }
